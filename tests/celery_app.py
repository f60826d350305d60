"""A site's Celery application, for workers that the tests start."""

import os

import django
from celery import Celery
from celery.signals import worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

app = Celery(
    "tests",
    broker=os.environ["LEADEXEC_TEST_BROKER"],
    backend=os.environ["LEADEXEC_TEST_RESULTS"],
)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1
app.autodiscover_tasks()


@worker_init.connect
def call_before_the_fork(**_: object) -> None:
    """As a site's own code may: its children must not share the connection."""
    from django_leadexec.provider.client import get_client

    get_client().refresh(f"before-the-fork-{os.getpid()}", "test-app")
