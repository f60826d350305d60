"""A site's Celery application, for workers that the tests start."""

import os

import django
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

app = Celery(
    "tests",
    broker=os.environ["LEADEXEC_TEST_BROKER"],
    backend=os.environ["LEADEXEC_TEST_RESULTS"],
)
app.conf.task_default_queue = os.environ["LEADEXEC_TEST_QUEUE"]
app.conf.broker_connection_retry_on_startup = True
app.autodiscover_tasks()
