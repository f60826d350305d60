"""The site's pages below a prefix for the visitor's language."""

from django.conf.urls.i18n import i18n_patterns

from .urls import urlpatterns as pages

urlpatterns = i18n_patterns(*pages)
