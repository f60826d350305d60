"""A site on SQLite with django-debug-toolbar."""
