"""On which database tokens are decided about."""

from django.db import router

from .models import LeadExecConnection


def database_of(connection: LeadExecConnection | None = None) -> str:
    """The alias of the primary database. A replica that lags behind never decides about tokens."""
    alias: str = router.db_for_write(LeadExecConnection, instance=connection)
    return alias
