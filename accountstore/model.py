"""The account documents, as msgspec Structs.

The model is that of the client-account API of Aspose.Email Cloud (the seed, for short): as JSON a document is what it
calls `value`, with its field names in camelCase, None left out, credentials told apart by `discriminator`
(https://github.com/aspose-email-cloud/aspose-email-cloud-docs). Constructing one checks nothing but that an expiry
exists in UTC, that a secret is text and that credentials are such; `save` and `get` check all. Plain strings are taken
where a `Secret` is expected and become one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from accountstore.location import Location
from accountstore.secrets import Secret

_Text: TypeAlias = Annotated[str, Meta(min_length=1)]
_Port: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
if TYPE_CHECKING:
    _Hidden: TypeAlias = Secret
    _HiddenIfAny: TypeAlias = Secret | None
else:
    # To msgspec a secret is text, so that any decoder of its takes documents; each class makes it a Secret at once.
    _SCHEMA = {"format": "password", "writeOnly": True}
    _Hidden = Annotated[str, Meta(min_length=1, extra_json_schema=_SCHEMA)]
    _HiddenIfAny = Annotated[str, Meta(extra_json_schema=_SCHEMA)] | None


def _conceal(document: Struct, name: str, /) -> None:
    """Make the text of a field a `Secret`. Raises `TypeError` for what is no text, which no frame shows."""
    if isinstance(getattr(document, name), str):
        force_setattr(document, name, Secret(getattr(document, name)))
    elif not isinstance(getattr(document, name), Secret):
        for each in document.__struct_fields__:  # others may be secrets that are text yet
            force_setattr(document, each, None)
        raise TypeError(f"{name} must be a str or a Secret")


class SecurityOptions(StrEnum):
    """How the connection is secured: the values of the client-account API."""

    NONE = "None"
    SSL_EXPLICIT = "SSLExplicit"
    SSL_IMPLICIT = "SSLImplicit"
    SSL_AUTO = "SSLAuto"
    AUTO = "Auto"


class ProtocolType(StrEnum):
    """The mail protocol: the values of the client-account API."""

    IMAP = "IMAP"
    POP3 = "POP3"
    SMTP = "SMTP"
    EWS = "EWS"
    WEB_DAV = "WebDav"


class NoCredentials(
    Struct,
    frozen=True,
    gc=False,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="discriminator",
    tag="EmailClientAccountCredentials",
    forbid_unknown_fields=True,
):
    """No password and no token: for a server that asks for none, such as a relay within a network.

    In JSON it is the client-account API's base class of credentials, whose `login` may be left out here. Whatever else
    stands there is refused, for it could be a password under the wrong `discriminator`.
    """

    if TYPE_CHECKING:
        login: str = ""
    else:
        login: str | None = ""

    def __post_init__(self) -> None:
        if not self.login:
            force_setattr(self, "login", "")


class PasswordCredentials(
    Struct,
    frozen=True,
    gc=False,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="discriminator",
    tag="EmailClientAccountPasswordCredentials",
):
    """Login and password."""

    login: _Text
    password: _Hidden

    if TYPE_CHECKING:

        def __init__(self, *, login: str, password: Secret | str) -> None: ...

    def __post_init__(self) -> None:
        if type(cast("Any", self.password)) is str:  # as in a document that is read
            force_setattr(self, "password", Secret(self.password))
        else:
            _conceal(self, "password")


class OAuthCredentials(
    Struct,
    frozen=True,
    gc=False,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="discriminator",
    tag="EmailClientAccountOauthCredentials",
):
    """Login and OAuth 2.0 refresh token, with the client that may use it.

    `client_id` may be missing and `request_url` may be any text, as in documents that the client-account API's own SDKs
    save. `client_secret` is None for a public client, which has none (RFC 6749 section 2.1; most applications on a
    desktop or telephone are such); empty text becomes None. `access_token` and `expires_at` (a time with a zone, kept
    as UTC) go beyond that API: readers that do not know them ignore them.
    """

    login: _Text
    client_id: _Text | None = None
    client_secret: _HiddenIfAny = None
    refresh_token: _Hidden
    request_url: str | None = None
    access_token: _Hidden | None = None
    expires_at: _Moment | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            login: str,
            client_id: str | None = None,
            client_secret: Secret | str | None = None,
            refresh_token: Secret | str,
            request_url: str | None = None,
            access_token: Secret | str | None = None,
            expires_at: datetime | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        _conceal(self, "refresh_token")
        if self.client_secret is not None:
            _conceal(self, "client_secret")
            if not self.client_secret:
                force_setattr(self, "client_secret", None)
        if self.access_token is not None:
            _conceal(self, "access_token")
        # Anything else is for the codec to refuse.
        if isinstance(self.expires_at, datetime) and self.expires_at.tzinfo not in {None, UTC}:
            try:
                force_setattr(self, "expires_at", self.expires_at.astimezone(UTC))
            except OverflowError:
                raise ValueError("Expected `datetime` in the years 1 to 9999 of UTC") from None


Credentials: TypeAlias = PasswordCredentials | OAuthCredentials | NoCredentials
_CREDENTIALS = (PasswordCredentials, OAuthCredentials, NoCredentials, NoneType)  # None is for the codec to refuse


class _Document(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, rename="camel"):
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any, /) -> Any:
        """As any type that is none of pydantic's, where a model allows such; else an error that says what to do."""
        try:
            return handler(source)
        except Exception:  # noqa: BLE001 -- pydantic's own class is not imported for this
            name = cls.__name__
        raise TypeError(
            f"accountstore.{name} is no pydantic model: take the bytes of the request's body and give them to"
            f" accountstore.from_json(data, {name}); answer with accountstore.to_json; describe both by"
            f" accountstore.json_schema({name})"
        )


class Account(_Document, frozen=True, gc=False, kw_only=True, omit_defaults=True, rename="camel"):
    """One mail account: the document of a `*.account` file.

    `host` is a name, an address or what the API's samples write there (`exchange@outlook.com`). `port` is 1 to
    2,147,483,647. `security_options` and `protocol_type` may be unknown. `credentials` are `NoCredentials()` for a
    server without login. `cache_file` names a file with a message cache; it is kept, never followed.
    """

    host: _Text
    port: _Port
    security_options: SecurityOptions | None = None
    protocol_type: ProtocolType | None = None
    if TYPE_CHECKING:
        credentials: Credentials
    else:
        credentials: Credentials = field(default_factory=NoCredentials)
    cache_file: Location | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.credentials, _CREDENTIALS):  # a dictionary, say, would show its password
            force_setattr(self, "credentials", None)
            raise TypeError("credentials must be PasswordCredentials, OAuthCredentials or NoCredentials")


class MultiAccount(_Document, frozen=True, gc=False, kw_only=True, omit_defaults=True, rename="camel"):
    """Several receiving accounts and one sending account: the document of a `*.multi.account` file."""

    receive_accounts: tuple[Account, ...]
    send_account: Account | None = None

    if TYPE_CHECKING:

        def __init__(self, *, receive_accounts: Iterable[Account], send_account: Account | None = None) -> None: ...

    def __post_init__(self) -> None:
        if type(self.receive_accounts) is not tuple:
            force_setattr(self, "receive_accounts", tuple(self.receive_accounts))
        if dict in map(type, (*self.receive_accounts, self.send_account)):  # which would show its password
            force_setattr(self, "receive_accounts", ())
            force_setattr(self, "send_account", None)
            raise TypeError("receive_accounts and send_account must be Accounts")


Document: TypeAlias = Account | MultiAccount


def masks_in(part: object, field: str = "$", /) -> Iterator[str]:
    """Where a document has the mask that stands for a secret in the place of one."""
    if isinstance(part, Secret) and part.reveal() == str(part):
        yield field
    elif isinstance(part, tuple):
        for place, item in enumerate(cast("tuple[object, ...]", part)):
            yield from masks_in(item, f"{field}[{place}]")
    elif isinstance(part, Struct):
        for name, attribute in zip(part.__struct_encode_fields__, part.__struct_fields__, strict=True):
            yield from masks_in(getattr(part, attribute), f"{field}.{name}")
