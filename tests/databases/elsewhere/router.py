from typing import Any

from django.db.models import Model


class Router:
    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return "replica" if model._meta.app_label == "django_leadexec" else "site"

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return "site"

    def allow_relation(self, *rows: Model, **hints: Any) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "site"
