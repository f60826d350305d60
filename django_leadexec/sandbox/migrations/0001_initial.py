import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="CallCount",
            fields=[
                ("name", models.CharField(max_length=50, primary_key=True, serialize=False)),
                ("total", models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="Fault",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("scope", models.CharField(max_length=64, unique=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("refuse", "Refuse (valid: false)"),
                            ("unavailable", "503 Service Unavailable"),
                            ("throttle", "429 Too Many Requests"),
                            ("html", "A page of HTML"),
                            ("half", "Half a JSON"),
                            ("slow", "A slow answer"),
                        ],
                        max_length=20,
                    ),
                ),
                (
                    "call",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("", "Refresh and disconnect"),
                            ("refresh", "Refresh"),
                            ("disconnect", "Disconnect"),
                        ],
                        max_length=20,
                    ),
                ),
                ("seconds", models.FloatField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="Grant",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("account", models.CharField(db_index=True, max_length=100)),
                ("button_id", models.CharField(blank=True, max_length=191)),
                ("app_id", models.CharField(blank=True, max_length=191)),
                ("seed", models.CharField(max_length=64)),
                ("digest", models.CharField(max_length=64, unique=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="AccessToken",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("digest", models.CharField(max_length=64, unique=True)),
                ("expires_at", models.DateTimeField(db_index=True)),
                (
                    "grant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="leadexec_sandbox.grant"
                    ),
                ),
            ],
        ),
    ]
