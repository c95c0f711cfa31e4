"""The codecs: what they write and read, what they refuse and how they say so, and how they edit."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from accountstore import (
    Account,
    DecodeError,
    DocumentError,
    EncodeError,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    Secret,
    SecurityOptions,
)
from accountstore.codecs import CODECS, JSON, MSGPACK, Codec
from accountstore.strict import MAX_DEPTH

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
PASSWORD = {"discriminator": "EmailClientAccountPasswordCredentials", "login": "l", "password": "p"}
OAUTH = {"discriminator": "EmailClientAccountOauthCredentials", "login": "l", "clientSecret": "s", "refreshToken": "r"}
ACCOUNT: dict[str, Any] = {"host": "h", "port": 1, "credentials": PASSWORD}


def account(**more: Any) -> Account:
    """An account, with some fields replaced."""
    plain = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
    return msgspec.structs.replace(plain, **more)


def oauth(**more: Any) -> Account:
    """An account with OAuth credentials, with some of their fields replaced."""
    plain = OAuthCredentials(login="l", client_secret="s", refresh_token="r")
    return account(credentials=msgspec.structs.replace(plain, **more))


def pack(codec: Codec, tree: object) -> bytes:
    """A tree in a codec's format."""
    return msgspec.json.encode(tree) if codec is JSON else msgspec.msgpack.encode(tree)


def unpack(codec: Codec, data: bytes) -> Any:
    """The tree in bytes of a codec's format."""
    return msgspec.json.decode(data) if codec is JSON else msgspec.msgpack.decode(data)


def test_codecs_have_names_for_the_configuration() -> None:
    """`json` and `msgpack` are the codecs that a configuration can name."""
    assert CODECS == {"json": JSON, "msgpack": MSGPACK}


@BOTH
def test_a_document_is_the_seeds_json(codec: Codec) -> None:
    """Keys are camelCase, None is left out, credentials carry their discriminator, enumerations the seed's spelling."""
    document = Account(
        host="h",
        port=993,
        security_options=SecurityOptions.SSL_AUTO,
        protocol_type=ProtocolType.WEB_DAV,
        credentials=OAuthCredentials(
            login="l",
            client_id="c",
            client_secret="s",
            refresh_token="r",
            request_url="u",
            access_token="a",
            expires_at=datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC),
        ),
        cache_file=Location("x.cache", folder="a/b", storage="S"),
    )
    tree = unpack(codec, codec.encode(document))
    expires = tree["credentials"].pop("expiresAt")
    assert expires == ("2031-05-06T07:08:09Z" if codec is JSON else datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC))
    assert tree == {
        "host": "h",
        "port": 993,
        "securityOptions": "SSLAuto",
        "protocolType": "WebDav",
        "credentials": OAUTH | {"clientId": "c", "requestUrl": "u", "accessToken": "a"},
        "cacheFile": {"storage": "S", "folderPath": "a/b", "fileName": "x.cache"},
    }
    assert unpack(codec, codec.encode(account())) == ACCOUNT
    assert unpack(codec, codec.encode(MultiAccount(receive_accounts=[account()]))) == {"receiveAccounts": [ACCOUNT]}


@BOTH
def test_secrets_are_written_in_clear(codec: Codec) -> None:
    """The file holds the password itself: encryption is not a codec's work."""
    document = account(credentials=PasswordCredentials(login="l", password=Secret("hunter2")))
    assert unpack(codec, codec.encode(document))["credentials"]["password"] == "hunter2"


@BOTH
def test_a_time_in_msgpack_may_be_text(codec: Codec) -> None:
    """An expiry written as text, as other writers may, is read in both formats."""
    tree = ACCOUNT | {"credentials": OAUTH | {"expiresAt": "2031-05-06T07:08:09+02:00"}}
    credentials = codec.decode(pack(codec, tree), Account).credentials
    assert isinstance(credentials, OAuthCredentials)
    assert credentials.expires_at == datetime(2031, 5, 6, 5, 8, 9, tzinfo=UTC)


REFUSED: list[tuple[object, str]] = [
    (None, "$"),
    ([], "$"),
    ("text", "$"),
    ({}, "$"),
    (ACCOUNT | {"host": ""}, "$.host"),
    (ACCOUNT | {"host": None}, "$.host"),
    (ACCOUNT | {"host": 5}, "$.host"),
    (ACCOUNT | {"port": 0}, "$.port"),
    (ACCOUNT | {"port": -1}, "$.port"),
    (ACCOUNT | {"port": 2**31}, "$.port"),
    (ACCOUNT | {"port": 2**63}, "$.port"),
    (ACCOUNT | {"port": "993"}, "$.port"),
    (ACCOUNT | {"port": 1.5}, "$.port"),
    (ACCOUNT | {"port": True}, "$.port"),
    (ACCOUNT | {"securityOptions": "sslauto"}, "$.securityOptions"),
    (ACCOUNT | {"securityOptions": ""}, "$.securityOptions"),
    (ACCOUNT | {"securityOptions": 6}, "$.securityOptions"),
    (ACCOUNT | {"protocolType": "imap"}, "$.protocolType"),
    (ACCOUNT | {"protocolType": "WebDAV"}, "$.protocolType"),
    (ACCOUNT | {"credentials": None}, "$.credentials"),
    (ACCOUNT | {"credentials": []}, "$.credentials"),
    (ACCOUNT | {"credentials": {"login": "l", "password": "p"}}, "$.credentials"),
    (ACCOUNT | {"credentials": PASSWORD | {"discriminator": "StorageFileLocation"}}, "$.credentials.discriminator"),
    (
        ACCOUNT | {"credentials": PASSWORD | {"discriminator": OAUTH["discriminator"].lower()}},
        "$.credentials.discriminator",
    ),
    (ACCOUNT | {"credentials": PASSWORD | {"discriminator": None}}, "$.credentials.discriminator"),
    (ACCOUNT | {"credentials": PASSWORD | {"login": ""}}, "$.credentials.login"),
    (ACCOUNT | {"credentials": PASSWORD | {"password": ""}}, "$.credentials.password"),
    (ACCOUNT | {"credentials": PASSWORD | {"password": None}}, "$.credentials.password"),
    (ACCOUNT | {"credentials": PASSWORD | {"password": ["p"]}}, "$.credentials.password"),
    (ACCOUNT | {"credentials": PASSWORD | {"password": 5}}, "$.credentials.password"),
    (ACCOUNT | {"credentials": OAUTH | {"clientId": ""}}, "$.credentials.clientId"),
    (ACCOUNT | {"credentials": OAUTH | {"clientSecret": ""}}, "$.credentials.clientSecret"),
    (ACCOUNT | {"credentials": OAUTH | {"refreshToken": None}}, "$.credentials.refreshToken"),
    (ACCOUNT | {"credentials": OAUTH | {"accessToken": ""}}, "$.credentials.accessToken"),
    (ACCOUNT | {"credentials": OAUTH | {"requestUrl": 5}}, "$.credentials.requestUrl"),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "tomorrow"}}, "$.credentials.expiresAt"),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "2031-05-06T07:08:09"}}, "$.credentials.expiresAt"),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": 1767225600}}, "$.credentials.expiresAt"),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "9999-12-31T23:59:59-01:00"}}, "$.credentials"),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "0001-01-01T00:00:00+01:00"}}, "$.credentials"),
    (ACCOUNT | {"cacheFile": "x"}, "$.cacheFile"),
    (ACCOUNT | {"cacheFile": {}}, "$.cacheFile"),
    (ACCOUNT | {"cacheFile": {"fileName": "a/b"}}, "$.cacheFile"),
    (ACCOUNT | {"cacheFile": {"fileName": "a", "folderPath": "../b"}}, "$.cacheFile"),
    (ACCOUNT | {"cacheFile": {"fileName": "a", "storage": "b:c"}}, "$.cacheFile"),
]


@BOTH
@pytest.mark.parametrize(("tree", "field"), REFUSED)
def test_a_wrong_field_is_named(codec: Codec, tree: object, field: str) -> None:
    """What is wrong with a document is said with the path of the field, alone and inside a multi account."""
    with pytest.raises(DecodeError) as raised:
        codec.decode(pack(codec, tree), Account)
    assert raised.value.field == field
    with pytest.raises(DecodeError) as raised:
        codec.decode(pack(codec, {"receiveAccounts": [ACCOUNT, tree]}), MultiAccount)
    assert raised.value.field == f"$.receiveAccounts[1]{field[1:]}"
    assert str(raised.value).startswith("$.receiveAccounts[1]")


@BOTH
@pytest.mark.parametrize("missing", ["host", "port", "credentials"])
def test_a_missing_field_is_named(codec: Codec, missing: str) -> None:
    """A document without a field that it needs is refused with the field's name."""
    tree = {name: part for name, part in ACCOUNT.items() if name != missing}
    with pytest.raises(DecodeError, match=f"missing required field `{missing}`"):
        codec.decode(pack(codec, tree), Account)


@BOTH
@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (ACCOUNT | {"securityOptions": "x"}, "is not one of the known values"),
        (ACCOUNT | {"credentials": PASSWORD | {"discriminator": "x"}}, "is not one of the known values"),
        (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "x"}}, "is not valid"),
        (ACCOUNT | {"port": 0}, "Expected `int` >= 1"),
        (ACCOUNT | {"credentials": PASSWORD | {"password": ""}}, "Expected `str` of length >= 1"),
        (ACCOUNT | {"cacheFile": {"fileName": ".."}}, "file name: a segment is '.' or '..'"),
    ],
)
def test_messages(codec: Codec, tree: object, said: str) -> None:
    """A message says in a few words what the field must be."""
    with pytest.raises(DecodeError) as raised:
        codec.decode(pack(codec, tree), Account)
    assert raised.value.message == said


@pytest.mark.parametrize("key", [5, b"host", None, 1.5, True])
def test_a_msgpack_key_that_is_no_text_is_refused(key: object) -> None:
    """A map with another key than text is no document; the field says which map."""
    credentials: dict[object, object] = dict(PASSWORD.items())
    credentials[key] = 1
    with pytest.raises(DecodeError) as raised:
        MSGPACK.decode(msgspec.msgpack.encode(ACCOUNT | {"credentials": credentials}), Account)
    assert raised.value.field == "$.credentials"
    assert "$" not in raised.value.message


@pytest.mark.parametrize(
    ("codec", "data", "said"),
    [
        (JSON, b"", "is not valid JSON"),
        (JSON, b"{", "is not valid JSON"),
        (JSON, b"\xff", "is not UTF-8"),
        (JSON, pack(JSON, ACCOUNT) + b"x", "is not valid JSON"),
        (JSON, b"\xef\xbb\xbf" + pack(JSON, ACCOUNT), "is not valid JSON"),
        (JSON, json.dumps(ACCOUNT).encode("utf-16"), "is not UTF-8"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"x":NaN}', "is not valid JSON"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"x":"\\ud800"}', "is not valid JSON"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"x":"\xff"}', "is not UTF-8"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"port":2}', "an object has the same key twice"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"p\\u006frt":2}', "an object has the same key twice"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "deeper than 32"),
        (JSON, pack(JSON, ACCOUNT)[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "deeper than 32"),
        (MSGPACK, b"", "is not valid MessagePack"),
        (MSGPACK, b"\xc1", "is not valid MessagePack"),
        (MSGPACK, pack(MSGPACK, ACCOUNT)[:-1], "is not valid MessagePack"),
        (MSGPACK, pack(MSGPACK, ACCOUNT) + b"x", "is not valid MessagePack"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xa4port\x02", "an object has the same key twice"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xd9\x04port\x02", "an object has the same key twice"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xa1x" + b"\x91" * MAX_DEPTH + b"\x01", "deeper than 32"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xa1x" + b"\x91" * 5000 + b"\x01", "deeper than 32"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xa1x\xa1\xff", "is not valid MessagePack"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xa1\xff\x01", "is not valid MessagePack"),
        (MSGPACK, b"\x84" + pack(MSGPACK, ACCOUNT)[1:] + b"\xa1x\x81\xa1y\xa1\xff", "is not valid MessagePack"),
    ],
)
def test_what_would_lose_data_is_refused(codec: Codec, data: bytes, said: str) -> None:
    """Bytes that are not quite the format are refused, also where the fault is in a field that nobody knows."""
    with pytest.raises(DecodeError, match=said) as raised:
        codec.decode(data, Account)
    assert raised.value.__cause__ is None


@BOTH
def test_nesting_up_to_the_limit_is_taken(codec: Codec) -> None:
    """An unknown field may be nested 31 deep in the document's own object."""
    tree: Any = 1
    for _ in range(MAX_DEPTH - 1):
        tree = [tree]
    assert codec.decode(pack(codec, ACCOUNT | {"x": tree}), Account) == account()


@BOTH
def test_what_the_seeds_writers_leave_out_is_none(codec: Codec) -> None:
    """Fields that may be missing may be null too."""
    tree = ACCOUNT | {"securityOptions": None, "protocolType": None, "cacheFile": None}
    assert codec.decode(pack(codec, tree), Account) == account()
    optional = dict.fromkeys(["clientId", "requestUrl", "accessToken", "expiresAt"])
    assert codec.decode(pack(codec, ACCOUNT | {"credentials": OAUTH | optional}), Account) == oauth()
    assert codec.decode(pack(codec, {"receiveAccounts": [], "sendAccount": None}), MultiAccount) == MultiAccount(
        receive_accounts=[]
    )


@BOTH
@pytest.mark.parametrize("option", SecurityOptions)
def test_every_security_option_by_its_spelling(codec: Codec, option: SecurityOptions) -> None:
    """Each security option is read and written in the seed's spelling; `None` is a word, unlike null."""
    data = codec.encode(account(security_options=option))
    assert unpack(codec, data)["securityOptions"] == option.value
    assert codec.decode(data, Account).security_options is option


@BOTH
@pytest.mark.parametrize("protocol", ProtocolType)
def test_every_protocol_by_its_spelling(codec: Codec, protocol: ProtocolType) -> None:
    """Each protocol is read and written in the seed's spelling."""
    data = codec.encode(account(protocol_type=protocol))
    assert unpack(codec, data)["protocolType"] == protocol.value
    assert codec.decode(data, Account).protocol_type is protocol


@BOTH
@pytest.mark.parametrize(
    ("document", "field"),
    [
        (account(host=""), "$.host"),
        (account(host=None), "$.host"),
        (account(port=0), "$.port"),
        (account(port="1"), "$.port"),
        (account(security_options="nothing"), "$.securityOptions"),
        (account(credentials=None), "$.credentials"),
        (account(credentials=PasswordCredentials(login="", password="p")), "$.credentials.login"),
        (account(credentials=PasswordCredentials(login="l", password="")), "$.credentials.password"),
        (oauth(client_secret=""), "$.credentials.clientSecret"),
        (oauth(access_token=""), "$.credentials.accessToken"),
        (oauth(expires_at=datetime(2031, 5, 6)), "$.credentials.expiresAt"),  # noqa: DTZ001 -- the fault
        (MultiAccount(receive_accounts=[account(), account(port=0)]), "$.receiveAccounts[1].port"),
        (MultiAccount(receive_accounts=[], send_account=account(host="")), "$.sendAccount.host"),
    ],
)
def test_what_could_not_be_read_is_not_written(codec: Codec, document: Account | MultiAccount, field: str) -> None:
    """A document that breaks a rule is an EncodeError that names the field."""
    with pytest.raises(EncodeError) as raised:
        codec.encode(document)
    assert raised.value.field == field
    assert isinstance(raised.value, DocumentError)
    assert isinstance(raised.value, ValueError)


@BOTH
@pytest.mark.parametrize("document", [None, {}, "text", object(), PasswordCredentials(login="l", password="p")])
def test_what_is_no_document_is_not_written(codec: Codec, document: object) -> None:
    """Anything but an account or a multi account is an EncodeError."""
    with pytest.raises(EncodeError):
        codec.encode(cast("Account", document))
    with pytest.raises(EncodeError):
        codec.merge(cast("Account", document), pack(codec, ACCOUNT))


def test_a_plain_spelling_of_an_enumeration_is_written() -> None:
    """A string with a known value is as good as the enumeration's member."""
    document = account(security_options="SSLAuto", protocol_type="IMAP")
    assert JSON.decode(JSON.encode(document), Account) == document


# --- merge and trees -------------------------------------------------------------------------------------------


@BOTH
def test_merge_keeps_unknown_fields_only(codec: Codec) -> None:
    """A known field is the new document's, also where that has none; an unknown one is the original's."""
    tree = ACCOUNT | {
        "securityOptions": "SSLAuto",
        "cacheFile": {"fileName": "x", "folderPath": "f", "later": [1]},
        "later": {"a": None},
        "credentials": PASSWORD | {"later": 2.5},
    }
    new = account(port=2, cache_file=Location("y"))
    assert unpack(codec, codec.merge(new, pack(codec, tree))) == {
        "host": "h",
        "port": 2,
        "credentials": PASSWORD | {"later": 2.5},
        "cacheFile": {"fileName": "y", "later": [1]},
        "later": {"a": None},
    }


@BOTH
def test_merge_keeps_nothing_of_credentials_of_another_class(codec: Codec) -> None:
    """When password credentials become OAuth ones, unknown fields of the old ones go, and so does the password."""
    tree = ACCOUNT | {"credentials": PASSWORD | {"later": 1}, "other": 2}
    assert unpack(codec, codec.merge(oauth(), pack(codec, tree))) == ACCOUNT | {"credentials": OAUTH, "other": 2}


@BOTH
def test_merge_over_null(codec: Codec) -> None:
    """A field that was null takes the new value whole."""
    tree = {"receiveAccounts": [ACCOUNT | {"cacheFile": None, "later": 1}], "sendAccount": None}
    new = MultiAccount(receive_accounts=[account(cache_file=Location("x"))], send_account=account(port=5))
    assert unpack(codec, codec.merge(new, pack(codec, tree))) == {
        "receiveAccounts": [ACCOUNT | {"cacheFile": {"fileName": "x"}, "later": 1}],
        "sendAccount": ACCOUNT | {"port": 5},
    }


@BOTH
def test_merge_of_twins(codec: Codec) -> None:
    """Accounts that are alike keep their own unknown fields in their order."""
    tree = {"receiveAccounts": [ACCOUNT | {"mark": number} for number in range(3)]}
    new = MultiAccount(receive_accounts=[account(), account(), account(), account()])
    merged = unpack(codec, codec.merge(new, pack(codec, tree)))
    assert [part.get("mark") for part in merged["receiveAccounts"]] == [0, 1, 2, None]


@BOTH
def test_merge_checks_the_new_document(codec: Codec) -> None:
    """A change to what could not be read is an EncodeError."""
    with pytest.raises(EncodeError) as raised:
        codec.merge(account(port=0), pack(codec, ACCOUNT))
    assert raised.value.field == "$.port"


@pytest.mark.parametrize("number", [b"1e999", b"-1E400", b"9" * 500, b"123456789012345678901234567890", b"1.0", b"-0"])
def test_merge_keeps_numbers_as_they_are_spelled(number: bytes) -> None:
    """An unknown field keeps its bytes: a number loses no digit, even one that Python could not hold."""
    inside = pack(JSON, ACCOUNT)[:-1] + b',"later":' + number + b"}"
    assert b'"later":' + number in JSON.merge(account(port=2), inside)
    many = b'{"receiveAccounts":[' + inside + b"]}"
    assert b'"later":' + number in JSON.merge(MultiAccount(receive_accounts=[account(port=2)]), many)


def turn(data: bytes, codec: Codec, onto: Codec) -> bytes:
    """An account's bytes in another codec, by way of its tree."""
    return onto.encode_tree(codec.decode_tree(data), Account)


@BOTH
def test_transcode_keeps_unknown_fields(codec: Codec) -> None:
    """Into the other format go known and unknown fields alike."""
    other = MSGPACK if codec is JSON else JSON
    tree = ACCOUNT | {"later": [None, True, 1, 1.5, -(2**63), 2**64 - 1, "\u00e9\0", {"": []}]}
    assert unpack(other, turn(pack(codec, tree), codec, other)) == tree


@pytest.mark.parametrize("number", [b"1e999", b"-1E400", b"9" * 5000, b"123456789012345678901234567890"])
def test_transcode_refuses_numbers_that_do_not_fit(number: bytes) -> None:
    """A number in an unknown field that MessagePack cannot carry is an EncodeError, not another number."""
    with pytest.raises(EncodeError):
        turn(pack(JSON, ACCOUNT)[:-1] + b',"later":' + number + b"}", JSON, MSGPACK)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [{"a": float("-inf")}], msgspec.msgpack.Ext(5, b"x"), {1: "a", "1": "b"}, {None: 1}],
    ids=["nan", "inf", "inside", "extension", "meeting keys", "null as key"],
)
def test_transcode_refuses_what_json_has_not(value: object) -> None:
    """An unknown field that JSON would lose is an EncodeError: a move would remove the only copy."""
    with pytest.raises(EncodeError):
        turn(msgspec.msgpack.encode(ACCOUNT | {"later": value}), MSGPACK, JSON)


@pytest.mark.parametrize(
    ("value", "text"),
    [(datetime(2031, 5, 6, tzinfo=UTC), "2031-05-06T00:00:00Z"), (b"\0\1", "AAE="), ({1: "a"}, {"1": "a"})],
    ids=["time", "bytes", "number as key"],
)
def test_transcode_writes_as_a_later_release_would(value: object, text: object) -> None:
    """Times, bytes and keys that are numbers turn into the text that stands for them in JSON."""
    turned = turn(msgspec.msgpack.encode(ACCOUNT | {"later": value}), MSGPACK, JSON)
    assert json.loads(turned) == ACCOUNT | {"later": text}


def test_transcode_carries_the_expiry_as_each_format_writes_it() -> None:
    """A known field needs no like in the other format: the expiry is a time in MessagePack and text in JSON."""
    document = oauth(expires_at=datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC))
    packed = turn(JSON.encode(document), JSON, MSGPACK)
    assert MSGPACK.decode(packed, Account) == document
    text = turn(MSGPACK.encode(document), MSGPACK, JSON)
    assert JSON.decode(text, Account) == document
    assert json.loads(text)["credentials"]["expiresAt"] == "2031-05-06T07:08:09Z"


@BOTH
def test_merge_sets_and_drops_fields(codec: Codec) -> None:
    """A field that the model does not know can be given a value or left out; others stay."""
    before = pack(codec, ACCOUNT | {"lease": 1, "later": 2})
    after = unpack(codec, codec.merge(account(port=2), before, set={"new": {"by": "me"}, "later": 3}, drop=["lease"]))
    assert after == ACCOUNT | {"port": 2, "later": 3, "new": {"by": "me"}}


@pytest.mark.parametrize("changes", [{"set": {"host": "x"}}, {"drop": ["credentials"]}, {"set": {"port": 1}}])
def test_merge_sets_and_drops_no_field_of_the_model(changes: dict[str, Any]) -> None:
    """What the model knows is changed in the document, not beside it."""
    with pytest.raises(ValueError, match="model"):
        JSON.merge(account(), pack(JSON, ACCOUNT), **changes)
