import logging
import re

# Those that write the path of a request: the development server, 4xx and 5xx answers, CSRF.
LOGGERS = ("django.server", "django.request", "django.security.csrf")

# To the end of the path, whatever is in it: a decoded token may hold "?" or a space.
_TOKEN = re.compile(
    r"((?:refreshaccesstoken|disconnectapplicationtoken)/).+?(?= HTTP/\d|\Z)", re.I | re.S
)


def _mask(value: object) -> object:
    return _TOKEN.sub(r"\1***", value) if isinstance(value, str) else value


def mask_tokens(record: logging.LogRecord) -> bool:
    """A logging filter that lets every record pass, without the token in its path."""
    record.msg = _mask(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_mask(arg) for arg in record.args)
    return True
