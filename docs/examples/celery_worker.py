"""Celery's prefork workers: a store for each worker process, opened after the fork.

    export CELERY_BROKER_URL=redis://127.0.0.1:6379/0 CELERY_RESULT_BACKEND=redis://127.0.0.1:6379/1
    celery -A celery_worker worker --pool prefork

With `celery[redis]`; with `celery[sqlalchemy]`, SQLite needs no server: `sqla+sqlite:///broker.db` and
`db+sqlite:///results.db`. A task is sent by `change_port.delay("mail/me.account")`.

Celery keeps results as JSON, in which an error has its class and text; `result_serializer = "pickle"` keeps all of it.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from msgspec.structs import replace

from accountstore import Account, Location, UnavailableError, UncertainError
from accountstore.blocking import BlockingAccountStore

app: Any = Celery("mail")
_signals: Any = signals
_stores: list[BlockingAccountStore] = []


@_signals.worker_process_init.connect
def open_store(**_: object) -> None:
    """A store that was opened before the fork would raise `ClosedError` in here."""
    _stores.append(BlockingAccountStore.open())


@_signals.worker_process_shutdown.connect
def close_store(**_: object) -> None:
    """Close what this process has opened."""
    while _stores:
        _stores.pop().close()


def next_port(account: Account) -> Account:
    """A change that is lost if two workers only read and save."""
    return replace(account, port=account.port + 1)


@app.task(autoretry_for=(UnavailableError,), dont_autoretry_for=(UncertainError,), retry_backoff=True, max_retries=5)
def change_port(path: str) -> int:
    """Change an account; a temporary failure is tried again later, but not one that may have made the change."""
    return _stores[0].update(Location.parse(path), next_port).document.port
