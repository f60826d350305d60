from django.urls import URLPattern, path

from . import views

app_name = "leadexec"
urlpatterns: list[URLPattern] = [
    path("callback/", views.callback, name="callback"),
    path("disconnect/", views.disconnect, name="disconnect"),
    path("confirm/", views.confirm, name="confirm"),
    path("connect/", views.connect, name="connect"),
    path("state/", views.state, name="state"),
]
