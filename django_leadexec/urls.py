from django.urls import path

from . import views

app_name = "leadexec"
urlpatterns = [
    path("callback/", views.callback, name="callback"),
    path("disconnect/", views.disconnect, name="disconnect"),
    path("confirm/", views.confirm, name="confirm"),
    path("connect/", views.connect, name="connect"),
]
