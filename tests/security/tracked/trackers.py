"""The real clients of error trackers. What they would send is kept in ``sent``."""

import json
import logging
from types import SimpleNamespace
from typing import Any

sent: list[str] = []


def start_sentry() -> None:
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.transport import Transport

    class SentryTransport(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            sent.extend(item.payload.get_bytes().decode() for item in envelope.items)

    sentry_sdk.init(
        dsn="https://key@sentry.test/1",
        transport=SentryTransport,
        integrations=[DjangoIntegration(), LoggingIntegration(event_level=logging.WARNING)],
        send_default_pii=True,
        max_request_body_size="always",
        include_local_variables=True,
        attach_stacktrace=True,
        max_value_length=100_000,
        traces_sample_rate=1.0,
    )


def start_rollbar() -> None:
    import rollbar
    from rollbar.logger import RollbarHandler

    def send(payload: str, access_token: str) -> None:
        sent.append(payload)

    rollbar._send_payload = send
    _log_to(RollbarHandler())


def start_honeybadger() -> None:
    from honeybadger import connection
    from honeybadger.contrib.logger import HoneybadgerHandler

    def urlopen(request: Any) -> Any:
        sent.append(request.data.decode())
        return SimpleNamespace(getcode=lambda: 201)

    connection.request = SimpleNamespace(Request=connection.request.Request, urlopen=urlopen)
    _log_to(HoneybadgerHandler("key"))


def start_elasticapm() -> None:
    from elasticapm.contrib.django.handlers import LoggingHandler

    _log_to(LoggingHandler())


def ElasticTransport(*args: Any, **options: Any) -> Any:  # noqa: N802 # named as a class
    from elasticapm.transport.base import Transport

    class Local(Transport):
        def start_thread(self, pid: int | None = None) -> None:
            pass

        def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
            sent.append(json.dumps(self._process_event(event_type, data), default=str))

    return Local(*args, **options)


def _log_to(handler: logging.Handler) -> None:
    handler.setLevel(logging.WARNING)
    logging.getLogger("django_leadexec").addHandler(handler)
