"""URLs of the site that stands under load."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from django_leadexec.lifecycle import usable_connection


def page(request: HttpRequest) -> HttpResponse:
    row = usable_connection(request.user)
    return HttpResponse(row.get_access_token() if row else "", content_type="text/plain")


urlpatterns = [
    path("page/", page),
    path("leadexec/", include("django_leadexec.urls")),
]
