"""What a save accepts, a get returns equal; and what this release does not know survives."""

from __future__ import annotations

import json
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast
from unicodedata import normalize

import anyio
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accountstore import (
    Account,
    AccountStore,
    EncodeError,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    Secret,
    SecurityOptions,
    StorageConfig,
    StoreConfig,
)
from accountstore.codecs import CODECS, JSON, MSGPACK, Codec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOOPS = pytest.mark.parametrize(
    ("backend", "options"),
    [
        pytest.param("asyncio", {}, id="asyncio"),
        pytest.param("asyncio", {"use_uvloop": True}, id="uvloop"),
        pytest.param("trio", {}, id="trio"),
    ],
)

# --- documents -----------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
segments = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:*?[]{}#\u2028\u2029"), min_size=1)
    .map(lambda text: normalize("NFC", text))
    .filter(lambda text: text not in {".", ".."} and len(text.encode()) < 200)
    .filter(lambda text: not text.startswith(".accountstore-") and not text.endswith((".account", ".multi")))
)
folders = st.lists(segments, max_size=3).map("/".join)
cache_files = st.builds(Location, segments, folder=folders, storage=st.none() | segments)
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
    cache_file=st.none() | cache_files,
)
multi_accounts = st.builds(
    MultiAccount, receive_accounts=st.lists(accounts, max_size=4), send_account=st.none() | accounts
)
documents = accounts | multi_accounts


def plain(**more: Any) -> Account:
    """An account with a password, with some fields replaced."""
    account = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
    return msgspec.structs.replace(account, **more)


@settings(max_examples=200)
@given(document=documents)
@example(document=plain(host='\0\x1f\x7f\u2028\U0001f510e\u0301\ufeff\uffff\U0010ffff\\"/'))
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_what_is_encoded_is_decoded_equal(codec: Codec, document: Account | MultiAccount) -> None:
    """Any document of any text comes back equal from either codec."""
    decoded = codec.decode(codec.encode(document), type(document))
    assert decoded == document
    assert codec.encode(decoded) == codec.encode(document)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2024, 10, 27, 2, 30, tzinfo=timezone(timedelta(hours=1, seconds=30))),
        datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
        datetime(2024, 1, 1, microsecond=1, tzinfo=timezone(timedelta(microseconds=-1))),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_odd_moments_come_back_equal(codec: Codec, moment: datetime) -> None:
    """An expiry in a zone with odd seconds, or at an end of the calendar, is the same moment when read back."""
    credentials = OAuthCredentials(login="l", client_secret="s", refresh_token="r", expires_at=moment)
    decoded = codec.decode(codec.encode(plain(credentials=credentials)), Account)
    assert isinstance(decoded.credentials, OAuthCredentials)
    assert decoded.credentials.expires_at == moment


@pytest.mark.skipif(not zoneinfo.available_timezones(), reason="this machine has no time zone database")
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("fold", [0, 1])
def test_a_repeated_hour_comes_back_equal(codec: Codec, fold: int) -> None:
    """An account that expires in the hour that the end of summer time repeats is equal when read back."""
    moment = datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))
    credentials = OAuthCredentials(login="l", client_secret="s", refresh_token="r", expires_at=moment)
    document = plain(credentials=credentials)
    assert codec.decode(codec.encode(document), Account) == document


surrogates = st.tuples(st.text(max_size=5), st.characters(categories=["Cs"]), st.text(max_size=5)).map("".join)


@given(text=surrogates)
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_a_lone_surrogate_is_refused(codec: Codec, text: str) -> None:
    """Text that is not Unicode cannot be saved, in any field."""
    for document in (
        plain(host=text),
        plain(credentials=PasswordCredentials(login=text, password="p")),
        plain(credentials=PasswordCredentials(login="l", password=text)),
        plain(credentials=OAuthCredentials(login="l", client_secret=text, refresh_token="r")),
        plain(credentials=OAuthCredentials(login="l", client_secret="s", refresh_token="r", request_url=text)),
    ):
        with pytest.raises(EncodeError):
            codec.encode(document)
    with pytest.raises(EncodeError):
        codec.encode(MultiAccount(receive_accounts=[plain(host=text)]))


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize(
    "document",
    [
        plain(cache_file={"fileName": "x"}),
        plain(host=Secret("h")),
        plain(host=b"host"),
        plain(host=datetime(2024, 1, 1, tzinfo=UTC)),
        plain(credentials={"discriminator": "EmailClientAccountPasswordCredentials", "login": "l", "password": "p"}),
        plain(credentials=PasswordCredentials(login="l", password=cast("Any", b"p"))),
        plain(port=True),
        plain(port=1.0),
    ],
    ids=lambda document: str(document.__class__.__name__),
)
def test_what_would_not_come_back_equal_is_refused(codec: Codec, document: Account) -> None:
    """A value of a wrong type is refused, also where the format could write it as something else."""
    with pytest.raises(EncodeError):
        codec.encode(document)


@settings(max_examples=25)
@given(single=accounts, multi=multi_accounts, folder=folders, stem=segments)
@LOOPS
def test_what_is_saved_is_got_equal(
    backend: str, options: dict[str, Any], single: Account, multi: MultiAccount, folder: str, stem: str
) -> None:
    """Any account saved through the store, under any name, comes back equal, from storages with either codec."""

    async def save_and_get() -> None:
        config = StoreConfig(
            default="json", storages={codec: StorageConfig("memory://", codec=codec) for codec in CODECS}
        )
        async with AccountStore.open(config) as store:
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

    anyio.run(save_and_get, backend=backend, backend_options=options)


# --- fields that this release does not know ------------------------------------------------------------------------

KNOWN = {
    *("host", "port", "securityOptions", "protocolType", "credentials", "cacheFile", "receiveAccounts", "sendAccount"),
    *("discriminator", "login", "password", "clientId", "clientSecret", "refreshToken", "requestUrl", "accessToken"),
    *("expiresAt", "storage", "folderPath", "fileName"),
}
# What both formats carry; JSON alone has no bounds for integers.
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
)
any_text = st.text(st.characters(exclude_categories=["Cs"]))
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=6
)
unknown = st.dictionaries(texts.filter(lambda name: name not in KNOWN), trees, min_size=1, max_size=3)


def as_tree(document: Account | MultiAccount) -> dict[str, Any]:
    """A document's JSON as a tree."""
    tree: dict[str, Any] = json.loads(JSON.encode(document))
    return tree


def exact(tree: object) -> bytes:
    """A tree as bytes that tell 1, 1.0 and true apart."""
    return msgspec.json.encode(tree, order="sorted")


@st.composite
def enriched(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """A document's tree with unknown fields at every level."""
    result = {
        name: draw(enriched(part)) if isinstance(part, dict) else part
        for name, part in tree.items()
        if name != "receiveAccounts"
    }
    if "receiveAccounts" in tree:
        result["receiveAccounts"] = [draw(enriched(account)) for account in tree["receiveAccounts"]]
    return result | draw(unknown)


@settings(max_examples=80)
@given(data=st.data(), document=documents, port=st.integers(1, 2**31 - 1))
def test_unknown_fields_survive_merge_and_trees(
    data: st.DataObject, document: Account | MultiAccount, port: int
) -> None:
    """Fields that no class knows, at every level, are the same after a change and after a turn through both formats."""
    kind = type(document)
    tree = data.draw(enriched(as_tree(document)))
    original = exact(tree)
    packed = MSGPACK.encode_tree(JSON.decode_tree(original), kind)
    assert MSGPACK.decode(packed, kind) == document
    assert exact(msgspec.msgpack.decode(packed)) == exact(tree)
    assert exact(json.loads(JSON.encode_tree(MSGPACK.decode_tree(packed), kind))) == exact(tree)
    if isinstance(document, Account):
        changed: Account | MultiAccount = msgspec.structs.replace(document, port=port)
        tree["port"] = port
    else:
        changed = msgspec.structs.replace(
            document, receive_accounts=[msgspec.structs.replace(a, port=port) for a in document.receive_accounts]
        )
        for account in tree["receiveAccounts"]:
            account["port"] = port
    if isinstance(document, MultiAccount) and len({identity(a) for a in document.receive_accounts}) < len(
        document.receive_accounts
    ):
        return  # Which of two accounts alike is which, nobody can say.
    assert exact(json.loads(JSON.merge(changed, original))) == exact(tree)
    assert exact(msgspec.msgpack.decode(MSGPACK.merge(changed, packed))) == exact(tree)


def identity(account: Account) -> tuple[object, ...]:
    """What tells an account from the others of a multi account."""
    return account.protocol_type, account.host, account.credentials.login


@given(data=st.data(), size=st.integers(0, 5))
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_unknown_fields_follow_their_account(codec: Codec, data: st.DataObject, size: int) -> None:
    """Accounts that move, stay the same or keep protocol, host and login keep their unknown fields; a new one takes
    those of its place, where they are free."""
    old = [plain(host=f"old{number}") for number in range(size)]
    tree = as_tree(MultiAccount(receive_accounts=old))
    for number, account in enumerate(tree["receiveAccounts"]):
        account["mark"] = number
        account["credentials"]["deep"] = {"mark": number}
    raw = exact(tree) if codec is JSON else msgspec.msgpack.encode(tree)
    kept: Sequence[int] = data.draw(st.lists(st.integers(0, max(0, size - 1)), unique=True, max_size=size))
    new: list[tuple[Account, int | None]] = []
    ways: dict[str, dict[str, Any]] = {
        "same": {},
        "password": {"credentials": PasswordCredentials(login="l", password="new")},
        "port": {"port": 99},
    }
    for number in kept:
        changes = ways[data.draw(st.sampled_from(sorted(ways)))]
        new.append((msgspec.structs.replace(old[number], **changes), number))
    for number in range(data.draw(st.integers(0, 3))):
        new.insert(data.draw(st.integers(0, len(new))), (plain(host=f"new{number}"), None))
    expected = [
        number if number is not None else place if place < size and place not in kept else None
        for place, (_, number) in enumerate(new)
    ]
    merged = codec.merge(MultiAccount(receive_accounts=[account for account, _ in new]), raw)
    result = (msgspec.json if codec is JSON else msgspec.msgpack).decode(merged)["receiveAccounts"]
    assert [account.get("mark") for account in result] == expected
    assert [account["credentials"].get("deep") for account in result] == [
        None if mark is None else {"mark": mark} for mark in expected
    ]
    assert [account["host"] for account in result] == [account.host for account, _ in new]


@settings(max_examples=15)
@given(data=st.data(), document=documents)
@LOOPS
def test_unknown_fields_survive_update_copy_and_move(
    backend: str, options: dict[str, Any], data: st.DataObject, document: Account | MultiAccount
) -> None:
    """Update, copy and move keep unknown fields at every level, also between storages with different codecs."""
    tree: dict[str, Any] = data.draw(enriched(as_tree(document)))
    name = "x.account" if isinstance(document, Account) else "x.multi.account"

    async def update_copy_move() -> None:
        config = StoreConfig(
            default="json", storages={codec: StorageConfig("memory://", codec=codec) for codec in CODECS}
        )
        async with AccountStore.open(config) as store:
            fs, root = await store.filesystem()
            fs.pipe_file(f"{root}{name}", exact(tree))
            away = Location(name, folder="away", storage="msgpack")
            await store.copy(Location(name), away)
            if isinstance(document, Account):
                tree["port"] = document.port % 1000 + 1001
                await store.update(away, lambda old: msgspec.structs.replace(old, port=tree["port"]))
            else:
                tree["sendAccount"] = as_tree(plain(host="new sender"))
                tree["receiveAccounts"] = tree["receiveAccounts"][:1]
                await store.update_multi(
                    away, lambda old: MultiAccount(receive_accounts=old.receive_accounts[:1], send_account=sender)
                )
            await store.move(away, Location(name, folder="back"))
            assert not await store.exists(away)
            assert exact(json.loads(fs.cat_file(f"{root}back/{name}"))) == exact(tree)

    sender = plain(host="new sender")
    if isinstance(document, MultiAccount):
        # The new sender takes the fields of the one before; here there is none.
        tree.pop("sendAccount", None)
    anyio.run(update_copy_move, backend=backend, backend_options=options)


def test_control_a_plain_save_drops_unknown_fields() -> None:
    """Encoding the decoded document, as an overwrite does, drops them."""
    tree = as_tree(plain()) | {"unknown": 1}
    assert "unknown" not in json.loads(JSON.encode(JSON.decode(exact(tree), Account)))


# --- the seed's samples --------------------------------------------------------------------------------------------


def _seed_password(login: str) -> dict[str, Any]:
    return {"login": login, "discriminator": "EmailClientAccountPasswordCredentials", "password": "password"}


def _seed_oauth(login: str, **more: str) -> dict[str, Any]:
    return {
        "login": login,
        "discriminator": "EmailClientAccountOauthCredentials",
        "clientId": "clientId",
        "clientSecret": "clientSecret",
        "refreshToken": "refreshToken",
        **more,
    }


SEED: list[tuple[str, str, dict[str, Any], Account | MultiAccount]] = [
    (
        "file/location/folder/on/storage",
        "email.account",
        {
            "host": "smtp.example.com",
            "port": 465,
            "securityOptions": "SSLAuto",
            "protocolType": "SMTP",
            "credentials": _seed_oauth("example@example.com"),
        },
        Account(
            host="smtp.example.com",
            port=465,
            security_options=SecurityOptions.SSL_AUTO,
            protocol_type=ProtocolType.SMTP,
            credentials=OAuthCredentials(
                login="example@example.com",
                client_id="clientId",
                client_secret="clientSecret",
                refresh_token="refreshToken",
            ),
        ),
    ),
    (
        "file/location/folder/on/storage",
        "email.multi.account",
        {
            "receiveAccounts": [
                {
                    "host": "imap.gmail.com",
                    "port": 993,
                    "securityOptions": "SSLAuto",
                    "credentials": _seed_password("example@gmail.com"),
                },
                {
                    "host": "exchange@outlook.com",
                    "port": 443,
                    "protocolType": "EWS",
                    "credentials": _seed_oauth("example@outlook.com"),
                },
            ],
            "sendAccount": {
                "host": "smtp.gmail.com",
                "port": 465,
                "securityOptions": "SSLAuto",
                "protocolType": "SMTP",
                "credentials": _seed_password("example@gmail.com"),
            },
        },
        MultiAccount(
            receive_accounts=[
                Account(
                    host="imap.gmail.com",
                    port=993,
                    security_options=SecurityOptions.SSL_AUTO,
                    credentials=PasswordCredentials(login="example@gmail.com", password="password"),
                ),
                Account(
                    host="exchange@outlook.com",
                    port=443,
                    protocol_type=ProtocolType.EWS,
                    credentials=OAuthCredentials(
                        login="example@outlook.com",
                        client_id="clientId",
                        client_secret="clientSecret",
                        refresh_token="refreshToken",
                    ),
                ),
            ],
            send_account=Account(
                host="smtp.gmail.com",
                port=465,
                security_options=SecurityOptions.SSL_AUTO,
                protocol_type=ProtocolType.SMTP,
                credentials=PasswordCredentials(login="example@gmail.com", password="password"),
            ),
        ),
    ),
    (
        "",
        "a.account",
        {
            "host": "h",
            "port": 1,
            "securityOptions": "None",
            "protocolType": "IMAP",
            "credentials": {"login": "l", "discriminator": "EmailClientAccountPasswordCredentials", "password": "p"},
        },
        plain(security_options=SecurityOptions.NONE, protocol_type=ProtocolType.IMAP),
    ),
    (
        "f",
        "pop.account",
        {
            "host": "pop.gmail.com",
            "port": 995,
            "securityOptions": "SSLAuto",
            "protocolType": "POP3",
            "credentials": _seed_oauth("l", requestUrl="https://token.example.com/"),
            "cacheFile": {"storage": "First Storage", "folderPath": "f", "fileName": "account.cache"},
        },
        Account(
            host="pop.gmail.com",
            port=995,
            security_options=SecurityOptions.SSL_AUTO,
            protocol_type=ProtocolType.POP3,
            credentials=OAuthCredentials(
                login="l",
                client_id="clientId",
                client_secret="clientSecret",
                refresh_token="refreshToken",
                request_url="https://token.example.com/",
            ),
            cache_file=Location("account.cache", folder="f", storage="First Storage"),
        ),
    ),
    ("", "a.multi.account", {"receiveAccounts": []}, MultiAccount(receive_accounts=[])),
    (
        "odd",
        "no-client-id.account",
        {
            "host": "exchange.example.com",
            "port": 443,
            "credentials": {
                "login": "example@outlook.com",
                "discriminator": "EmailClientAccountOauthCredentials",
                "clientSecret": "client_id",
                "refreshToken": "client_secret",
                "requestUrl": "refresh_token",
            },
        },
        Account(
            host="exchange.example.com",
            port=443,
            credentials=OAuthCredentials(
                login="example@outlook.com",
                client_secret="client_id",
                refresh_token="client_secret",
                request_url="refresh_token",
            ),
        ),
    ),
    (
        "odd",
        "high-port.account",
        {"host": "h", "port": 65_536, "credentials": _seed_oauth("l", requestUrl="")},
        Account(
            host="h",
            port=65_536,
            credentials=OAuthCredentials(
                login="l",
                client_id="clientId",
                client_secret="clientSecret",
                refresh_token="refreshToken",
                request_url="",
            ),
        ),
    ),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("folder", "name", "value", "model"), SEED, ids=[f"{at}/{name}" for at, name, _, _ in SEED])
async def test_seed_samples_are_saved_as_they_are(
    folder: str, name: str, value: dict[str, Any], model: Account | MultiAccount, tmp_path: Path
) -> None:
    """Each sample of the seed, saved: the file's JSON is the seed's `value`, and what is read back is the model."""
    config = StoreConfig(storages={"First Storage": StorageConfig(str(tmp_path))})
    location = Location(name, folder=folder, storage="First Storage")
    async with AccountStore.open(config) as store:
        if isinstance(model, Account):
            await store.save(location, model)
        else:
            await store.save_multi(location, model)
        assert exact(json.loads((tmp_path / location.path).read_bytes())) == exact(value)
        read = await (store.get(location) if isinstance(model, Account) else store.get_multi(location))
    assert read == model
    assert type(read) is type(model)


@pytest.mark.parametrize(("folder", "name", "value", "model"), SEED, ids=[f"{at}/{name}" for at, name, _, _ in SEED])
def test_seed_samples_are_read_as_other_writers_write_them(
    folder: str, name: str, value: dict[str, Any], model: Account | MultiAccount
) -> None:
    """Each sample in any layout, with nulls for what is left out, is read as the model; all its fields are there."""
    assert folder == folder.strip("/")
    assert name.endswith(".account")
    assert JSON.decode(json.dumps(value, indent=3, ensure_ascii=True).encode(), type(model)) == model
    if isinstance(model, Account):
        nulls = {"securityOptions": None, "protocolType": None, "cacheFile": None} | value
        if isinstance(model.credentials, OAuthCredentials):
            absent = dict.fromkeys(["clientId", "requestUrl", "accessToken", "expiresAt"])
            nulls = nulls | {"credentials": absent | value["credentials"]}
        assert JSON.decode(json.dumps(nulls).encode(), Account) == model
        assert {part.reveal() if isinstance(part, Secret) else part for part in _parts(model.credentials)} - {None} == {
            part for key, part in value["credentials"].items() if key != "discriminator"
        }
    else:
        assert JSON.decode(json.dumps({"sendAccount": None} | value).encode(), MultiAccount) == model


def _parts(credentials: PasswordCredentials | OAuthCredentials) -> tuple[object, ...]:
    return msgspec.structs.astuple(credentials)
