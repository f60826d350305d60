"""What the script says, in languages with other forms of a number and in those read leftwards."""

from pathlib import Path

import pytest
from django.utils import translation

import django_leadexec
from django_leadexec.button import throttled_text, throttled_texts

from .conftest import Site


@pytest.mark.parametrize(
    ("language", "seconds", "expected"),
    [
        ("en", 1, "in 1 second."),
        ("en", 2, "in 2 seconds."),
        ("fr", 1, "dans 1 seconde."),
        ("pl", 1, "za 1 sekundę."),
        ("pl", 3, "za 3 sekundy."),
        ("pl", 5, "za 5 sekund."),
        ("pl", 22, "za 22 sekundy."),
        ("ar", 1, "بعد ثانية واحدة."),
        ("ar", 2, "بعد ثانيتين."),
        ("ar", 7, "7 ثوانٍ."),
        ("ar", 50, "50 ثانية."),
        ("ja", 1, "1 秒後"),
        ("zh-hans", 40, "40 秒后"),
        ("sv", 1, "in 1 second."),
    ],
)
def test_a_number_takes_the_form_of_the_language(
    site: Site, language: str, seconds: int, expected: str
) -> None:
    site.answer({}, status=429, headers={"Retry-After": str(seconds)})
    with translation.override(language):
        site.open()
    site.click()
    site.says("alert", expected)


LOCALES = sorted(path.name for path in Path(django_leadexec.__file__).parent.glob("locale/*"))


@pytest.mark.parametrize("locale", LOCALES)
def test_the_browser_and_the_catalogue_agree_about_every_number(site: Site, locale: str) -> None:
    language = translation.to_language(locale)
    select = "(rules) => Array.from({ length: 1001 }, (_, number) => rules.select(number))"
    forms = site.page.evaluate(f"({select})(new Intl.PluralRules('{language}'))")
    with translation.override(language):
        texts = throttled_texts()
        for number, form in enumerate(forms):
            said = texts.get(f"throttled-{form}", texts["throttled-other"])
            assert said == throttled_text(number), (number, form)


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("language", ["ar", "he", "de", "ja"])
def test_what_is_said_fits_and_reads_in_its_own_direction(
    site: Site, language: str, width: int
) -> None:
    site.page.set_viewport_size({"width": width, "height": 700})
    site.answer({}, status=429, headers={"Retry-After": "7"})
    with translation.override(language):
        site.open()
    site.page.evaluate("document.documentElement.lang = 'en'")
    site.click()
    alert = site.says("alert", "7")
    direction = alert.evaluate("(element) => getComputedStyle(element).direction")
    assert direction == ("rtl" if language in ("ar", "he") else "ltr")
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert site.page.evaluate(overflow) <= 0
