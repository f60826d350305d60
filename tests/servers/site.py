"""Pages that show the visitor's own access token."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_leadexec.decorators import leadexec_required
from django_leadexec.models import LeadExecConnection


class PageRequest(HttpRequest):
    leadexec_connection: LeadExecConnection


@leadexec_required
def page(request: PageRequest) -> HttpResponse:
    return HttpResponse(request.leadexec_connection.get_access_token())


@leadexec_required
async def async_page(request: PageRequest) -> HttpResponse:
    return HttpResponse(await request.leadexec_connection.aget_access_token())


urlpatterns = [path("page/", page), path("async/", async_page)]
