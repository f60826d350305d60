from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.utils.translation import gettext_lazy as _


class DjangoLeadExecConfig(AppConfig):
    name = "django_leadexec"
    verbose_name: Any = _("LeadExec")
    default_auto_field: str = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_out

        from . import conf, returning
        from .checks import (
            check_configuration,
            check_deployment,
            check_stored_tokens,
            check_surroundings,
        )
        from .provider.transport import silence_request_lines

        conf.debug_at_start = settings.DEBUG
        checks.register(check_configuration)
        checks.register(check_surroundings)
        checks.register(check_stored_tokens, checks.Tags.database)
        checks.register(check_deployment, deploy=True)
        silence_request_lines()
        user_logged_out.connect(
            returning.end_automatic_return, dispatch_uid="leadexec_end_automatic_return"
        )
