"""Operations of django-ninja, sync and async. Its annotations are texts here."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from ninja import NinjaAPI, Schema
from ninja.security import HttpBearer, django_auth

from django_leadexec.decorators import leadexec_required
from django_leadexec.exceptions import AuthorizationRejected


class NameBearer(HttpBearer):
    """``Authorization: Bearer NAME``."""

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        return get_user_model().objects.filter(username=token).first()


class Question(Schema):
    page: int = 1


api = NinjaAPI(urls_namespace="api-of-a-test")


def answer(request: Any, page: int) -> dict[str, int]:
    if page == 0:
        raise AuthorizationRejected("no")
    return {"connection": request.leadexec_connection.pk, "page": page}


@api.get("/sync", response=dict[str, int])
@leadexec_required
def sync(request: HttpRequest, page: int = 1) -> Any:
    return answer(request, page)


@api.get("/async", response=dict[str, int])
@leadexec_required
async def asynchronous(request: HttpRequest, page: int = 1) -> Any:
    return answer(request, page)


@api.post("/body", response=dict[str, int])
@leadexec_required
def body(request: HttpRequest, question: Question) -> Any:
    return answer(request, question.page)


@api.get("/bearer", auth=NameBearer(), response=dict[str, int])
@leadexec_required
def bearer(request: HttpRequest, page: int = 1) -> Any:
    return answer(request, page)


@api.get("/session", auth=django_auth, response=dict[str, int])
@leadexec_required
def session(request: HttpRequest, page: int = 1) -> Any:
    return answer(request, page)
