import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models.functions import Length
from django.db.models.lookups import Exact

import django_leadexec.fields


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="PendingRevocation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("lease_id", models.CharField(default="", editable=False, max_length=32)),
                ("lease_until", models.BigIntegerField(default=0, editable=False)),
                ("connection_key", models.BigIntegerField(editable=False)),
                ("app_id", models.CharField(max_length=100, verbose_name="application ID")),
                ("refresh_token", django_leadexec.fields.EncryptedTextField(editable=False)),
                ("fingerprint", models.CharField(editable=False, max_length=64)),
                ("batch", models.CharField(editable=False, max_length=32)),
                ("requested_at", models.DateTimeField(verbose_name="requested")),
                ("retry_after", models.DateTimeField(db_index=True, verbose_name="next try")),
                ("attempts", models.PositiveIntegerField(default=0, verbose_name="attempts")),
                (
                    "last_error",
                    models.CharField(
                        blank=True, default="", max_length=255, verbose_name="last error"
                    ),
                ),
            ],
            options={
                "verbose_name": "pending revocation",
                "verbose_name_plural": "pending revocations",
                "permissions": [("release_pendingrevocation", "Can let go of pending revocations")],
                "indexes": [
                    models.Index(fields=["connection_key"], name="leadexec_outbox_connection"),
                    models.Index(fields=["fingerprint"], name="leadexec_outbox_token"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("fingerprint", ""), _negated=True),
                        name="leadexec_outbox_entry_has_fingerprint",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="LeadExecConnection",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("lease_id", models.CharField(default="", editable=False, max_length=32)),
                ("lease_until", models.BigIntegerField(default=0, editable=False)),
                (
                    "app_id",
                    models.CharField(editable=False, max_length=100, verbose_name="application ID"),
                ),
                (
                    "account_id",
                    models.CharField(
                        blank=True,
                        default="",
                        editable=False,
                        max_length=255,
                        verbose_name="LeadExec account",
                    ),
                ),
                ("identity", models.CharField(editable=False, max_length=64, null=True)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("active", "active"),
                            ("rejected", "rejected"),
                            ("revoked", "revoked"),
                        ],
                        default="active",
                        editable=False,
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("refresh_token", django_leadexec.fields.EncryptedTextField(editable=False)),
                ("access_token", django_leadexec.fields.EncryptedTextField(editable=False)),
                ("fingerprint", models.CharField(editable=False, max_length=64, null=True)),
                ("version", models.PositiveBigIntegerField(default=1, editable=False)),
                (
                    "expires_at",
                    models.DateTimeField(
                        editable=False, null=True, verbose_name="access token expires"
                    ),
                ),
                (
                    "refresh_after",
                    models.DateTimeField(editable=False, null=True, verbose_name="next refresh"),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "refreshed_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="last refresh"),
                ),
                (
                    "revoked_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="revoked"),
                ),
                (
                    "rejected_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="rejected since"),
                ),
                (
                    "attempts",
                    models.PositiveIntegerField(
                        default=0, editable=False, verbose_name="failures in a row"
                    ),
                ),
                (
                    "last_error",
                    models.CharField(
                        blank=True,
                        default="",
                        editable=False,
                        max_length=255,
                        verbose_name="last error",
                    ),
                ),
                ("sign_outs", models.PositiveIntegerField(default=0, editable=False)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="leadexec_connections",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "LeadExec connection",
                "verbose_name_plural": "LeadExec connections",
                "permissions": [("revoke_leadexecconnection", "Can revoke LeadExec connections")],
                "indexes": [
                    models.Index(fields=["app_id", "refresh_after", "id"], name="leadexec_due")
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("identity",), name="leadexec_one_row_per_account"
                    ),
                    models.UniqueConstraint(
                        fields=("fingerprint",), name="leadexec_one_row_per_token"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                Exact(Length("refresh_token"), 0),
                                Exact(Length("access_token"), 0),
                                ("fingerprint", None),
                                ("identity", None),
                                ("status", "revoked"),
                            ),
                            models.Q(
                                models.Q(("fingerprint", ""), _negated=True),
                                ("fingerprint__isnull", False),
                                ("identity__isnull", False),
                                ("refresh_after__isnull", False),
                                ("status__in", ("active", "rejected")),
                            ),
                            _connector="OR",
                        ),
                        name="leadexec_row_is_complete",
                    ),
                ],
            },
        ),
    ]
