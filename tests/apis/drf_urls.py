"""Views of Django REST framework, with users who show a token of the site's own."""

from typing import Any

from django.contrib.auth import get_user_model
from django.urls import path
from django.utils.decorators import method_decorator
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.decorators import api_view, authentication_classes
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from django_leadexec.decorators import leadexec_required
from django_leadexec.exceptions import AuthorizationRejected


class NameAuthentication(BaseAuthentication):
    """``Authorization: Token NAME``."""

    def authenticate(self, request: Request) -> Any:
        name = request.headers.get("Authorization", "").removeprefix("Token ")
        if not name:
            return None
        user = get_user_model().objects.filter(username=name).first()
        if user is None:
            raise AuthenticationFailed("Nobody has this token.")
        return user, name

    def authenticate_header(self, request: Request) -> str:
        return "Token"


WAYS_IN = [NameAuthentication, SessionAuthentication]


def answer(request: Any) -> Response:
    if "refuse" in request.query_params:
        raise AuthorizationRejected("no")
    return Response({"connection": request.leadexec_connection.pk})


@api_view(["GET", "POST"])
@authentication_classes(WAYS_IN)
@leadexec_required
def function(request: Request) -> Response:
    return answer(request)


class ByMethod(APIView):
    authentication_classes = WAYS_IN

    @method_decorator(leadexec_required)
    def get(self, request: Request) -> Response:
        return answer(request)


@method_decorator(leadexec_required, name="list")
class BySet(ViewSet):
    authentication_classes = WAYS_IN

    def list(self, request: Request) -> Response:
        return answer(request)


@method_decorator(leadexec_required, name="dispatch")
class ByDispatch(APIView):
    """Above the API: the user of the session counts, as nobody else is known yet."""

    def get(self, request: Request) -> Response:
        return answer(request)


urlpatterns = [
    path("function/", function),
    path("method/", ByMethod.as_view()),
    path("set/", BySet.as_view({"get": "list"})),
    path("dispatch/", ByDispatch.as_view()),
    path("above/", leadexec_required(api_view(["GET"])(answer))),
]
