"""Counts the unseen messages of every account in the folder `mail`: `python imap_poller.py [TOKEN_ENDPOINT]`.

Host, port, security and credentials are as the document says. An access token that has expired is exchanged first, by
one of all pollers that run.
"""

from __future__ import annotations

import imaplib
import ssl
import sys

import anyio
from anyio import to_thread

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    Exchange,
    Location,
    NoOAuthError,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
)
from accountstore.oauth import GOOGLE, TokenEndpoint

IMPLICIT_PORT = 993


def connect(account: Account) -> imaplib.IMAP4:
    """A connection that is secured as the document says; what it says nothing about is secured too."""
    context = ssl.create_default_context()
    security = account.security_options
    if security is SecurityOptions.NONE:
        return imaplib.IMAP4(account.host, account.port, timeout=30)
    explicit = security is SecurityOptions.SSL_EXPLICIT
    if security is SecurityOptions.SSL_IMPLICIT or (not explicit and account.port == IMPLICIT_PORT):
        return imaplib.IMAP4_SSL(account.host, account.port, ssl_context=context, timeout=30)
    client = imaplib.IMAP4(account.host, account.port, timeout=30)
    client.starttls(context)  # raises where the server has none: a password never goes in the clear by accident
    return client


def log_in(client: imaplib.IMAP4, account: Account) -> None:
    """Log in by password, or by token (XOAUTH2)."""
    match account.credentials:
        case PasswordCredentials(login=login, password=password) if "AUTH=PLAIN" in client.capabilities:
            client.authenticate("PLAIN", lambda _: f"\0{login}\0{password.reveal()}".encode())
        case PasswordCredentials(login=login, password=password):
            client.login(login, password.reveal())  # ASCII alone
        case OAuthCredentials(login=login, access_token=token) if token is not None:
            client.authenticate("XOAUTH2", lambda _: f"user={login}\1auth=Bearer {token.reveal()}\1\1".encode())
        case _:
            pass  # the server wants no login


def unseen(account: Account) -> int:
    """How many messages nobody has seen. It blocks."""
    with connect(account) as client:
        log_in(client, account)
        client.select("INBOX", readonly=True)
        _, (found,) = client.search(None, "UNSEEN")
        return len((found or b"").split())  # some servers say nothing where there is none


async def current(store: AccountStore, location: Location, exchange: Exchange) -> Account:
    """The account, its access token valid where it has any."""
    try:
        return (await store.refresh(location, exchange)).document
    except NoOAuthError:
        return await store.get(location)


async def poll(store: AccountStore, location: Location, exchange: Exchange) -> None:
    """Look at one account. What is wrong with it stops no other."""
    try:
        account = await current(store, location, exchange)
        if account.protocol_type in {ProtocolType.IMAP, None}:
            count = await to_thread.run_sync(unseen, account, abandon_on_cancel=True)
            print(f"{location}: {count} unseen")
    except (AccountStoreError, OSError, imaplib.IMAP4.error) as error:
        print(f"{location}: {type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 -- a name, a port, a password or an answer that is odd, and may be quoted
        print(f"{location}: {type(error).__name__}")


async def main(endpoint: str) -> None:
    """One round; a service would repeat it."""
    exchange = TokenEndpoint(endpoint, insecure_http=endpoint.startswith("http://127.0.0.1"))
    async with AccountStore.open() as store, anyio.create_task_group() as tasks:
        async for entry in store.list("mail", recursive=True):
            if not entry.location.file_name.endswith(".multi.account"):
                tasks.start_soon(poll, store, entry.location, exchange)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else GOOGLE)
