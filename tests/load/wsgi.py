import os

from django.core.wsgi import get_wsgi_application

# Not setdefault: the processes that tests start are told the settings of all other tests.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.load.settings"
application = get_wsgi_application()
