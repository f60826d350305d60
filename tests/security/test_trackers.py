"""No error tracker gets a posted token, with all that a site can switch on in it."""

import json

import pytest

from ..needs import import_or_skip
from ..processes import run_scenario

# In memory, whatever database the other tests are on.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]


@pytest.mark.parametrize("tracker", ["sentry_sdk", "rollbar", "elasticapm", "honeybadger"])
def test_no_report_of_an_error_holds_the_token(tracker: str) -> None:
    import_or_skip(tracker)
    results = json.loads(run_scenario("tests.security.tracked", LEADEXEC_TEST_TRACKER=tracker))
    assert [result for result in results if result[4]] == []
    statuses = {(case, status) for case, _, status, _, _ in results}
    assert {("identify", 500), ("expired CSRF", 403), ("statement 1", 500)} <= statuses
    reported = {case for case, _, _, reports, _ in results if reports}
    assert {"identify", "identify, body read", "expired CSRF", "statement 5"} <= reported
