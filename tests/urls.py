from django.contrib import admin
from django.urls import include, path
from django.views.generic import TemplateView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("django.contrib.auth.urls")),
    path("leadexec/", include("django_leadexec.urls")),
    path("sandbox/", include("django_leadexec.sandbox.urls")),
    path("page/", TemplateView.as_view(template_name="page.html"), name="page"),
]
