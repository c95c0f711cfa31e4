"""Keep e-mail account credentials on any storage, from async Python.

async with AccountStore.open() as store:
    location = Location("email.account", folder="mail/team-a")
    await store.save(location, account)
    account = await store.get(location)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accountstore.backends.base import Capabilities as Capabilities
    from accountstore.backends.base import Version as Version
    from accountstore.check import Check as Check
    from accountstore.config import StorageConfig as StorageConfig
    from accountstore.config import StoreConfig as StoreConfig
    from accountstore.errors import AccountStoreError as AccountStoreError
    from accountstore.errors import BackendError as BackendError
    from accountstore.errors import ClosedError as ClosedError
    from accountstore.errors import ConfigError as ConfigError
    from accountstore.errors import ConflictError as ConflictError
    from accountstore.errors import DecodeError as DecodeError
    from accountstore.errors import DeniedError as DeniedError
    from accountstore.errors import DocumentError as DocumentError
    from accountstore.errors import EncodeError as EncodeError
    from accountstore.errors import ExistsError as ExistsError
    from accountstore.errors import ExtensionError as ExtensionError
    from accountstore.errors import FullError as FullError
    from accountstore.errors import LocationError as LocationError
    from accountstore.errors import NotFoundError as NotFoundError
    from accountstore.errors import NotRegularError as NotRegularError
    from accountstore.errors import TooLargeError as TooLargeError
    from accountstore.errors import UnavailableError as UnavailableError
    from accountstore.errors import UncertainError as UncertainError
    from accountstore.errors import UnsupportedError as UnsupportedError
    from accountstore.events import Event as Event
    from accountstore.listing import Entry as Entry
    from accountstore.location import Location as Location
    from accountstore.model import Account as Account
    from accountstore.model import MultiAccount as MultiAccount
    from accountstore.model import OAuthCredentials as OAuthCredentials
    from accountstore.model import PasswordCredentials as PasswordCredentials
    from accountstore.model import ProtocolType as ProtocolType
    from accountstore.model import SecurityOptions as SecurityOptions
    from accountstore.secrets import Secret as Secret
    from accountstore.storage import Stored as Stored
    from accountstore.store import AccountStore as AccountStore

__all__ = (
    "Account",
    "AccountStore",
    "AccountStoreError",
    "BackendError",
    "Capabilities",
    "Check",
    "ClosedError",
    "ConfigError",
    "ConflictError",
    "DecodeError",
    "DeniedError",
    "DocumentError",
    "EncodeError",
    "Entry",
    "Event",
    "ExistsError",
    "ExtensionError",
    "FullError",
    "Location",
    "LocationError",
    "MultiAccount",
    "NotFoundError",
    "NotRegularError",
    "OAuthCredentials",
    "PasswordCredentials",
    "ProtocolType",
    "Secret",
    "SecurityOptions",
    "StorageConfig",
    "StoreConfig",
    "Stored",
    "TooLargeError",
    "UnavailableError",
    "UncertainError",
    "UnsupportedError",
    "Version",
)
__version__ = "0.1.0"

_HOMES = {
    "Capabilities": "backends.base",
    "Version": "backends.base",
    "Check": "check",
    "StorageConfig": "config",
    "StoreConfig": "config",
    "Event": "events",
    "Location": "location",
    "Account": "model",
    "MultiAccount": "model",
    "OAuthCredentials": "model",
    "PasswordCredentials": "model",
    "ProtocolType": "model",
    "SecurityOptions": "model",
    "Secret": "secrets",
    "Stored": "storage",
    "AccountStore": "store",
    "Entry": "listing",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name in __all__:
        from importlib import import_module

        value: object = getattr(import_module(f"accountstore.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'accountstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
