"""What a save accepts, a get returns equal; and what this release does not know survives."""

from __future__ import annotations

import json
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from samples import FOLDERS, LOCATIONS, SEGMENTS

from accountstore import AccountStore, EncodeError, Location, Secret, StorageConfig, StoreConfig
from accountstore.codecs import CODECS, JSON, MSGPACK, Codec
from accountstore.model import (
    Account,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from accountstore.model import Document

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
BOTH_CODECS = StoreConfig(
    default="json", storages={name: replace(StorageConfig("memory://"), codec=name) for name in CODECS}
)
"""Two storages, one with each codec."""
UNCHECKED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
segments = SEGMENTS.filter(lambda text: len(text.encode()) < 200 and not text.endswith((".account", ".multi")))
offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone)
zones = offsets | st.just(UTC) | (st.timezones() if zoneinfo.available_timezones() else offsets)
# A day from either end of the calendar, where a moment has no name in UTC.
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=zones)  # noqa: DTZ001 -- the zone is drawn
passwords = st.builds(PasswordCredentials, login=texts, password=texts)
oauths = st.builds(
    OAuthCredentials,
    login=texts,
    client_id=st.none() | texts,
    client_secret=texts,
    refresh_token=texts.map(Secret),
    request_url=st.none() | texts | st.just(""),
    access_token=st.none() | texts,
    expires_at=st.none() | moments,
)
accounts = st.builds(
    Account,
    host=texts,
    port=st.integers(1, 2**31 - 1),
    security_options=st.none() | st.sampled_from(SecurityOptions),
    protocol_type=st.none() | st.sampled_from(ProtocolType),
    credentials=passwords | oauths,
    cache_file=st.none() | LOCATIONS,
)
multi_accounts = st.builds(
    MultiAccount, receive_accounts=st.lists(accounts, max_size=4), send_account=st.none() | accounts
)
documents = accounts | multi_accounts


PASSWORD = PasswordCredentials(login="l", password="p")
OAUTH = OAuthCredentials(login="l", client_secret="s", refresh_token="r")


def plain(**more: Any) -> Account:
    """An account with a password, with some fields replaced."""
    return replace(Account(host="h", port=1, credentials=PASSWORD), **more)


@settings(max_examples=100)
@given(document=documents)
@example(document=plain(host='\0\x1f\x7f\u2028\U0001f510e\u0301\ufeff\uffff\U0010ffff\\"/'))
@BOTH
def test_what_is_encoded_is_decoded_equal(codec: Codec, document: Document) -> None:
    """Any document of any text comes back equal from either codec."""
    decoded = codec.decode(codec.encode(document), type(document))
    assert decoded == document
    assert codec.encode(decoded) == codec.encode(document)


PARIS = [zoneinfo.ZoneInfo("Europe/Paris")] if zoneinfo.available_timezones() else []
MOMENTS = [
    datetime(2024, 10, 27, 2, 30, tzinfo=timezone(timedelta(hours=1, seconds=30))),
    datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
    datetime(2024, 1, 1, microsecond=1, tzinfo=timezone(timedelta(microseconds=-1))),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    *(datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=zone) for fold in (0, 1) for zone in PARIS),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@BOTH
def test_odd_moments_come_back_equal(codec: Codec, moment: datetime) -> None:
    """An expiry in a zone with odd seconds, at an end of the calendar or in a repeated hour is read back equal."""
    document = plain(credentials=replace(OAUTH, expires_at=moment))
    decoded = codec.decode(codec.encode(document), Account)
    assert decoded == document
    assert isinstance(decoded.credentials, OAuthCredentials)
    assert decoded.credentials.expires_at == moment.astimezone(UTC)


@given(text=st.tuples(st.text(max_size=5), st.characters(categories=["Cs"]), st.text(max_size=5)).map("".join))
@BOTH
def test_a_lone_surrogate_is_refused(codec: Codec, text: str) -> None:
    """Text that is not Unicode cannot be saved, in any field."""
    for document in (
        plain(host=text),
        plain(credentials=replace(PASSWORD, login=text)),
        plain(credentials=replace(PASSWORD, password=text)),
        plain(credentials=replace(OAUTH, client_secret=text)),
        plain(credentials=replace(OAUTH, request_url=text)),
        MultiAccount(receive_accounts=[plain(host=text)]),
    ):
        with pytest.raises(EncodeError):
            codec.encode(document)


@settings(max_examples=25, suppress_health_check=UNCHECKED)
@given(single=accounts, multi=multi_accounts, folder=FOLDERS, stem=segments)
@pytest.mark.anyio
async def test_what_is_saved_is_got_equal(single: Account, multi: MultiAccount, folder: str, stem: str) -> None:
    """Any account saved through the store, under any name, comes back equal, from storages with either codec."""
    async with AccountStore.open(BOTH_CODECS) as store:
        for storage in store.storages:
            one = Location(f"{stem}.account", folder=folder, storage=storage)
            many = Location(f"{stem}.multi.account", folder=folder, storage=storage)
            version, multi_version = await store.save(one, single), await store.save_multi(many, multi)
            assert await store.get(one) == single
            assert await store.get_multi(many) == multi
            stored, multi_stored = await store.read(one), await store.read_multi(many)
            assert (stored.document, stored.version) == (single, version)
            assert (multi_stored.document, multi_stored.version) == (multi, multi_version)
            assert {entry.location async for entry in store.list(folder, storage=storage)} == {one, many}


KNOWN = {
    *("host", "port", "securityOptions", "protocolType", "credentials", "cacheFile", "receiveAccounts", "sendAccount"),
    *("discriminator", "login", "password", "clientId", "clientSecret", "refreshToken", "requestUrl", "accessToken"),
    *("expiresAt", "storage", "folderPath", "fileName"),
}
# What both formats carry; JSON alone has no bounds for integers.
ANY = st.characters(exclude_categories=["Cs"])
# What both formats carry; JSON alone has no bounds for integers.
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(ANY, max_size=10)
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(ANY), inner, max_size=3), max_leaves=6
)
unknown = st.dictionaries(texts.filter(lambda name: name not in KNOWN), trees, min_size=1, max_size=3)


def as_tree(document: Document) -> Any:
    """A document's JSON as a tree."""
    return json.loads(JSON.encode(document))


def exact(tree: object) -> bytes:
    """A tree as bytes that tell 1, 1.0 and true apart."""
    return msgspec.json.encode(tree, order="sorted")


@st.composite
def enriched(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """A document's tree with unknown fields at every level."""
    known = {
        name: draw(enriched(part)) if isinstance(part, dict) else list(map(draw, map(enriched, part)))
        for name, part in tree.items()
        if isinstance(part, (dict, list))
    }
    return tree | known | draw(unknown)


@settings(max_examples=40)
@given(data=st.data(), document=documents, port=st.integers(1, 2**31 - 1))
def test_unknown_fields_survive_merge_and_trees(data: st.DataObject, document: Document, port: int) -> None:
    """Fields that no class knows, at every level, are the same after a change and after a turn through both formats."""
    kind = type(document)
    tree = data.draw(enriched(as_tree(document)))
    original = exact(tree)
    packed = MSGPACK.encode_tree(JSON.decode_tree(original), kind)
    assert MSGPACK.decode(packed, kind) == document
    assert exact(msgspec.msgpack.decode(packed)) == original
    assert exact(json.loads(JSON.encode_tree(MSGPACK.decode_tree(packed), kind))) == original
    if isinstance(document, Account):
        changed: Document = replace(document, port=port)
        tree["port"] = port
    else:
        old = document.receive_accounts
        if len({(account.protocol_type, account.host, account.credentials.login) for account in old}) < len(old):
            return  # Which of two accounts alike is which, nobody can say.
        changed = replace(document, receive_accounts=[replace(account, port=port) for account in old])
        for account in tree["receiveAccounts"]:
            account["port"] = port
    assert exact(json.loads(JSON.merge(changed, original))) == exact(tree)
    assert exact(msgspec.msgpack.decode(MSGPACK.merge(changed, packed))) == exact(tree)


@given(data=st.data(), size=st.integers(0, 5))
@BOTH
def test_unknown_fields_follow_their_account(codec: Codec, data: st.DataObject, size: int) -> None:
    """Accounts that move, stay the same or keep protocol, host and login keep their unknown fields; a new one takes
    those of its place, where they are free.
    """
    old = [plain(host=f"old{number}") for number in range(size)]
    tree = as_tree(MultiAccount(receive_accounts=old))
    for number, account in enumerate(tree["receiveAccounts"]):
        account["mark"] = number
        account["credentials"]["deep"] = {"mark": number}
    format_: Any = msgspec.json if codec is JSON else msgspec.msgpack
    kept = data.draw(st.lists(st.integers(0, max(0, size - 1)), unique=True, max_size=size))
    ways: list[dict[str, Any]] = [{}, {"credentials": replace(PASSWORD, password="new")}, {"port": 99}]
    new: list[tuple[Account, int | None]] = [
        (replace(old[number], **data.draw(st.sampled_from(ways))), number) for number in kept
    ]
    for number in range(data.draw(st.integers(0, 3))):
        new.insert(data.draw(st.integers(0, len(new))), (plain(host=f"new{number}"), None))
    expected = [
        number if number is not None else place if place < size and place not in kept else None
        for place, (_, number) in enumerate(new)
    ]
    merged = codec.merge(MultiAccount(receive_accounts=[account for account, _ in new]), format_.encode(tree))
    result = format_.decode(merged)["receiveAccounts"]
    assert [account.get("mark") for account in result] == expected
    assert [account["credentials"].get("deep") for account in result] == [
        None if mark is None else {"mark": mark} for mark in expected
    ]
    assert [account["host"] for account in result] == [account.host for account, _ in new]


@settings(max_examples=15, suppress_health_check=UNCHECKED)
@given(data=st.data(), document=documents)
@pytest.mark.anyio
async def test_unknown_fields_survive_update_copy_and_move(data: st.DataObject, document: Document) -> None:
    """Update, copy and move keep unknown fields at every level, also between storages with different codecs."""
    sender = plain(host="new sender")
    here = Location("x.account" if isinstance(document, Account) else "x.multi.account")
    away, back = Location(here.file_name, folder="away", storage="msgpack"), Location(here.file_name, folder="back")
    tree = data.draw(enriched(as_tree(document)))
    # The new sender takes the fields of the one before; here there is none.
    tree.pop("sendAccount", None)
    async with AccountStore.open(BOTH_CODECS) as store:
        fs, root = await store.filesystem()
        fs.pipe_file(f"{root}{here}", exact(tree))
        await store.copy(here, away)
        if isinstance(document, Account):
            tree["port"] = document.port % 1000 + 1001
            await store.update(away, lambda old: replace(old, port=tree["port"]))
        else:
            tree["sendAccount"] = as_tree(sender)
            tree["receiveAccounts"] = tree["receiveAccounts"][:1]
            await store.update_multi(
                away, lambda old: MultiAccount(receive_accounts=old.receive_accounts[:1], send_account=sender)
            )
        await store.move(away, back)
        assert not await store.exists(away)
        assert exact(json.loads(fs.cat_file(f"{root}{back}"))) == exact(tree)


def test_control_a_plain_save_drops_unknown_fields() -> None:
    """Encoding the decoded document, as an overwrite does, drops them."""
    tree = as_tree(plain()) | {"unknown": 1}
    assert "unknown" not in json.loads(JSON.encode(JSON.decode(exact(tree), Account)))


SEED_PASSWORD = PasswordCredentials(login="example@gmail.com", password="password")
SEED_OAUTH = OAuthCredentials(
    login="example@example.com", client_id="clientId", client_secret="clientSecret", refresh_token="refreshToken"
)
OUTLOOK = replace(SEED_OAUTH, login="example@outlook.com")
AUTO: dict[str, Any] = {"security_options": SecurityOptions.SSL_AUTO}
SMTP: dict[str, Any] = {"port": 465, "protocol_type": ProtocolType.SMTP, **AUTO}

SEED: list[tuple[str, str, Document]] = [
    (
        "file/location/folder/on/storage/email.account",
        """{"host": "smtp.example.com", "port": 465, "securityOptions": "SSLAuto", "protocolType": "SMTP",
        "credentials": {"login": "example@example.com", "discriminator": "EmailClientAccountOauthCredentials",
        "clientId": "clientId", "clientSecret": "clientSecret", "refreshToken": "refreshToken"}}""",
        Account(host="smtp.example.com", credentials=SEED_OAUTH, **SMTP),
    ),
    (
        "file/location/folder/on/storage/email.multi.account",
        """{"receiveAccounts": [{"host": "imap.gmail.com", "port": 993, "securityOptions": "SSLAuto",
        "credentials": {"login": "example@gmail.com", "discriminator": "EmailClientAccountPasswordCredentials",
        "password": "password"}}, {"host": "exchange@outlook.com", "port": 443, "protocolType": "EWS",
        "credentials": {"login": "example@outlook.com", "discriminator": "EmailClientAccountOauthCredentials",
        "clientId": "clientId", "clientSecret": "clientSecret", "refreshToken": "refreshToken"}}],
        "sendAccount": {"host": "smtp.gmail.com", "port": 465, "securityOptions": "SSLAuto", "protocolType": "SMTP",
        "credentials": {"login": "example@gmail.com", "discriminator": "EmailClientAccountPasswordCredentials",
        "password": "password"}}}""",
        MultiAccount(
            receive_accounts=[
                Account(host="imap.gmail.com", port=993, credentials=SEED_PASSWORD, **AUTO),
                Account(host="exchange@outlook.com", port=443, protocol_type=ProtocolType.EWS, credentials=OUTLOOK),
            ],
            send_account=Account(host="smtp.gmail.com", credentials=SEED_PASSWORD, **SMTP),
        ),
    ),
    (
        "a.account",
        """{"host": "h", "port": 1, "securityOptions": "None", "protocolType": "IMAP", "credentials":
        {"login": "l", "discriminator": "EmailClientAccountPasswordCredentials", "password": "p"}}""",
        plain(security_options=SecurityOptions.NONE, protocol_type=ProtocolType.IMAP),
    ),
    (
        "f/pop.account",
        """{"host": "pop.gmail.com", "port": 995, "securityOptions": "SSLAuto", "protocolType": "POP3",
        "credentials": {"login": "example@example.com", "discriminator": "EmailClientAccountOauthCredentials",
        "clientId": "clientId", "clientSecret": "clientSecret", "refreshToken": "refreshToken",
        "requestUrl": "https://token.example.com/"},
        "cacheFile": {"storage": "First Storage", "folderPath": "f", "fileName": "account.cache"}}""",
        Account(
            host="pop.gmail.com",
            port=995,
            **AUTO,
            protocol_type=ProtocolType.POP3,
            credentials=replace(SEED_OAUTH, request_url="https://token.example.com/"),
            cache_file=Location("account.cache", folder="f", storage="First Storage"),
        ),
    ),
    ("a.multi.account", '{"receiveAccounts": []}', MultiAccount(receive_accounts=[])),
    (
        "odd/no-client-id.account",
        """{"host": "exchange.example.com", "port": 443, "credentials": {"login": "example@example.com",
        "discriminator": "EmailClientAccountOauthCredentials",
        "clientSecret": "clientSecret", "refreshToken": "refreshToken", "requestUrl": "refresh_token"}}""",
        plain(
            host="exchange.example.com",
            port=443,
            credentials=replace(SEED_OAUTH, client_id=None, request_url="refresh_token"),
        ),
    ),
    (
        "odd/high-port.account",
        """{"host": "h", "port": 65536, "credentials": {"login": "example@example.com",
        "discriminator": "EmailClientAccountOauthCredentials", "clientId": "clientId",
        "clientSecret": "clientSecret", "refreshToken": "refreshToken", "requestUrl": ""}}""",
        Account(host="h", port=65_536, credentials=replace(SEED_OAUTH, request_url="")),
    ),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "value", "model"), SEED, ids=[path for path, _, _ in SEED])
async def test_seed_samples_are_saved_as_they_are(path: str, value: str, model: Document, tmp_path: Path) -> None:
    """A sample of the seed is saved as the seed's `value`, and read as the model in whichever layout."""
    location = Location.parse(f"First Storage:{path}")
    async with AccountStore.open(StoreConfig(storages={"First Storage": StorageConfig(str(tmp_path))})) as store:
        if isinstance(model, Account):
            await store.save(location, model)
        else:
            await store.save_multi(location, model)
        assert exact(json.loads((tmp_path / path).read_bytes())) == exact(json.loads(value))
        read = await (store.get(location) if isinstance(model, Account) else store.get_multi(location))
    assert read == model
    assert type(read) is type(model)
    assert JSON.decode(value.encode(), type(model)) == model
