import logging

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class SandboxConfig(AppConfig):
    name = "django_leadexec.sandbox"
    label = "leadexec_sandbox"
    verbose_name: str = "LeadExec sandbox"
    default_auto_field: str = "django.db.models.BigAutoField"

    debug_at_start: bool = False

    def ready(self) -> None:
        from .checks import check_sandbox
        from .logs import LOGGERS, mask_tokens

        # Test runners switch DEBUG off and then run the checks. What was configured counts there.
        self.debug_at_start = settings.DEBUG
        checks.register(check_sandbox, "leadexec_sandbox")
        for name in LOGGERS:
            logging.getLogger(name).addFilter(mask_tokens)
