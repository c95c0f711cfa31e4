"""The codecs: what they write and read, what they refuse and how they say so, and how they edit."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from doubles import raises
from msgspec.structs import replace

from accountstore import DecodeError, DocumentError, EncodeError, Location, Secret
from accountstore.codecs import CODECS, JSON, MSGPACK, Codec
from accountstore.model import (
    Account,
    MultiAccount,
    NoCredentials,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
)
from accountstore.strict import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accountstore.model import Document

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
PASSWORD = {"discriminator": "EmailClientAccountPasswordCredentials", "login": "l", "password": "p"}
BARE = "EmailClientAccountCredentials"
OAUTH = {"discriminator": "EmailClientAccountOauthCredentials", "login": "l", "clientSecret": "s", "refreshToken": "r"}
ACCOUNT: dict[str, Any] = {"host": "h", "port": 1, "credentials": PASSWORD}


def account(**more: Any) -> Account:
    """An account, with some fields replaced."""
    plain = Account(host="h", port=1, credentials=PasswordCredentials(login="l", password="p"))
    return replace(plain, **more)


def oauth(**more: Any) -> Account:
    """An account with OAuth credentials, with some of their fields replaced."""
    return account(credentials=replace(OAuthCredentials(login="l", client_secret="s", refresh_token="r"), **more))


def pack(codec: Codec, tree: object) -> bytes:
    """A tree in a codec's format."""
    return msgspec.json.encode(tree) if codec is JSON else msgspec.msgpack.encode(tree)


def turn(data: bytes, codec: Codec, onto: Codec) -> bytes:
    """An account's bytes in another codec, by way of its tree."""
    return onto.encode_tree(codec.decode_tree(data), Account)


def unpack(codec: Codec, data: bytes) -> Any:
    """The tree in bytes of a codec's format."""
    return msgspec.json.decode(data) if codec is JSON else msgspec.msgpack.decode(data)


def test_codecs_have_names_for_the_configuration() -> None:
    """`json` and `msgpack` are the codecs that a configuration can name."""
    assert CODECS == {"json": JSON, "msgpack": MSGPACK}


@BOTH
def test_a_document_is_the_seeds_json(codec: Codec) -> None:
    """Keys are camelCase, None is left out, credentials carry their discriminator and secrets are in clear."""
    moment = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    document = replace(
        oauth(client_id="c", request_url="u", access_token="a", expires_at=moment),
        security_options=SecurityOptions.SSL_AUTO,
        protocol_type=ProtocolType.WEB_DAV,
        cache_file=Location("x.cache", folder="a/b", storage="S"),
    )
    expires = "2031-05-06T07:08:09Z" if codec is JSON else moment
    assert unpack(codec, codec.encode(document)) == ACCOUNT | {
        "securityOptions": "SSLAuto",
        "protocolType": "WebDav",
        "credentials": OAUTH | {"clientId": "c", "requestUrl": "u", "accessToken": "a", "expiresAt": expires},
        "cacheFile": {"storage": "S", "folderPath": "a/b", "fileName": "x.cache"},
    }
    assert unpack(codec, codec.encode(account())) == ACCOUNT
    assert unpack(codec, codec.encode(MultiAccount(receive_accounts=[account()]))) == {"receiveAccounts": [ACCOUNT]}


@BOTH
def test_a_time_in_msgpack_may_be_text(codec: Codec) -> None:
    """An expiry written as text, as other writers may, is read in both formats."""
    tree = ACCOUNT | {"credentials": OAUTH | {"expiresAt": "2031-05-06T07:08:09+02:00"}}
    moment = datetime(2031, 5, 6, 5, 8, 9, tzinfo=UTC)
    assert codec.decode(pack(codec, tree), Account) == oauth(expires_at=moment)


UPWARDS = {"fileName": "a", "folderPath": "../b"}
WRONG: Mapping[str, Sequence[object]] = {
    "host": ["", None, 5],
    "port": [0, -1, 2**31, 2**63, "993", 1.5, True],
    "securityOptions": ["sslauto", "", 6],
    "protocolType": ["imap", "WebDAV"],
    "credentials": [None, [], {"login": "l", "password": "p"}, {"discriminator": BARE, "password": "p"}],
    "cacheFile": ["x", {}, {"fileName": "a/b"}, {"fileName": ""}, {"fileName": "a", "storage": "b:c"}, UPWARDS],
}
WRONG_PASSWORD: Mapping[str, Sequence[object]] = {
    "discriminator": ["StorageFileLocation", OAUTH["discriminator"].lower(), None],
    "login": [""],
    "password": ["", None, ["p"], 5],
}
WRONG_OAUTH: Mapping[str, Sequence[object]] = {
    **{name: [""] for name in ("clientId", "accessToken")},
    **{name: [5] for name in ("clientSecret", "refreshToken", "requestUrl")},
    "expiresAt": ["tomorrow", "2031-05-06T07:08:09", 1767225600],
}
REFUSED: list[tuple[object, str]] = [
    *((tree, "$") for tree in (None, list[object](), "text", dict[str, object]())),
    *((ACCOUNT | {name: value}, f"$.{name}") for name, values in WRONG.items() for value in values),
    *(
        (ACCOUNT | {"credentials": good | {name: value}}, f"$.credentials.{name}")
        for good, wrong in ((PASSWORD, WRONG_PASSWORD), (OAUTH, WRONG_OAUTH))
        for name, values in wrong.items()
        for value in values
    ),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "9999-12-31T23:59:59-01:00"}}, "$.credentials"),
    (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "0001-01-01T00:00:00+01:00"}}, "$.credentials"),
    (ACCOUNT | {"cacheFile": {"fileName": None}}, "$.cacheFile.fileName"),
]


@BOTH
@pytest.mark.parametrize(("tree", "field"), REFUSED)
def test_a_wrong_field_is_named(codec: Codec, tree: object, field: str) -> None:
    """What is wrong with a document is said with the path of the field, alone and inside a multi account."""
    with raises(DecodeError, field=field):
        codec.decode(pack(codec, tree), Account)
    with raises(DecodeError, match=r"^\$\.receiveAccounts\[1\]", field=f"$.receiveAccounts[1]{field[1:]}"):
        codec.decode(pack(codec, {"receiveAccounts": [ACCOUNT, tree]}), MultiAccount)


@BOTH
@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            ACCOUNT | {"securityOptions": "STARTTLS"},
            "is not one of the known values: None, SSLExplicit, SSLImplicit, SSLAuto, Auto",
        ),
        (ACCOUNT | {"protocolType": "imap"}, "is not one of the known values: IMAP, POP3, SMTP, EWS, WebDav"),
        (
            ACCOUNT | {"credentials": PASSWORD | {"discriminator": "x"}},
            f"is not one of the known values: {PASSWORD['discriminator']}, {OAUTH['discriminator']}, {BARE}",
        ),
        (
            ACCOUNT | {"credentials": PASSWORD | {"discriminator": BARE}},
            "has more than a `login`: to a password or token belongs another `discriminator`",
        ),
        ({"Host": "h", "Port": 1}, "Object missing required field `host`; it has `Host`: keys are camelCase"),
        (
            ACCOUNT | {"credentials": {name[0].upper() + name[1:]: part for name, part in PASSWORD.items()}},
            "Object missing required field `discriminator`; it has `Discriminator`: keys are camelCase",
        ),
        (
            ACCOUNT
            | {
                "credentials": {key: part for key, part in OAUTH.items() if key != "refreshToken"}
                | {"refresh_token": "r"}
            },
            "Object missing required field `refreshToken`; it has `refresh_token`: keys are camelCase",
        ),
        (
            {"host": "h", "port": 1, "Credentials": PASSWORD},
            "Object missing required field `credentials`; it has `Credentials`: keys are camelCase",
        ),
        ({"host": "h", "port": 1, "password": "p"}, "Object missing required field `credentials`"),
        (
            {"host": "h", "prt": 1, "credentials": PASSWORD},
            "Object missing required field `port`; another field is nearly called so: is it misspelt?",
        ),
        ({"host": "h", "later": 1, "credentials": PASSWORD}, "Object missing required field `port`"),
        (ACCOUNT | {"credentials": OAUTH | {"expiresAt": "x"}}, "is not valid"),
        (ACCOUNT | {"port": 0}, "Expected `int` >= 1"),
        (ACCOUNT | {"credentials": PASSWORD | {"password": ""}}, "Expected `str` of length >= 1"),
        (ACCOUNT | {"cacheFile": {"fileName": ".."}}, "file name: a segment is '.' or '..'"),
        ({"port": 1, "credentials": PASSWORD}, "Object missing required field `host`"),
        ({"host": "h", "credentials": PASSWORD}, "Object missing required field `port`"),
    ],
)
def test_messages(codec: Codec, tree: object, said: str) -> None:
    """A message says in a few words what the field must be, or which one is missing."""
    with raises(DecodeError, message=said):
        codec.decode(pack(codec, tree), Account)


@pytest.mark.parametrize("key", [5, b"host", None, 1.5, True])
def test_a_msgpack_key_that_is_no_text_is_refused(key: object) -> None:
    """A map with another key than text is no document; the field says which map."""
    credentials = dict[object, object](PASSWORD.items()) | {key: 1}
    with raises(DecodeError, field="$.credentials") as raised:
        MSGPACK.decode(msgspec.msgpack.encode(ACCOUNT | {"credentials": credentials}), Account)
    assert "$" not in raised.value.message


@pytest.mark.parametrize(
    ("codec", "tail", "said"),
    [
        (JSON, b"", "is not valid JSON"),
        (JSON, b"}x", "is not valid JSON"),
        (JSON, b',"x":NaN}', "is not valid JSON"),
        (JSON, b',"x":"\\ud800"}', "is not valid JSON"),
        (JSON, b',"x":"\xff"}', "is not UTF-8"),
        (JSON, b',"port":2}', "an object has the same key twice"),
        (JSON, b',"p\\u006frt":2}', "an object has the same key twice"),
        (JSON, b',"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "is nested deeper than 32 levels"),
        (JSON, b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "is nested deeper than 32 levels"),
        (MSGPACK, b"", "is not valid MessagePack"),
        (MSGPACK, b"\xa1x\x01x", "is not valid MessagePack"),
        (MSGPACK, b"\xa4port\x02", "an object has the same key twice"),
        (MSGPACK, b"\xd9\x04port\x02", "an object has the same key twice"),
        (MSGPACK, b"\xa1x" + b"\x91" * MAX_DEPTH + b"\x01", "is nested deeper than 32 levels"),
        (MSGPACK, b"\xa1x" + b"\x91" * 5000 + b"\x01", "is nested deeper than 32 levels"),
        (MSGPACK, b"\xa1x\xa1\xff", "is not valid MessagePack"),
        (MSGPACK, b"\xa1\xff\x01", "is not valid MessagePack"),
        (MSGPACK, b"\xa1x\x81\xa1y\xa1\xff", "is not valid MessagePack"),
    ],
)
def test_a_fault_in_a_field_that_nobody_knows_is_refused(codec: Codec, tail: bytes, said: str) -> None:
    """A document with a fourth field that is not quite the format, or with an end that is not, is refused."""
    start = pack(JSON, ACCOUNT)[:-1] if codec is JSON else b"\x84" + pack(MSGPACK, ACCOUNT)[1:]
    with raises(DecodeError, message=said, __cause__=None):
        codec.decode(start + tail, Account)


@BOTH
def test_a_server_without_login_has_a_form(codec: Codec) -> None:
    """`NoCredentials` are the base class of credentials in JSON; an account may also leave credentials out, or name no
    login there.
    """
    for document in (account(credentials=NoCredentials()), account(credentials=NoCredentials(login="me"))):
        assert codec.decode(codec.encode(document), Account) == document
    bare = codec.encode(account(credentials=NoCredentials()))
    assert unpack(codec, bare) == ACCOUNT | {"credentials": {"discriminator": BARE}}
    without = {"host": "h", "port": 1}
    for tree in (without, without | {"credentials": {"discriminator": BARE, "login": None}}):
        assert codec.decode(pack(codec, tree), Account) == account(credentials=NoCredentials())
    many = codec.decode(pack(codec, {"receiveAccounts": [without], "sendAccount": ACCOUNT}), MultiAccount)
    assert many.receive_accounts == (account(credentials=NoCredentials()),)


@BOTH
def test_a_password_in_another_place_is_not_lost(codec: Codec) -> None:
    """Control of the form without credentials: an account without them that has other fields is refused, with its
    place among several.
    """
    with raises(DecodeError, field="$.sendAccount", message="Object missing required field `credentials`"):
        tree = {"receiveAccounts": [ACCOUNT], "sendAccount": {"host": "h", "port": 1, "password": "p"}}
        codec.decode(pack(codec, tree), MultiAccount)


@BOTH
def test_a_public_client_has_no_secret(codec: Codec) -> None:
    """An OAuth client without a secret is written without one, and read where it is missing, null or empty."""
    public = oauth(client_secret=None)
    assert "clientSecret" not in unpack(codec, codec.encode(public))["credentials"]
    assert oauth(client_secret="") == public
    inner = {name: part for name, part in OAUTH.items() if name != "clientSecret"}
    for more in ({}, {"clientSecret": None}, {"clientSecret": ""}):
        assert codec.decode(pack(codec, ACCOUNT | {"credentials": inner | more}), Account) == public


class Markup(str):
    """Text as templates hand it over."""

    __slots__ = ()


@BOTH
def test_text_of_a_subclass_is_written(codec: Codec) -> None:
    """Text of a subclass of `str`, in whichever field, is written as the text that it is."""
    credentials = PasswordCredentials(login=Markup("l"), password=Markup("p"))
    data = codec.encode(Account(host=Markup("h"), port=1, credentials=credentials))
    assert codec.decode(data, Account) == account()


def test_a_byte_order_mark_is_passed_over() -> None:
    """JSON with a byte order mark is read as if there were none; with two it is no JSON."""
    mark = "\ufeff".encode()
    assert JSON.decode(mark + pack(JSON, ACCOUNT), Account) == account()
    assert turn(mark + pack(JSON, ACCOUNT), JSON, MSGPACK) == MSGPACK.encode(account())
    assert JSON.merge(account(port=2), mark + pack(JSON, ACCOUNT)) == JSON.encode(account(port=2))
    with raises(DecodeError, message="an object has the same key twice"):
        JSON.decode(mark + pack(JSON, ACCOUNT)[:-1] + b',"port":2}', Account)
    with raises(DecodeError, message="is not valid JSON"):
        JSON.decode(2 * mark + pack(JSON, ACCOUNT), Account)
    # The control: msgspec does not take it.
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(mark + b"{}")


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
@pytest.mark.parametrize(
    ("field", "kind", "spellings"),
    [
        ("security_options", SecurityOptions, ["None", "SSLExplicit", "SSLImplicit", "SSLAuto", "Auto"]),
        ("protocol_type", ProtocolType, ["IMAP", "POP3", "SMTP", "EWS", "WebDav"]),
    ],
)
def test_enumerations_have_the_seeds_spelling(codec: Codec, field: str, kind: Any, spellings: list[str]) -> None:
    """Each value is read and written in the seed's spelling, as a member or as text; `None` is a word, unlike null."""
    assert [str(member) for member in kind] == spellings
    name = "securityOptions" if kind is SecurityOptions else "protocolType"
    for member, spelling in zip(kind, spellings, strict=True):
        for value in (member, spelling):
            data = codec.encode(account(**{field: value}))
            assert unpack(codec, data) == ACCOUNT | {name: spelling}
            assert getattr(codec.decode(data, Account), field) is member


@BOTH
@pytest.mark.parametrize(
    ("document", "field"),
    [
        (account(host=""), "$.host"),
        (account(host=None), "$.host"),
        (account(port=0), "$.port"),
        (account(port="1"), "$.port"),
        (account(security_options="nothing"), "$.securityOptions"),
        (account(port=True), "$.port"),
        (account(port=1.0), "$.port"),
        (account(credentials=None), "$.credentials"),
        (account(credentials=PasswordCredentials(login="", password="p")), "$.credentials.login"),
        (account(credentials=PasswordCredentials(login="l", password="")), "$.credentials.password"),
        (oauth(access_token=""), "$.credentials.accessToken"),
        (oauth(expires_at=datetime(2031, 5, 6)), "$.credentials.expiresAt"),  # noqa: DTZ001 -- the fault
        (MultiAccount(receive_accounts=[account(), account(port=0)]), "$.receiveAccounts[1].port"),
        (MultiAccount(receive_accounts=[], send_account=account(host="")), "$.sendAccount.host"),
    ],
)
def test_what_could_not_be_read_is_not_written(codec: Codec, document: Document, field: str) -> None:
    """A document that breaks a rule is an EncodeError that names the field, also as what is merged."""
    with raises(EncodeError, field=field) as raised:
        codec.encode(document)
    assert isinstance(raised.value, DocumentError)
    assert isinstance(raised.value, ValueError)
    with raises(EncodeError, field=field):
        codec.merge(document, pack(codec, ACCOUNT))


@BOTH
@pytest.mark.parametrize(
    "document",
    [
        *(None, {}, "text", object(), PasswordCredentials(login="l", password="p")),
        *(account(host=host) for host in (Secret("h"), b"host", datetime(2024, 1, 1, tzinfo=UTC))),
        account(cache_file={"fileName": "x"}),
    ],
)
def test_what_would_not_come_back_equal_is_not_written(codec: Codec, document: object) -> None:
    """What is no document, and a value of a wrong type that the format could write otherwise, is an EncodeError."""
    with pytest.raises(EncodeError):
        codec.encode(cast("Account", document))
    with pytest.raises(EncodeError):
        codec.merge(cast("Account", document), pack(codec, ACCOUNT))


CACHE = {"cacheFile": {"fileName": "x", "folderPath": "f", "later": [1]}}
DEEP = PASSWORD | {"later": 2.5}


@BOTH
@pytest.mark.parametrize(
    ("tree", "new", "merged"),
    [
        (
            ACCOUNT | CACHE | {"securityOptions": "SSLAuto", "credentials": DEEP, "later": {"a": None}},
            account(port=2, cache_file=Location("y")),
            {
                "host": "h",
                "port": 2,
                "credentials": DEEP,
                "cacheFile": {"fileName": "y", "later": [1]},
                "later": {"a": None},
            },
        ),
        (ACCOUNT | {"credentials": DEEP, "other": 2}, oauth(), ACCOUNT | {"credentials": OAUTH, "other": 2}),
        (
            {"receiveAccounts": [ACCOUNT | {"cacheFile": None, "later": 1}], "sendAccount": None},
            MultiAccount(receive_accounts=[account(cache_file=Location("x"))], send_account=account(port=5)),
            {
                "receiveAccounts": [ACCOUNT | {"cacheFile": {"fileName": "x"}, "later": 1}],
                "sendAccount": ACCOUNT | {"port": 5},
            },
        ),
        (
            {"receiveAccounts": [ACCOUNT | {"mark": number} for number in range(3)]},
            MultiAccount(receive_accounts=[account()] * 4),
            {"receiveAccounts": [*(ACCOUNT | {"mark": number} for number in range(3)), ACCOUNT]},
        ),
    ],
    ids=["account", "credentials of another class", "null", "twins"],
)
def test_merge_keeps_unknown_fields_only(codec: Codec, tree: object, new: Document, merged: object) -> None:
    """A known field is the new document's, also where that has none or where it was null; an unknown one is the
    original's, but for those of credentials of another class; accounts that are alike keep theirs in their order.
    """
    assert unpack(codec, codec.merge(new, pack(codec, tree))) == merged


@pytest.mark.parametrize("number", [b"1e999", b"-1E400", b"9" * 5000, b"123456789012345678901234567890", b"1.0", b"-0"])
def test_numbers_are_kept_as_they_are_spelled(number: bytes) -> None:
    """A merge keeps every digit of an unknown number; one that MessagePack cannot carry is an EncodeError there."""
    inside = pack(JSON, ACCOUNT)[:-1] + b',"later":' + number + b"}"
    assert b'"later":' + number in JSON.merge(account(port=2), inside)
    many = b'{"receiveAccounts":[' + inside + b"]}"
    assert b'"later":' + number in JSON.merge(MultiAccount(receive_accounts=[account(port=2)]), many)
    with nullcontext() if len(number) < 5 else pytest.raises(EncodeError):
        turn(inside, JSON, MSGPACK)


MOMENT = datetime(2031, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\0\1", "$[...]: has bytes"),
        (MOMENT, "$[...]: has a time"),
        pytest.param(msgspec.msgpack.Ext(5, b"x"), "$[...]: has an extension", id="extension"),
        *((value, "$[...]: has infinity or NaN") for value in (float("nan"), float("inf"))),
        *(({key: "a"}, "$[...]: has a key that is no text") for key in (None, 1, 1.5, True, MOMENT)),
        ([1, {"a": float("-inf")}], "$[...][1][...]: has infinity or NaN"),
        ({"credentials": OAUTH | {"expiresAt": MOMENT}}, "$[...].credentials.expiresAt: has a time"),
    ],
    ids=repr,
)
def test_transcode_refuses_what_json_has_not(value: object, message: str) -> None:
    """An unknown field that JSON would lose, or would have as another value, such as bytes as their base64, is an
    EncodeError that says what it is and where, by known names: a move would remove the only copy.
    """
    with pytest.raises(EncodeError) as caught:
        turn(msgspec.msgpack.encode(ACCOUNT | {"later": value}), MSGPACK, JSON)
    assert str(caught.value) == f"{message}, which the other format cannot carry"


def test_a_time_of_other_credentials_is_unknown() -> None:
    """`expiresAt` is known of OAuth credentials alone: that of a password has no like in JSON."""
    with pytest.raises(EncodeError, match=r"^\$\.credentials\.expiresAt: "):
        turn(msgspec.msgpack.encode(ACCOUNT | {"credentials": PASSWORD | {"expiresAt": MOMENT}}), MSGPACK, JSON)
    unknown = {"sendAccount": {"credentials": OAUTH | {"expiresAt": MOMENT}}}
    with pytest.raises(EncodeError, match=r"^\$\.sendAccount\.credentials\.expiresAt: "):
        turn(msgspec.msgpack.encode(ACCOUNT | unknown), MSGPACK, JSON)


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
