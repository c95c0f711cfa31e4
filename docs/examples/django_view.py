"""A Django view of accounts, in one file, for a WSGI server (`django_view:application`) or for Django's own:

    DJANGO_SECRET_KEY=$(openssl rand -hex 32) python django_view.py runserver 127.0.0.1:8000

Views are synchronous and run in threads, which share one store for each process.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from threading import Lock

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from accountstore import AccountStoreError, Location, LocationError, NotFoundError, to_json
from accountstore.blocking import BlockingAccountStore

if __name__ == "__main__" and ("DJANGO_SECRET_KEY" not in os.environ or len(sys.argv) < 2):
    sys.exit("usage: DJANGO_SECRET_KEY=SECRET python django_view.py runserver [ADDRESS:PORT]")
settings.configure(
    DEBUG=False, ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY=os.environ["DJANGO_SECRET_KEY"]
)
django.setup()


_first = Lock()


@cache
def _opened() -> BlockingAccountStore:
    return BlockingAccountStore.open()


def store() -> BlockingAccountStore:
    """The process's store, opened by the first request: after the server has forked, once for all threads."""
    with _first:
        return _opened()


def account(_: HttpRequest, name: str) -> HttpResponse:
    """The account, with masked secrets."""
    try:
        return HttpResponse(to_json(store().get(Location.parse(name))), content_type="application/json")
    except (NotFoundError, LocationError):
        return JsonResponse({"detail": "there is no such account"}, status=404)
    except AccountStoreError as error:
        return JsonResponse({"detail": str(error)}, status=503 if error.temporary else 500)


urlpatterns = [path("accounts/<path:name>", account)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
