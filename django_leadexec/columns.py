"""Django's field classes, for models whose attributes say themselves what they hold.

Only mypy, with the plugin of django-stubs, finds that out from ``models.CharField()``. Other type
checkers, and other stubs of Django, do not. So each attribute has the type of its value, and these
classes have none::

    app_id: str = columns.CharField(max_length=100)
"""

from typing import Any

from django.db import models

columns: Any = models
