"""The model and Secret: what is given, what it becomes, and how it shows."""

from __future__ import annotations

import copy
import pickle
import traceback
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, astuple, replace

from accountstore import Account, Location, MultiAccount, NoCredentials, OAuthCredentials, PasswordCredentials, Secret
from accountstore.secrets import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = PasswordCredentials(login="l", password="p")
OAUTH = OAuthCredentials(login="l", client_secret="s", refresh_token="r")
ACCOUNT = Account(host="h", port=1, credentials=PASSWORD)

TEXTS = st.text() | st.text(st.characters())


@given(text=TEXTS, other=TEXTS)
def test_a_secret_reveals_its_text_and_is_equal_by_it(text: str, other: str) -> None:
    """`reveal` gives the text back, whatever is in it; secrets of equal texts are equal and have one hash."""
    assert Secret(text).reveal() == text
    assert Secret(Secret(text)).reveal() == text
    assert bool(Secret(text)) == bool(text)
    assert (Secret(text) == Secret(other)) == (text == other)
    assert (Secret(text) != Secret(other)) == (text != other)
    assert Secret(text) == Secret(text)
    assert hash(Secret(text)) == hash(Secret(text))
    assert len({Secret(text), Secret(text), Secret(other)}) == 1 + (text != other)


def test_a_secret_never_equals_plain_text() -> None:
    """A comparison with a string says False, so that no test of one passes by accident."""
    for other in ("p", b"p", None):
        assert Secret("p") != other
    assert hash(Secret("p")) != hash("p")


def test_a_secret_shows_nothing_of_its_text_nor_its_length() -> None:
    """Every short or long secret shows as the same asterisks."""
    for text in ("", "p", "a much longer secret " * 20):
        secret = Secret(text)
        assert str(secret) == "**********"
        assert repr(secret) == "Secret('**********')"
        assert f"{secret}" == f"{secret!s}" == "**********"
        assert f"{secret:>12}" == "  **********"


def test_a_secret_cannot_be_changed() -> None:
    """Its text cannot be replaced or removed, and nothing can be added to it."""
    secret = Secret("p")
    for change in (partial(setattr, secret, "_text", "q"), partial(setattr, secret, "other", "q")):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
    with pytest.raises(AttributeError, match="cannot be changed"):
        delattr(secret, "_text")
    assert secret.reveal() == "p"
    assert not hasattr(secret, "__dict__")


def test_a_copy_of_a_secret_is_the_secret() -> None:
    """Copying makes no second text in memory."""
    secret = Secret("p")
    assert copy.copy(secret) is secret
    assert copy.deepcopy(secret) is secret
    assert copy.deepcopy([secret, {"a": secret}])[0] is secret


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [Secret("p"), SecretBytes(b"p"), PASSWORD, ACCOUNT])
def test_a_secret_cannot_be_pickled(value: object, protocol: int) -> None:
    """Neither a secret nor what holds one can be pickled."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(value, protocol)


class Markup(str):
    """Text as templates hand it over, with a way of its own to show itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class Word(StrEnum):
    """Text of another subclass."""

    CANARY = "hunter2"


@pytest.mark.parametrize("text", [Markup("hunter2"), Word.CANARY])
@pytest.mark.parametrize("name", ["password", "client_secret", "refresh_token", "access_token"])
def test_text_of_a_subclass_is_concealed(name: str, text: str) -> None:
    """Text of a subclass of `str` becomes a secret of the plain text, wherever a secret is expected."""
    document = replace(PASSWORD if name == "password" else OAUTH, **{name: text})
    secret = getattr(document, name)
    assert type(secret) is Secret
    assert (type(secret.reveal()), secret.reveal()) == (str, "hunter2")
    assert secret == Secret(text) == Secret("hunter2")
    assert "hunter2" not in repr(document)
    # The control: where no secret is expected, it shows.
    assert "hunter2" in repr(replace(document, login=str.__str__(text)))


@pytest.mark.parametrize("credentials", [{"login": "l", "password": "hunter2"}, "hunter2", [PASSWORD]])
def test_credentials_that_are_none_are_refused_at_once(credentials: Any) -> None:
    """A dictionary, say, would show its password: it is a `TypeError`, which shows it in no frame of the library."""
    with pytest.raises(TypeError, match=r"^credentials must be") as caught:
        Account(host="h", port=1, credentials=credentials)
    with pytest.raises(TypeError, match="must be Accounts"):
        MultiAccount(receive_accounts=[cast("Any", {"host": "h", "port": 1, "credentials": credentials})])
    entries = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert entries
    assert not any("hunter2" in str(entry.locals) for entry in entries)


class Octets(bytes):
    """Bytes of a subclass."""


@pytest.mark.parametrize("value", [b"hunter2", bytearray(b"hunter2"), Octets(b"hunter2"), ["hunter2"], 5, None])
@pytest.mark.parametrize("name", ["password", "client_secret", "refresh_token", "access_token"])
def test_a_secret_that_is_no_text_is_refused_at_once(name: str, value: Any) -> None:
    """Anything but text is a `TypeError` when the credentials are made, which shows it in no frame of the library; but
    for None, where there need not be any.
    """
    if value is None and name in {"client_secret", "access_token"}:
        oauth: Any = OAuthCredentials
        assert getattr(oauth(login="l", refresh_token="r", **{name: None}), name) is None
        return
    kind = cast("Any", PasswordCredentials if name == "password" else OAuthCredentials)
    words: dict[str, Any] = {"login": "l"} if name == "password" else {"login": "l", "refresh_token": "r"}
    with pytest.raises(TypeError, match=f"^{name} must be a str or a Secret$") as caught:
        kind(**(words | {name: value}))
    entries = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert len(entries) > 0
    assert "hunter2" not in "".join(f"{entry.locals}" for entry in entries)


@pytest.mark.parametrize("text", [b"hunter2", 8675309, None, ["hunter2"]])
def test_a_secret_is_text(text: Any) -> None:
    """Anything but a string is a TypeError that does not quote it."""
    with pytest.raises(TypeError) as raised:
        Secret(text)
    assert "hunter2" not in str(raised.value)
    assert "8675309" not in str(raised.value)


def test_secret_bytes_are_bytes_that_do_not_show() -> None:
    """Whoever uses them has all of them; whoever prints them, or a part of them, has none."""
    data = SecretBytes(b"hunter2")
    assert data == b"hunter2"
    assert len(data) == 7
    assert bytes(data[1:3]) == b"un"
    assert data[0] == 0x68
    assert data.decode() == "hunter2"
    for shown in (repr(data), str(data), f"{data}", f"{data:>30}", repr(data[:4]), f"{[data]}"):
        assert "un" not in shown


def test_rich_shows_nothing_of_a_secret() -> None:
    """Nor does rich, which has a way of its own to show objects."""
    pretty_repr = pytest.importorskip("rich.pretty").pretty_repr
    assert pretty_repr(Secret("hunter2")) == "Secret('**********')"
    assert "hunter2" not in pretty_repr(SecretBytes(b"hunter2"))


def test_plain_text_becomes_a_secret() -> None:
    """Every secret field takes a string or a Secret, also in `replace`, and holds a Secret; None stays None."""
    oauth = replace(OAUTH, client_id="c", refresh_token=Secret("t"), request_url="u", access_token="a")
    assert astuple(OAUTH) == ("l", None, Secret("s"), Secret("r"), None, None, None)
    assert astuple(oauth) == ("l", "c", Secret("s"), Secret("t"), "u", Secret("a"), None)
    assert oauth.client_secret is OAUTH.client_secret
    assert replace(oauth, access_token=None, client_secret=None).access_token is None
    assert OAuthCredentials(login="l", refresh_token="r").client_secret is None
    assert asdict(PASSWORD) == {"login": "l", "password": Secret("p")}
    assert asdict(replace(PASSWORD, password="q")) == {"login": "l", "password": Secret("q")}
    assert PasswordCredentials(login="l", password=Secret("p")) == PASSWORD
    assert "'p'" not in repr(asdict(PASSWORD))


def test_optional_fields_are_none() -> None:
    """What may be left out is None."""
    assert (OAUTH.client_id, OAUTH.request_url, OAUTH.access_token, OAUTH.expires_at) == (None, None, None, None)
    assert (ACCOUNT.security_options, ACCOUNT.protocol_type, ACCOUNT.cache_file) == (None, None, None)
    assert MultiAccount(receive_accounts=()).send_account is None
    assert NoCredentials().login == ""


@pytest.mark.parametrize("document", [PASSWORD, ACCOUNT, MultiAccount(receive_accounts=[ACCOUNT])])
def test_documents_show_no_secret(document: object) -> None:
    """The repr of a document shows its fields, and asterisks for secrets."""
    assert "login='l'" in repr(document)
    assert "password=Secret('**********')" in repr(document)


@pytest.mark.parametrize("kind", [PasswordCredentials, OAuthCredentials, Account, MultiAccount, Location])
def test_fields_are_named(kind: Callable[..., object]) -> None:
    """Fields, but for the file name of a location, are given by name: the seed's orders differ."""
    with pytest.raises(TypeError):
        kind("h", "1")
    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (PASSWORD, "password"),
        (OAUTH, "refresh_token"),
        (ACCOUNT, "port"),
        (MultiAccount(receive_accounts=()), "receive_accounts"),
        (Location("x.account"), "file_name"),
    ],
)
def test_documents_cannot_be_changed(document: object, name: str) -> None:
    """A document is a value: assigning to a field is an AttributeError."""
    before = getattr(document, name)
    with pytest.raises(AttributeError):
        setattr(document, name, None)
    assert getattr(document, name) is before


def test_receive_accounts_take_any_iterable() -> None:
    """Any iterable of accounts becomes a tuple, also in `replace`: changing the list changes no document."""
    wanted = (ACCOUNT, ACCOUNT)
    accounts = list(wanted)
    for given_accounts in (accounts, wanted, (ACCOUNT for _ in range(2))):
        multi = MultiAccount(receive_accounts=given_accounts)
        accounts[2:] = [ACCOUNT]
        assert multi.receive_accounts == wanted
        assert type(multi.receive_accounts) is tuple
    assert replace(MultiAccount(receive_accounts=()), receive_accounts=[ACCOUNT, ACCOUNT]).receive_accounts == wanted


def test_documents_are_compared_and_hashed_by_value() -> None:
    """Documents with equal fields are equal and have one hash; with another secret they differ."""
    twin = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password=Secret("p")))
    other = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="q"))
    assert twin == ACCOUNT
    assert hash(ACCOUNT) == hash(twin)
    assert other != ACCOUNT
    multi = MultiAccount(receive_accounts=[ACCOUNT])
    assert len({ACCOUNT, twin, other, multi, MultiAccount(receive_accounts=[twin])}) == 3
    assert cast("object", replace(OAUTH, client_secret="p", refresh_token="p")) != PASSWORD


def test_documents_are_copied() -> None:
    """A copy and a deep copy equal their document and share its secrets."""
    document = replace(ACCOUNT, cache_file=Location("x"))
    for twin in (copy.copy(document), copy.deepcopy(document)):
        assert twin == document
        assert isinstance(twin.credentials, PasswordCredentials)
        assert twin.credentials.password is PASSWORD.password


def test_an_expiry_that_has_no_utc_is_refused() -> None:
    """A moment before year 1 or after year 9999 of UTC, which one zone's calendar still has, is a ValueError."""
    west, east = timezone(timedelta(hours=-1)), timezone(timedelta(hours=1))
    for moment in (datetime.max.replace(tzinfo=west), datetime.min.replace(tzinfo=east)):
        with pytest.raises(ValueError, match="years 1 to 9999"):
            replace(OAUTH, expires_at=moment)
