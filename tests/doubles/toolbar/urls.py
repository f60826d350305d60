from debug_toolbar.toolbar import debug_toolbar_urls
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_leadexec.models import LeadExecConnection


def token(request: HttpRequest) -> HttpResponse:
    row = LeadExecConnection.objects.get(fingerprint__isnull=False, user__username="ada")
    return HttpResponse(f"<html><body>{row.get_access_token()}</body></html>")


urlpatterns = [path("token/", token), path("admin/", admin.site.urls), *debug_toolbar_urls()]
