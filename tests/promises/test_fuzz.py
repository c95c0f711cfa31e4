"""Fuzzing: hostile documents and names end in a document, a location or an AccountStoreError that quotes nothing.

`ACCOUNTSTORE_FUZZ_DOCUMENTS` and `ACCOUNTSTORE_FUZZ_NAMES` set how many are tried, `ACCOUNTSTORE_FUZZ_SEED` where the
random numbers start. A failure prints the input that caused it.
"""

from __future__ import annotations

import json
import os
import re
from codecs import BOM_UTF8
from collections import Counter
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import pytest

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    DecodeError,
    DocumentError,
    EncodeError,
    Location,
    LocationError,
    MultiAccount,
    SecurityOptions,
    StorageConfig,
    StoreConfig,
)
from accountstore.codecs import JSON, MSGPACK
from accountstore.strict import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from accountstore.codecs import Codec

DOCUMENTS = int(os.environ.get("ACCOUNTSTORE_FUZZ_DOCUMENTS", "10000"))
NAMES = int(os.environ.get("ACCOUNTSTORE_FUZZ_NAMES", "5000"))
SEED = int(os.environ.get("ACCOUNTSTORE_FUZZ_SEED", "20240229"))

# Every value and every unknown name in the seeds is made of this, so a message that quotes four characters shows it.
CANARY = "qzjx"
_CANARY = re.compile("qzjx|zjxq|jxqz|xqzj", re.IGNORECASE)
# What a message may say beside its template: paths of known fields and types. More templates than this would mean that
# messages hold parts of their input.
_WHERE = re.compile(
    r"\$(?:\[(?:\d+|\.\.\.)\]|\.(?:receiveAccounts|sendAccount|credentials|cacheFile|host|port|securityOptions|protocolType"
    r"|login|password|clientId|clientSecret|refreshToken|requestUrl|accessToken|expiresAt|discriminator"
    r"|storage|folderPath|fileName))*(?![\w.\[])"
)
_NAMED = re.compile(r"`[\w| -]+`|has (?:'.'|U\+[0-9A-F]+):")
MOST_TEMPLATES = 50

Kind: TypeAlias = type[Account] | type[MultiAccount]
Case: TypeAlias = "tuple[Codec, Kind, bytes]"


def value(length: int = 12) -> str:
    """A value for a seed: the canary over and over."""
    return (CANARY * length)[:length]


def password_account(**more: object) -> dict[str, Any]:
    """A seed account with a password, as the JSON tree."""
    credentials = {"login": value(9), "discriminator": "EmailClientAccountPasswordCredentials", "password": value(16)}
    fields = {"host": value(), "port": 993, "securityOptions": "SSLAuto", "protocolType": "IMAP"}
    return {**fields, "credentials": credentials, **more}


def oauth_account(**more: object) -> dict[str, Any]:
    """A seed account with all OAuth fields, as the JSON tree."""
    credentials: dict[str, Any] = {"discriminator": "EmailClientAccountOauthCredentials", "login": value()}
    credentials |= {"clientId": value(5), "clientSecret": value(17), "refreshToken": value(18), "requestUrl": value()}
    credentials |= {"accessToken": value(19), "expiresAt": "2031-05-06T07:08:09.123456+05:30"}
    credentials[value(7)] = [value(), {value(): None}]
    return {"host": value(10), "port": 443, "credentials": credentials, **more}


TREES: list[tuple[Kind, dict[str, Any]]] = [
    (Account, password_account()),
    (Account, oauth_account(cacheFile={"storage": value(), "folderPath": f"{value()}/{value()}", "fileName": value()})),
    (Account, password_account(**{value(): {value(): [1, -2.5, True, None, value()]}})),
    (MultiAccount, {"receiveAccounts": []}),
    (MultiAccount, {"receiveAccounts": [password_account(), oauth_account()], "sendAccount": password_account()}),
    (MultiAccount, {"receiveAccounts": [oauth_account(**{value(): value()})], value(): {value(): value()}}),
]


def json_tokens(tree: object) -> list[bytes]:
    """The tokens of a tree's JSON."""
    text = json.dumps(tree, ensure_ascii=False)
    return [token.encode() for token in re.findall(r'"[^"]*"|[\[\]{}:,]|[^\s\[\]{}:,"]+|\s+', text)]


def msgpack_tokens(tree: object) -> list[bytes]:
    """The tokens of a tree's MessagePack: container heads, keys and scalars."""
    match tree:
        case dict():
            members: list[Any] = [part for pair in tree.items() for part in pair]
            return [bytes([0x80 | len(tree)]), *(token for part in members for token in msgpack_tokens(part))]
        case list():
            return [bytes([0x90 | len(tree)]), *(token for part in tree for token in msgpack_tokens(part))]
        case _:
            return [msgspec.msgpack.encode(tree)]


_STRANGE: tuple[object, ...] = (
    *(None, True, 0, -1, 1.5, 2**31, 2**63, -(2**63), 2**64 - 1),
    *("", [], {}, [[[value()]]], {value(): value()}, value(300)),
    *("None", "imap", "WebDav", "EmailClientAccountPasswordCredentials", "EmailClientAccountCredentials"),
    *("\0\x7f\u2028\U0001f510e\u0301", "../..", "host", "credentials", "discriminator"),
    *("9999-12-31T23:59:59.999999-23:59", "2031-05-06T07:08:09"),
)
JSON_STRANGE: tuple[bytes, ...] = (
    *(json.dumps(part, ensure_ascii=escaped).encode() for part in _STRANGE for escaped in (True, False)),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1E-999", b"1" * 50, b"9" * 5000, b"0" * 20, b"-", b"01", b"nul"),
    *(b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b'"\\u007"', b'"ho\\u0073t"'),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"tab\there"', b"'x'", b"//", b"\xef\xbb\xbf"),
    *(b"[" * 31 + b"]" * 31, b"[" * 40 + b"]" * 40, b'{"a":' * 33 + b"1" + b"}" * 33),
    *(b'"' + b"[{" * 40 + b'"', b"[" * 2500),
)
MSGPACK_STRANGE: tuple[bytes, ...] = (
    *map(msgspec.msgpack.encode, _STRANGE),
    *map(msgspec.msgpack.encode, (float("nan"), float("inf"), b"qzjxqzjx", {1: 2, "1": 3, None: 4})),
    msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"qzjx")),
    *(b"\xc1", b"\xa4\xff\xfe\xfd\xfc", b"\xa3\xed\xa0\x80"),
    *(b"\xd9\x04host", b"\xda\x00\x04host", b"\xdb\x00\x00\x00\x04host", b"\xdb\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(b"\xd6\xff\x7f\xff\xff\xff", b"\xc7\x0c\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xd9"),
    *(b"\x91" * 31 + b"\x01", b"\x91" * 40 + b"\x01", b"\x81\xa1a" * 33 + b"\x01", b"\x91" * 2500),
    b"\x81\x81\x81\x81\x01\x02\x03\x04",
)
_BYTES = (0x00, 0x22, 0x2C, 0x5C, 0x5D, 0x7D, 0x7F, 0x80, 0xC1, 0xD9, 0xDF, 0xFF)


class Mutator:
    """Random documents, most of them a seed with one to three changes; the same ones for the same random numbers."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._seeds: list[tuple[Codec, Kind, list[bytes], tuple[bytes, ...]]] = [
            *((JSON, kind, json_tokens(tree), JSON_STRANGE) for kind, tree in TREES),
            *((MSGPACK, kind, msgpack_tokens(tree), MSGPACK_STRANGE) for kind, tree in TREES),
        ]

    def documents(self, count: int) -> Iterator[Case]:
        """`count` documents, with the codec and kind of their seed; a few are as deep as a document may be large."""
        random = self._random
        deep: list[Case] = [
            (JSON, Account, b'{"x":' + b"[" * 250_000),
            (JSON, MultiAccount, b'{"x":' * 50_000),
            (MSGPACK, Account, b"\x81\xa1x" + b"\x91" * 250_000),
            (MSGPACK, MultiAccount, b"\x81\xa1x" * 80_000),
        ]
        yield from deep[:count]
        for _ in range(count - len(deep)):
            codec, kind, tokens, strange = random.choice(self._seeds)
            way = random.random()
            if way < 0.02:
                yield codec, kind, random.randbytes(random.randrange(80))
                continue
            tokens = tokens.copy()
            if way < 0.7:
                for _ in range(1 + (random.random() < 0.2)):
                    if tokens:
                        self._change_tokens(tokens, strange)
            data = bytearray(b"".join(tokens))
            if way > 0.65:
                for _ in range(1 + (random.random() < 0.4)):
                    if data:
                        self._change_bytes(data)
            yield codec, kind, bytes(data)

    def _change_tokens(self, tokens: list[bytes], strange: tuple[bytes, ...]) -> None:
        random = self._random
        at, other, few = random.randrange(len(tokens)), random.randrange(len(tokens)), random.randrange(5)
        match random.choice(("replace", "replace", "replace", "insert", "remove", "repeat", "swap", "rename")):
            case "replace":
                tokens[at] = random.choice(strange)
            case "insert":
                tokens.insert(at, random.choice(strange))
            case "remove":
                del tokens[at : at + 1 + few]
            case "repeat":  # as JSON, the tokens of a member with its comma: the key comes twice
                tokens[at:at] = tokens[at : at + 2 + few]
            case "swap":
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at] = tokens[at].replace(b"o", b"\\u006f", 1) if b"o" in tokens[at] else tokens[at].upper()

    def _change_bytes(self, data: bytearray) -> None:
        random = self._random
        at = random.randrange(len(data))
        match random.choice(("flip", "overwrite", "insert", "cut", "truncate", "double", "splice", "mark")):
            case "flip":
                data[at] ^= 1 << random.randrange(8)
            case "overwrite":
                data[at] = random.choice(_BYTES)
            case "insert":
                data.insert(at, random.randrange(256))
            case "cut":
                del data[at : at + 1 + random.randrange(8)]
            case "truncate":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + random.randrange(60)]
            case "splice":
                other = b"".join(random.choice(self._seeds)[2])
                data[at:] = other[random.randrange(len(other)) :]
            case _:
                data[:0] = random.choice((b"\xef\xbb\xbf", b" \n\t", b"\xff\xfe", b"\0"))


class Messages:
    """What errors have said, and about which input first."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, str, str, str], object] = {}

    def take(self, error: AccountStoreError, about: object) -> None:
        field = error.field if isinstance(error, DocumentError) else ""
        self.first.setdefault((type(error).__name__, str(error), repr(error), field), about)

    def check(self) -> None:
        """Fail where a message quotes its input, or where there are too many templates for ones that quote nothing."""
        for texts, about in self.first.items():
            assert not any(_CANARY.search(text) for text in texts), f"{texts} quotes {about!r}"
        templates = {_NAMED.sub("_", _WHERE.sub("_", re.sub(r"\d+", "0", text))) for _, text, _, _ in self.first}
        assert len(templates) < MOST_TEMPLATES, sorted(templates)


def depth(tree: object) -> int:
    """How many containers stand inside one another."""
    match tree:
        case dict():
            return 1 + max(map(depth, tree.values()), default=0)
        case list():
            return 1 + max(map(depth, tree), default=0)
        case _:
            return 0


def attempt(messages: Messages, counts: Counter[str], case: Case, call: Callable[..., Any], *arguments: object) -> Any:
    """The result of a codec's method, or None where it raised an AccountStoreError; any other error fails."""
    step = call.__name__
    try:
        result = call(*arguments)
    except AccountStoreError as error:
        counts[f"{step} refused"] += 1
        messages.take(error, case[2])
        return None
    except Exception as error:
        raise AssertionError(f"{step} let out {type(error).__name__}: {case!r}") from error
    counts[f"{step} accepted"] += 1
    return result


def transcode(codec: Codec, data: bytes, onto: Codec, kind: type[Account | MultiAccount]) -> bytes:
    """A document's bytes in another codec."""
    return onto.encode_tree(codec.decode_tree(data), kind)


def test_only_typed_errors_come_out_of_the_codecs() -> None:
    """Decoding, merging and transcoding mutated documents raises nothing but AccountStoreError and quotes nothing."""
    messages, counts, twists = Messages(), Counter[str](), Counter[str]()
    for number, case in enumerate(Mutator(SEED).documents(DOCUMENTS)):
        codec, kind, data = case
        document = attempt(messages, counts, case, codec.decode, data, kind)
        if number % 4 == 0:
            other = MultiAccount if kind is Account else Account
            attempt(messages, twists, (codec, other, data), codec.decode, data, other)
        if document is None:
            continue
        tree = json.loads(data.removeprefix(BOM_UTF8), parse_int=str) if codec is JSON else msgspec.msgpack.decode(data)
        assert depth(tree) <= MAX_DEPTH, f"too deep: {data!r}"
        merged = attempt(messages, counts, case, codec.merge, document, data)
        assert merged is not None, f"merge refused {data!r}"
        assert codec.decode(merged, kind) == document, f"merge changed {data!r}"
        onto = MSGPACK if codec is JSON else JSON
        turned = attempt(messages, counts, case, transcode, codec, data, onto, kind)
        assert turned is None or onto.decode(turned, kind) == document, f"transcode changed {data!r}"
    print(f"seed {SEED}: {dict(counts)}, {len(messages.first)} different messages")
    messages.check()
    assert counts["decode accepted"] + counts["decode refused"] == DOCUMENTS
    assert counts["decode accepted"] > DOCUMENTS // 20
    assert counts["decode refused"] > DOCUMENTS // 3
    assert counts["merge accepted"] == counts["decode accepted"]
    assert counts["transcode accepted"] > DOCUMENTS // 20
    assert counts["transcode refused"] > 0
    assert twists["decode refused"] > 0


class _PlainCredentials(msgspec.Struct, tag_field="discriminator", tag="EmailClientAccountPasswordCredentials"):
    login: str
    password: str


class _PlainAccount(msgspec.Struct, rename="camel"):
    host: str
    port: int
    credentials: _PlainCredentials
    security_options: SecurityOptions | None = None


def test_control_plain_msgspec_lets_foreign_errors_out() -> None:
    """The same documents make msgspec alone raise UnicodeDecodeError and RecursionError and quote values."""
    decoders: dict[Codec, Any] = {
        JSON: msgspec.json.Decoder(_PlainAccount),
        MSGPACK: msgspec.msgpack.Decoder(_PlainAccount),
    }
    raised = Counter[str]()
    quoted = 0
    for codec, _, data in Mutator(SEED).documents(20_000):
        try:
            decoders[codec].decode(data)
        except Exception as error:
            raised[type(error).__name__] += 1
            quoted += bool(_CANARY.search(str(error)))
    assert raised["UnicodeDecodeError"] > 0
    assert raised["RecursionError"] > 0
    assert quoted > 0


def test_control_a_quoting_message_is_found() -> None:
    """The check of messages fails for one that quotes a value, and for a flood of different ones."""
    for error in (DecodeError(f"Invalid value '{value()[2:9]}'"), DecodeError("is wrong", field=f"$.{value()}")):
        quoting = Messages()
        quoting.take(error, b"")
        with pytest.raises(AssertionError, match="quotes"):
            quoting.check()
    flood = Messages()
    for number in range(MOST_TEMPLATES):
        flood.take(EncodeError("x" * number), b"")
    with pytest.raises(AssertionError):
        flood.check()


# --- through the facade --------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["memory", "file"])
async def test_only_typed_errors_come_out_of_the_store(scheme: str, tmp_path: Path) -> None:
    """Files with mutated documents make every call of the store return or raise an AccountStoreError."""
    urls = ("memory://", "memory://") if scheme == "memory" else ((tmp_path / name).as_uri() for name in "ab")
    codecs: list[tuple[str, Literal["json", "msgpack"]]] = [(JSON.name, "json"), (MSGPACK.name, "msgpack")]
    storages = {name: StorageConfig(url, codec=codec) for (name, codec), url in zip(codecs, urls, strict=True)}
    messages, counts = Messages(), Counter[str]()
    async with AccountStore.open(StoreConfig(default=JSON.name, storages=storages)) as store:
        roots = {name: await store.filesystem(name) for name in store.storages}
        for number, case in enumerate(Mutator(SEED + 1).documents(60)):
            codec, kind, data = case
            one = kind is Account
            location = Location(f"{number}.account" if one else f"{number}.multi.account", storage=codec.name)
            other = JSON if codec is MSGPACK else MSGPACK
            turned = Location(location.file_name, storage=other.name, folder="turned")
            fs, root = roots[codec.name]
            fs.pipe_file(f"{root.rstrip('/')}/{location.file_name}", data)
            assert (await store.stat(location)).size == len(data)
            calls: dict[str, Awaitable[object]] = {
                "get": store.get(location) if one else store.get_multi(location),
                "read": store.read(location) if one else store.read_multi(location),
                "update": store.update(location, _moved) if one else store.update_multi(location, _grown),
                "copy": store.copy(location, turned),
                "exists": store.exists(location),
            }
            for step, call in calls.items():
                try:
                    await call
                except AccountStoreError as error:
                    counts[f"{step} refused"] += 1
                    messages.take(error, data)
                    assert isinstance(error, DocumentError), f"{step} raised {error!r} for {data!r}"
                    assert error.location in {location, turned}
                else:
                    counts[f"{step} accepted"] += 1
        listed = [entry.location for name in store.storages async for entry in store.list(storage=name)]
        assert len(listed) == 60
        async for _, result in store.get_many(listed):
            counts["many refused" if isinstance(result, AccountStoreError) else "many accepted"] += 1
    messages.check()
    for step in ("get", "read", "update", "many"):
        assert counts[f"{step} accepted"] > 0, counts
        assert counts[f"{step} refused"] > 0, counts
    assert counts["copy accepted"] > 0, counts
    assert counts["exists accepted"] == 60


def _moved(account: Account) -> Account:
    return msgspec.structs.replace(account, port=account.port % 65_535 + 1)


def _grown(account: MultiAccount) -> MultiAccount:
    return msgspec.structs.replace(account, receive_accounts=account.receive_accounts * 2)


# --- names ---------------------------------------------------------------------------------------------------------

_NAMES = (
    f"{value()} {value()}:{value()}/{value()}/{value()}.account",
    f"{value()}/{value()}.multi.account",
    f"{value()}.account",
    f"\u00e9{value()}:\U0001f4e7/{value()}.account",
)
_PIECES = (
    *("/", "//", ":", "::", ".", "..", "/../", "/./", "\\", "\0", "\x1f", "\x7f", "\x85", "\u2028", "\u2029", "*", "?"),
    *("[", "]", "{", "}", "#", "%2e%2e", "~", "$HOME", "C:", "file://", ".account", ".multi.account"),
    *("\ud800", "\udfff", "e\u0301", "\u212b", "\u200b", "\u202e", "\ufeff", "\U000e0001", "\uffff"),
    *(" ", "\n", ".accountstore-", value(260)),
)


def names(random: Random, count: int) -> Iterator[str]:
    """`count` names: seeds with pieces put in, taken out or changed, and some that are wholly random."""
    for _ in range(count):
        if random.random() < 0.1:
            yield "".join(chr(int(random.random() ** 4 * 0x110000)) for _ in range(random.randrange(30)))
            continue
        name = random.choice(_NAMES)
        for _ in range(random.randrange(3)):
            at = random.randrange(len(name) + 1)
            name = name[:at] + random.choice(_PIECES) + name[at + random.randrange(4) :]
        yield name


def test_only_typed_errors_come_out_of_names() -> None:
    """Parsing and making locations raises only LocationError, which quotes nothing; what parses shows the same."""
    random = Random(SEED)
    messages, counts = Messages(), Counter[str]()
    for name in names(random, NAMES):
        half = random.randrange(len(name) + 1)
        calls: dict[str, Callable[[], Location]] = {
            "parse": partial(Location.parse, name),
            "make": partial(Location, name[half:], folder=name[:half]),
            "name": partial(Location, "x.account", storage=name),
        }
        for step, call in calls.items():
            try:
                location = call()
            except LocationError as error:
                counts[f"{step} refused"] += 1
                messages.take(error, name)
                continue
            except Exception as error:
                raise AssertionError(f"{step} let out {type(error).__name__}: {name!r}") from error
            counts[f"{step} accepted"] += 1
            assert Location.parse(str(location)) == location, name
            if step == "parse":
                assert str(location) == name
    print(f"seed {SEED}: {dict(counts)}, {len(messages.first)} different messages")
    messages.check()
    for step in ("parse", "make", "name"):
        assert counts[f"{step} accepted"] > 0
        assert counts[f"{step} refused"] > NAMES // 4
