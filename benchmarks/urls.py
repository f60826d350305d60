from django.urls import include, path

urlpatterns = [path("leadexec/", include("django_leadexec.urls"))]
