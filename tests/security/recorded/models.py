from django_leadexec.models import LeadExecConnection, PendingRevocation

from .settings import TOOL

if TOOL == "simple_history":
    import simple_history

    for model in (LeadExecConnection, PendingRevocation):
        simple_history.register(model, app="tests.security.recorded")
