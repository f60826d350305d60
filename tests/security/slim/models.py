from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class User(AbstractBaseUser):
    """As little as Django asks of a user: no name, no staff, no permissions, no e-mail."""

    id = models.UUIDField(primary_key=True)
    handle = models.CharField(max_length=40, unique=True)

    USERNAME_FIELD = "handle"

    objects: ClassVar[BaseUserManager["User"]] = BaseUserManager()  # type: ignore[assignment]

    class Meta:
        app_label = "slim"
