"""The model and Secret: what is given, what it becomes, and how it shows."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from accountstore import (
    Account,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    Secret,
    SecurityOptions,
)
from accountstore.secrets import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable

EAST = timezone(timedelta(hours=1))
PASSWORD = PasswordCredentials(login="l", password="p")
ACCOUNT = Account(host="h", port=1, credentials=PASSWORD)


# --- Secret --------------------------------------------------------------------------------------------------------

TEXTS = st.text() | st.text(st.characters())


@given(text=TEXTS)
def test_a_secret_reveals_its_text(text: str) -> None:
    """`reveal` gives the text back, whatever is in it."""
    assert Secret(text).reveal() == text
    assert Secret(Secret(text)).reveal() == text
    assert bool(Secret(text)) == bool(text)


@given(text=TEXTS, other=TEXTS)
def test_secrets_are_equal_by_their_text(text: str, other: str) -> None:
    """Two secrets are equal when their texts are, and then have one hash."""
    assert (Secret(text) == Secret(other)) == (text == other)
    assert (Secret(text) != Secret(other)) == (text != other)
    assert Secret(text) == Secret(text)
    assert hash(Secret(text)) == hash(Secret(text))
    assert len({Secret(text), Secret(text), Secret(other)}) == 1 + (text != other)


def test_a_secret_never_equals_plain_text() -> None:
    """A comparison with a string says False, so that no test of one passes by accident."""
    assert Secret("p") != "p"
    assert Secret("p") != "p"
    assert Secret("p") != b"p"
    assert Secret("p") != None  # noqa: E711 -- the comparison is what is tested
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
    changes: tuple[Callable[[], None], ...] = (
        lambda: setattr(secret, "_text", "q"),
        lambda: setattr(secret, "other", "q"),
        lambda: delattr(secret, "_text"),
    )
    for change in changes:
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
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


# --- credentials ---------------------------------------------------------------------------------------------------


def test_plain_text_becomes_a_secret() -> None:
    """Every secret field takes a string or a Secret, and holds a Secret."""
    credentials = OAuthCredentials(
        login="l", client_secret="s", refresh_token=Secret("r"), access_token="a", client_id="c", request_url="u"
    )
    assert credentials.client_secret == Secret("s")
    assert credentials.refresh_token == Secret("r")
    assert credentials.access_token == Secret("a")
    assert (credentials.login, credentials.client_id, credentials.request_url) == ("l", "c", "u")
    assert PasswordCredentials(login="l", password="p") == PasswordCredentials(login="l", password=Secret("p"))


def test_replace_makes_a_secret_too() -> None:
    """A string given to `replace` becomes a Secret, and None stays None."""
    changed = replace(PASSWORD, password="q")
    assert changed.password == Secret("q")
    oauth = OAuthCredentials(login="l", client_secret="s", refresh_token="r", access_token="a")
    changed_oauth = replace(oauth, refresh_token="r2", access_token=None)
    assert changed_oauth.refresh_token == Secret("r2")
    assert changed_oauth.access_token is None
    assert changed_oauth.client_secret is oauth.client_secret


def test_optional_fields_are_none() -> None:
    """What may be left out is None."""
    oauth = OAuthCredentials(login="l", client_secret="s", refresh_token="r")
    assert (oauth.client_id, oauth.request_url, oauth.access_token, oauth.expires_at) == (None, None, None, None)
    assert (ACCOUNT.security_options, ACCOUNT.protocol_type, ACCOUNT.cache_file) == (None, None, None)
    assert MultiAccount(receive_accounts=()).send_account is None


@pytest.mark.parametrize("document", [PASSWORD, ACCOUNT, MultiAccount(receive_accounts=[ACCOUNT])])
def test_documents_show_no_secret(document: object) -> None:
    """The repr of a document shows its fields, and asterisks for secrets."""
    assert "login='l'" in repr(document)
    assert "password=Secret('**********')" in repr(document)


@pytest.mark.parametrize("kind", [PasswordCredentials, OAuthCredentials, Account, MultiAccount])
def test_fields_are_named(kind: Callable[..., object]) -> None:
    """Every field is given by its name: the seed's constructors differ in order from release to release."""
    with pytest.raises(TypeError):
        kind("h", 1)
    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (PASSWORD, "password"),
        (OAuthCredentials(login="l", client_secret="s", refresh_token="r"), "refresh_token"),
        (ACCOUNT, "port"),
        (MultiAccount(receive_accounts=()), "receive_accounts"),
    ],
)
def test_documents_cannot_be_changed(document: object, name: str) -> None:
    """A document is a value: assigning to a field is an AttributeError."""
    before = getattr(document, name)
    with pytest.raises(AttributeError):
        setattr(document, name, None)
    assert getattr(document, name) is before


# --- accounts ------------------------------------------------------------------------------------------------------


def test_receive_accounts_take_any_iterable() -> None:
    """A list, a tuple or a generator of accounts becomes a tuple, on construction and on replacement."""
    wanted = (ACCOUNT, ACCOUNT)
    for given_accounts in ([ACCOUNT, ACCOUNT], wanted, (ACCOUNT for _ in range(2))):
        multi = MultiAccount(receive_accounts=given_accounts)
        assert multi.receive_accounts == wanted
        assert type(multi.receive_accounts) is tuple
    assert replace(MultiAccount(receive_accounts=()), receive_accounts=[ACCOUNT, ACCOUNT]).receive_accounts == wanted


def test_a_list_given_to_a_multi_account_is_copied() -> None:
    """Changing the list afterwards changes no document."""
    accounts = [ACCOUNT]
    multi = MultiAccount(receive_accounts=accounts)
    accounts.append(ACCOUNT)
    assert multi.receive_accounts == (ACCOUNT,)


def test_documents_are_compared_and_hashed_by_value() -> None:
    """Documents with equal fields are equal and have one hash; with another secret they differ."""
    twin = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password=Secret("p")))
    other = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="q"))
    assert twin == ACCOUNT
    assert hash(ACCOUNT) == hash(twin)
    assert other != ACCOUNT
    multi = MultiAccount(receive_accounts=[ACCOUNT])
    assert len({ACCOUNT, twin, other, multi, MultiAccount(receive_accounts=[twin])}) == 3
    assert cast("object", OAuthCredentials(login="l", client_secret="p", refresh_token="p")) != PASSWORD


def test_documents_are_copied() -> None:
    """A copy and a deep copy equal their document and share its secrets."""
    document = replace(ACCOUNT, cache_file=Location("x"))
    for twin in (copy.copy(document), copy.deepcopy(document)):
        assert twin == document
        assert isinstance(twin.credentials, PasswordCredentials)
        assert twin.credentials.password is PASSWORD.password


def test_asdict_keeps_secrets_secret() -> None:
    """A document taken apart holds Secrets."""
    assert asdict(PASSWORD) == {"login": "l", "password": Secret("p")}
    assert "'p'" not in repr(asdict(PASSWORD))


def test_constructing_checks_nothing() -> None:
    """A document under construction may be wrong: save and get say so."""
    wrong = Account(host="", port=0, credentials=PasswordCredentials(login="", password=""))
    assert (wrong.host, wrong.port) == ("", 0)


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (datetime(2031, 5, 6, 7, tzinfo=UTC), datetime(2031, 5, 6, 7, tzinfo=UTC)),
        (datetime(2031, 5, 6, 7, tzinfo=timezone(timedelta(hours=2))), datetime(2031, 5, 6, 5, tzinfo=UTC)),
        (None, None),
    ],
)
def test_an_expiry_is_a_moment(moment: datetime | None, shown: datetime | None) -> None:
    """An expiry is the moment that was given, in whichever zone."""
    credentials = OAuthCredentials(login="l", client_secret="s", refresh_token="r", expires_at=moment)
    assert credentials.expires_at == shown


def test_an_expiry_that_has_no_utc_is_refused() -> None:
    """A moment before year 1 or after year 9999 of UTC, which one zone's calendar still has, is a ValueError."""
    for moment in (datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), datetime.min.replace(tzinfo=EAST)):
        with pytest.raises(ValueError, match="years 1 to 9999"):
            OAuthCredentials(login="l", client_secret="s", refresh_token="r", expires_at=moment)


# --- enumerations --------------------------------------------------------------------------------------------------


def test_security_options_have_the_seeds_spelling() -> None:
    """The five values of the seed, in its letter case."""
    assert [str(option) for option in SecurityOptions] == ["None", "SSLExplicit", "SSLImplicit", "SSLAuto", "Auto"]
    assert SecurityOptions("SSLAuto") is SecurityOptions.SSL_AUTO
    assert isinstance(SecurityOptions.NONE, str)
    with pytest.raises(ValueError, match="sslauto"):
        SecurityOptions("sslauto")


def test_protocol_types_have_the_seeds_spelling() -> None:
    """The five values of the seed, in its letter case."""
    assert [str(protocol) for protocol in ProtocolType] == ["IMAP", "POP3", "SMTP", "EWS", "WebDav"]
    assert ProtocolType("WebDav") is ProtocolType.WEB_DAV
    with pytest.raises(ValueError, match="WEBDAV"):
        ProtocolType("WEBDAV")


def test_discriminators_have_the_seeds_spelling() -> None:
    """The credentials are told apart by the seed's class names."""
    tags = {kind.__struct_config__.tag for kind in (PasswordCredentials, OAuthCredentials)}
    fields = {kind.__struct_config__.tag_field for kind in (PasswordCredentials, OAuthCredentials)}
    assert tags == {"EmailClientAccountPasswordCredentials", "EmailClientAccountOauthCredentials"}
    assert fields == {"discriminator"}
