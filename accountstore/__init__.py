"""Keep e-mail account credentials on any storage, from async Python.

A store saves and gets documents::

    async with AccountStore.open() as store:
        location = Location("email.account", folder="mail/team-a")
        await store.save(location, account)
        account = await store.get(location)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accountstore.errors import *

if TYPE_CHECKING:
    from accountstore.backends.base import Capabilities, Usage, Version, VersionInfo, WriteMode
    from accountstore.bodies import from_json, json_schema, masked, to_json
    from accountstore.check import Check, Sealing
    from accountstore.config import Encryption, StorageConfig, StoreConfig
    from accountstore.copies import Copied
    from accountstore.events import Event, Observer
    from accountstore.grant import Exchange, TokenGrant
    from accountstore.listing import Entry, Folder, Skipped
    from accountstore.location import Location
    from accountstore.model import (
        Account,
        Credentials,
        Document,
        MultiAccount,
        NoCredentials,
        OAuthCredentials,
        PasswordCredentials,
        ProtocolType,
        SecurityOptions,
    )
    from accountstore.secrets import Secret
    from accountstore.storage import Stored
    from accountstore.store import AccountStore

__all__ = [
    "Account",
    "AccountStore",
    "AccountStoreError",
    "AlgorithmError",
    "BackendError",
    "Capabilities",
    "Check",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "Copied",
    "Credentials",
    "DecodeError",
    "DeniedError",
    "Document",
    "DocumentError",
    "EncodeError",
    "Encryption",
    "Entry",
    "EnvelopeError",
    "Event",
    "Exchange",
    "ExchangeError",
    "ExistsError",
    "ExtensionError",
    "Folder",
    "FullError",
    "JournalError",
    "KeyDeniedError",
    "KeyProviderError",
    "LeaseError",
    "Location",
    "LocationError",
    "MissingKeyError",
    "MovedError",
    "MultiAccount",
    "NoAnswerError",
    "NoCredentials",
    "NoOAuthError",
    "NotFoundError",
    "NotRegularError",
    "NotSealedError",
    "OAuthCredentials",
    "Observer",
    "PasswordCredentials",
    "ProtocolType",
    "RefreshError",
    "RefusedError",
    "SealError",
    "Sealing",
    "Secret",
    "SecurityOptions",
    "Skipped",
    "StorageConfig",
    "StoreConfig",
    "Stored",
    "TamperedError",
    "TokenGrant",
    "TooLargeError",
    "UnavailableError",
    "UncertainError",
    "UnknownFieldError",
    "UnsupportedError",
    "Usage",
    "Version",
    "VersionInfo",
    "WriteMode",
    "WrongKeyError",
    "from_json",
    "json_schema",
    "masked",
    "to_json",
]
__version__ = "0.1.0"

_HOMES = {
    "backends.base": "Capabilities Usage Version VersionInfo WriteMode",
    "copies": "Copied",
    "bodies": "from_json json_schema masked to_json",
    "check": "Check Sealing",
    "config": "Encryption StorageConfig StoreConfig",
    "events": "Event Observer",
    "grant": "Exchange TokenGrant",
    "listing": "Entry Folder Skipped",
    "location": "Location",
    "model": (
        "Account Credentials Document MultiAccount NoCredentials OAuthCredentials PasswordCredentials ProtocolType"
        " SecurityOptions"
    ),
    "secrets": "Secret",
    "storage": "Stored",
    "store": "AccountStore",
}


if not TYPE_CHECKING:  # a checker would take any name for one of the package

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        for module, names in _HOMES.items():
            if name in names.split():
                from importlib import import_module

                value: object = getattr(import_module(f"accountstore.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'accountstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
