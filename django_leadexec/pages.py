"""The package's own templates, whatever the site's template engines are."""

from typing import Any

from django.forms.renderers import DjangoTemplates
from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist
from django.template.loader import get_template

# As for Django's forms: an engine apart from the site's, which knows the templates of all apps.
_own = DjangoTemplates()


def find_template(name: str) -> Any:
    """The site's, if one of its engines finds it; a site of Jinja2 alone has none for ours."""
    try:
        return get_template(name)
    except TemplateDoesNotExist:
        return _own.get_template(name)


def render(
    request: HttpRequest,
    name: str,
    context: dict[str, Any] | None = None,
    status: int | None = None,
) -> HttpResponse:
    """A page made from a template that ``find_template`` finds."""
    return HttpResponse(find_template(name).render(context, request), status=status)
