"""Credentials of Google's, from a `token` or the environment. What cannot be one is sent nowhere.

gcsfs itself asks one place after the other, and goes on as nobody when what is named cannot be used; it sends a text
that it does not understand to a service, to be told what it is; and it renews credentials on the event loop.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import google.auth
import requests
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2 import credentials as oauth2
from google.oauth2 import service_account

from accountstore.backends.base import ConfigError, DeniedError
from accountstore.backends.options import check_no_key
from accountstore.files import read_file

_SECONDS = 10.0
"""What a token server may take; the thread that asks it cannot be stopped."""
_METHODS = frozenset({"google_default", "cache", "cloud", "anon"})
_NO_TOKENS = frozenset({"browser", "token"})
"""Methods that need a person, or something more."""
_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


def credentials_of(options: Mapping[str, Any], /) -> tuple[object, str | None]:
    """The `token` that gcsfs is given for these options, and the project that comes with it, if any. It blocks.

    Raises:
        DeniedError: what the environment names cannot be used.
        ConfigError: as `as_token`.
    """
    token = options.get("token")
    if token != "google_default" and (token is not None or _VARIABLE not in os.environ):  # noqa: S105 -- a method
        return as_token(token), None
    named = os.environ.get(_VARIABLE, "")
    if os.path.exists(named) and not os.path.isfile(named):  # google-auth would wait for a pipe
        raise DeniedError(f"no valid credentials were found{_named_file()}")
    scope = f"https://www.googleapis.com/auth/devstorage.{options.get('access') or 'full_control'}"
    with requests.Session() as session:
        try:
            found: tuple[object, str | None] = google.auth.default([scope], request=_asking(session))
        except GoogleAuthError as error:
            failure = denied(error, _named_file())
        else:
            return found
    raise failure


def as_token(token: object, /) -> object:
    """A `token` as gcsfs takes it: a method, a table or credentials.

    Raises:
        ConfigError: it is none of them, nor a bearer token.
    """
    if isinstance(token, str) and token not in _METHODS:
        text = token.strip()
        if text.startswith("{"):
            token = _key_of(text)
        elif os.path.isfile(text):
            token = _key_of(read_file(text))
        elif re.fullmatch("[A-Za-z0-9._~+-]+=*", text) and not text.endswith(".json") and text not in _NO_TOKENS:
            check_no_key(text)
            return oauth2.Credentials(text)  # type: ignore[no-untyped-call]  # which asks nobody what it is
        else:
            raise ConfigError("options: 'token' is a file that is not there, or neither a method, a key nor a token")
    if isinstance(token, Mapping):
        _check_key(token)
        return dict(token)
    if token is None or isinstance(token, (str, Credentials)):
        return token
    raise ConfigError("options: 'token' must be a method's name, the path or text of a key file, a table or a token")


def _key_of(text: str | bytes, /) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigError("options: 'token' is, or names, a key file that is not JSON") from None


def _check_key(key: Mapping[str, object], /) -> None:
    """Raise `ConfigError` for a key file's content of which gcsfs makes no credentials."""
    if {"refresh_token", "client_id", "client_secret"} <= key.keys():
        return
    try:
        service_account.Credentials.from_service_account_info(key)  # type: ignore[no-untyped-call]  # of google-auth
    except (GoogleAuthError, ValueError, TypeError, AttributeError):
        raise ConfigError("options: 'token' is no key of a service account, nor a user's credentials") from None


def refresh(keys: Any, /) -> None:
    """Renew credentials of gcsfs's. It blocks, for a bounded time."""
    with requests.Session() as session:
        keys.credentials.refresh(_asking(session))
    keys.credentials.apply(keys.heads)


def _asking(session: requests.Session, /) -> Any:
    """How google-auth asks a token server."""
    ask: Any = Request(session)
    return partial(ask, timeout=_SECONDS)


def authorization(keys: Any, /) -> dict[str, str]:
    """What credentials, if there are any, add to the headers of a request."""
    headers: dict[str, str] = {}
    if keys is not None:
        keys.apply(headers)
    return headers


def denied(error: Exception, named: str = "", /) -> DeniedError:
    """The error for credentials that are not there or cannot be renewed."""
    return DeniedError(f"no valid credentials were found ({type(error).__name__}){named}")


def _named_file() -> str:
    """The end of an error about the file that the environment names, if it names one."""
    path = os.environ.get(_VARIABLE)
    if path is None:
        return ""
    what = "names" if os.path.isfile(path) else "names no file that is there:"
    # By mistake it may hold the key itself.
    return f"; {_VARIABLE} {what} {path if re.fullmatch('[^{}]{1,1024}', path) else '...'}"
