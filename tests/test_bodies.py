"""Documents in the bodies of a service: what a client gives, what it gets, and what other serializers make of them."""

from __future__ import annotations

import json
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from doubles import raises
from msgspec.structs import replace
from samples import ACCOUNT, FULL, MULTI, OAUTH

from accountstore import (
    Account,
    DecodeError,
    EncodeError,
    MultiAccount,
    NoCredentials,
    OAuthCredentials,
    Secret,
    UnknownFieldError,
    from_json,
    json_schema,
    masked,
    to_json,
)

if TYPE_CHECKING:
    from accountstore import Document

CANARY = "canary-5d2f"
MASK = "**********"
TREE: dict[str, Any] = json.loads(to_json(ACCOUNT, reveal=True))
CREDENTIALS: dict[str, Any] = TREE["credentials"]
DOCUMENTS: list[Document] = [ACCOUNT, FULL, OAUTH, replace(ACCOUNT, credentials=NoCredentials()), MULTI]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_revealed_is_taken_again(document: Document) -> None:
    """`from_json` takes what `to_json` reveals, as bytes, as text and with a byte order mark; the bytes do not show."""
    data = to_json(document, reveal=True)
    for given in (data, data.decode(), b"\xef\xbb\xbf" + data, "\ufeff" + data.decode()):
        assert from_json(given, type(document)) == document
    assert "pw" not in repr(data)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_secrets_are_masked(document: Document) -> None:
    """Without `reveal` each secret is the mask, and everything else is there; `masked` is the same as a tree."""
    shown = json.loads(to_json(document))
    assert shown == masked(document) == json.loads(msgspec.json.encode(document, enc_hook=str))
    whole = json.dumps(json.loads(to_json(document, reveal=True)))
    for secret in ("pw", "cs", "rt"):
        whole = whole.replace(f'"{secret}"', f'"{MASK}"')
    assert json.dumps(shown) == whole


@pytest.mark.parametrize(
    ("url", "is_shown"), [("https://example.org/token", True), (CANARY, False), ("http://", False)]
)
def test_a_request_url_that_may_hold_a_token_is_masked(url: str, is_shown: bool) -> None:
    """A `requestUrl` shows if it is no more than an address, alone and in a multi account."""
    account = replace(OAUTH, credentials=OAuthCredentials(login="l", refresh_token="r", request_url=url))
    multi = MultiAccount(receive_accounts=[ACCOUNT, account], send_account=account)
    trees = [masked(account), masked(multi)["receiveAccounts"][1], masked(multi)["sendAccount"]]
    assert [tree["credentials"]["requestUrl"] for tree in trees] == [url if is_shown else MASK] * 3


@pytest.mark.parametrize(
    ("tree", "field", "said"),
    [
        (TREE | {"hots": 1}, "$.hots", "is not a field here; did you mean 'host'?"),
        (TREE | {f"{CANARY} x": 1}, "$", "known: cacheFile, credentials, host"),
        (TREE | {"credentials": CREDENTIALS | {"passwort": CANARY}}, "$.credentials.passwort", "'password'"),
        (TREE | {"cacheFile": {"fileName": "x", "path": CANARY}}, "$.cacheFile.path", "is not a field here"),
    ],
)
def test_an_unknown_field_is_told_apart_from_a_mistake(tree: dict[str, Any], field: str, said: str) -> None:
    """A field that the model does not have is an error of its own, with path and near miss; or it is dropped."""
    with raises(UnknownFieldError, field=field) as caught:
        from_json(json.dumps(tree))
    assert said in caught.value.message
    known = replace(ACCOUNT, cache_file=from_json(json.dumps(tree), unknown="drop").cache_file)
    assert from_json(json.dumps(tree), unknown="drop") == known
    multi = json.dumps({"receiveAccounts": [TREE, tree]})
    with raises(UnknownFieldError, field=f"$.receiveAccounts[1]{field[1:]}"):
        from_json(multi, MultiAccount)


@pytest.mark.parametrize(
    ("data", "field", "said"),
    [
        (json.dumps(TREE | {"port": "993"}), "$.port", "Expected `int`, got `str`"),
        (json.dumps(TREE | {"protocolType": "imap"}), "$.protocolType", "IMAP"),
        (json.dumps({**TREE, "host": None}), "$.host", "Expected `str`"),
        ('{"host": "a", "host": "b", "port": 1}', "$", "an object has the same key twice"),
        (b"\xff", "$", "is not UTF-8"),
        ("\ud800", "$", "is not UTF-8"),
        ("", "$", "is not valid JSON"),
        ("\ufeff\ufeff" + json.dumps(TREE), "$", "is not valid JSON"),
        (to_json(ACCOUNT), "$.credentials.password", "is the mask that stands for a secret: send the secret itself"),
    ],
)
def test_a_mistake_of_a_client_is_no_error_of_a_storage(data: str | bytes, field: str, said: str) -> None:
    """What is wrong with a client's JSON is an `EncodeError`, as of a save: a `DecodeError` is about what is stored."""
    with raises(EncodeError, field=field) as caught:
        from_json(data)
    assert not isinstance(caught.value, (DecodeError, UnknownFieldError))
    assert said in caught.value.message


@pytest.mark.parametrize("data", [TREE, [CANARY], 5, None])
def test_what_is_no_json_is_refused_by_its_type(data: Any) -> None:
    """What is neither bytes nor text is a `TypeError` that says what to give, and shows it in no frame of ours."""
    with pytest.raises(TypeError, match="bytes or str") as caught:
        from_json(data)
    entries = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert CANARY not in "".join(f"{entry.locals}" for entry in entries)


@pytest.mark.parametrize("call", [to_json, masked, partial(to_json, reveal=True)])
@pytest.mark.parametrize("given", [{"credentials": {"password": CANARY}}, [CANARY], CANARY, 3, None])
def test_what_is_no_document_is_not_shown(call: Any, given: Any) -> None:
    """A dictionary, whose secrets nothing would mask, and whatever else is no document is a `TypeError` that says what
    to give, and shows it in no frame of ours.
    """
    with pytest.raises(TypeError, match="an Account or a MultiAccount is wanted") as caught:
        call(given)
    entries = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert len(entries) > 0
    assert CANARY not in "".join(f"{entry.locals}" for entry in entries)


def test_no_error_shows_what_a_client_gave() -> None:
    """The frames of the library hold nothing of the JSON, in whichever type it was given."""
    text = json.dumps(TREE | {"port": "x", "credentials": CREDENTIALS | {"password": CANARY}})
    for data in (text, text.encode(), bytearray(text.encode())):
        with pytest.raises(EncodeError) as caught:
            from_json(cast("bytes", data))
        entries = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
        assert len(entries) > 0
        assert CANARY not in "".join(f"{entry.locals}" for entry in entries)
        assert caught.value.__context__ is None
    # The control: msgspec's own error has them in the frames below ours.
    with pytest.raises(TypeError, match="makes an Account or a MultiAccount") as refused:
        from_json(text, cast("Any", dict))
    assert CANARY in "".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format())


def test_unknown_fields_are_refused_or_dropped_and_nothing_else() -> None:
    """Another word for what becomes of unknown fields is a `ValueError`: a misspelt one must not drop them."""
    with pytest.raises(ValueError, match="'refuse' or 'drop'"):
        from_json(to_json(ACCOUNT, reveal=True), unknown=cast("Any", "keep"))


@pytest.mark.parametrize("kind", [Account, MultiAccount])
def test_the_schema_is_that_of_the_json(kind: type[Document]) -> None:
    """The schema names each kind of credentials by its discriminator, and has secrets as passwords that are written."""
    schema = json_schema(kind)
    assert schema["$ref"] == f"#/$defs/{kind.__name__}"
    classes = schema["$defs"]
    assert set(classes["Account"]["properties"]) == {*Account.__struct_encode_fields__}
    secret = {"type": "string", "minLength": 1, "format": "password", "writeOnly": True}
    assert classes["PasswordCredentials"]["properties"]["password"] == secret
    assert {"type": "null"} in classes["OAuthCredentials"]["properties"]["clientSecret"]["anyOf"]
    assert json.loads(json.dumps(schema)) == schema


def test_msgspec_takes_a_document_and_gives_one_masked() -> None:
    """msgspec itself, and what builds on it, decodes documents; it encodes secrets by whatever hook makes text of them,
    and without one refuses.
    """
    for document in DOCUMENTS:
        data = to_json(document, reveal=True)
        assert msgspec.json.decode(data, type=type(document)) == document
        assert msgspec.convert(msgspec.json.decode(data), type(document)) == document
        assert b'"pw"' not in msgspec.json.encode(document, enc_hook=str)
    with pytest.raises(TypeError, match="Secret"):
        msgspec.json.encode(ACCOUNT)
    assert msgspec.json.encode({"password": Secret("pw")}, enc_hook=str) == b'{"password":"**********"}'


@pytest.mark.parametrize("kind", [Account, MultiAccount])
def test_pydantic_is_told_what_to_do(kind: type[Document]) -> None:
    """A document as a field of a model is an error that names the way, unless the model allows types of others."""
    pydantic: Any = pytest.importorskip("pydantic")
    with pytest.raises(TypeError, match=rf"accountstore\.from_json\(data, {kind.__name__}\)"):
        pydantic.TypeAdapter(kind)
    allowing = pydantic.create_model("M", __config__={"arbitrary_types_allowed": True}, document=(kind, ...))
    document = MULTI if kind is MultiAccount else ACCOUNT
    assert allowing(document=document).document is document
    with pytest.raises(pydantic.ValidationError):
        allowing(document={})
