from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import TemplateView

from . import allauth, guide
from .settings import NEIGHBOUR

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("page/", TemplateView.as_view(template_name="page.html"), name="page"),
]
if NEIGHBOUR == "allauth":
    exec(guide.part("urls.py"))  # noqa: S102 - that is the test
    urlpatterns += [path("landing/", allauth.landing, name="landing")]
else:
    urlpatterns += [
        path("accounts/", include("django.contrib.auth.urls")),
        path("leadexec/", include("django_leadexec.urls")),
    ]
if NEIGHBOUR == "authtoken":
    from rest_framework.authtoken.views import obtain_auth_token

    from .authtoken import token_of_caller

    urlpatterns += [
        path("api/", token_of_caller, name="api"),
        path("api/token/", obtain_auth_token, name="api-token"),
    ]
if NEIGHBOUR == "hijack":
    urlpatterns += [path("hijack/", include("hijack.urls"))]
if NEIGHBOUR == "wagtail":
    urlpatterns += [path("cms/", include("wagtail.admin.urls")), path("", include("wagtail.urls"))]
