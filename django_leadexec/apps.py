from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.utils.translation import gettext_lazy as _


class DjangoLeadExecConfig(AppConfig):
    name = "django_leadexec"
    verbose_name = _("LeadExec")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_out

        from . import client, conf, returning
        from .checks import check_configuration, check_deployment, check_stored_tokens

        conf.debug_at_start = settings.DEBUG
        checks.register(check_configuration)
        checks.register(check_stored_tokens, checks.Tags.database)
        checks.register(check_deployment, deploy=True)
        client.silence_request_lines()
        user_logged_out.connect(
            returning.end_automatic_return, dispatch_uid="leadexec_end_automatic_return"
        )
