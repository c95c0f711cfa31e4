"""The four operations of the client-account API, in process."""

from __future__ import annotations

import json
from typing import Any

import anyio
import msgspec
import pytest
from doubles import Recording
from gateways import BASE, MULTI, OAUTH, PASSWORD, STORAGE, configured, request_of, serving, told
from msgspec import Raw
from samples import RICH

from accountstore import AccountStore, DeniedError, KeyDeniedError, Location, StorageConfig, StoreConfig, Version
from accountstore.gateway import Access, GatewayConfig, merging
from accountstore.gateway.plain import PlainVersions
from accountstore.gateway.problems import Problem
from accountstore.gateway.wire import fields_of, value_in
from accountstore.testing import Fault, store_over

pytestmark = pytest.mark.anyio

AT = Location("a.account")
MULTI_AT = Location("a.multi.account")


async def test_what_is_saved_is_got(store: AccountStore) -> None:
    """PUT answers exactly 200 with nothing; GET answers the account, and the folder's two spellings mean one."""
    async with serving(store) as http:
        saved = await http.put(BASE, json=request_of(PASSWORD, folderPath="mail/team", storage="main"))
        assert (saved.status_code, saved.content) == (200, b"")
        got = await http.get(BASE, params={"fileName": "a.account", "folder": "mail/team", "storage": "main"})
    assert got.status_code == 200
    assert got.headers["content-type"] == "application/json"
    assert "content-encoding" not in got.headers
    assert got.json() == PASSWORD


async def test_a_multi_account_too(store: AccountStore) -> None:
    """The same for a multi account."""
    multi = {"receiveAccounts": [PASSWORD, OAUTH], "sendAccount": OAUTH}
    async with serving(store) as http:
        saved = await http.put(MULTI, json=request_of(multi, "a.multi.account"))
        assert (saved.status_code, saved.content) == (200, b"")
        got = await http.get(MULTI, params={"fileName": "a.multi.account"})
    assert got.json() == multi


async def test_answers_are_as_every_client_reads_them(store: AccountStore) -> None:
    """The body begins with `{` and is ASCII; the discriminator comes first; a key `type` stays inside."""
    document = json.dumps(
        {
            **PASSWORD,
            "host": "bücher.example",
            "credentials": {"type": "x", "login": "\U0001f511", "password": "p", **_discriminator("Password")},
        }
    )
    async with serving(store) as http:
        await store.save_json(AT, b"\xef\xbb\xbf " + document.encode())
        got = await http.get(BASE, params={"fileName": "a.account"})
    assert got.content.isascii()
    assert got.content[:1] == b"{"
    credentials = got.json()["credentials"]
    assert list(credentials) == ["discriminator", "login", "password"]
    assert (got.json()["host"], credentials["login"]) == ("bücher.example", "\U0001f511")


def _discriminator(kind: str) -> dict[str, str]:
    return {"discriminator": f"EmailClientAccount{kind}Credentials"}


def pascal(tree: Any) -> Any:
    """A tree with the keys that the .NET client sends."""
    if isinstance(tree, dict):
        return {key[:1].upper() + key[1:]: pascal(value) for key, value in tree.items()}
    return [pascal(item) for item in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize(("path", "name"), [(BASE, "a.account"), (MULTI, "a.multi.account")])
async def test_keys_are_read_in_either_case(store: AccountStore, path: str, name: str) -> None:
    """PascalCase keys are taken, and answered in camelCase; but a key within an unknown value stays as it is."""
    account = {**OAUTH, "cacheFile": {"fileName": "c"}}
    value = account if path == BASE else {"receiveAccounts": [account], "sendAccount": account}
    body = pascal(request_of(value, name))
    body["Value"]["Extra"] = {"Kept": 1}
    async with serving(store) as http:
        assert (await http.put(path, json=body)).status_code == 200
        assert (await http.get(path, params={"FileName": name})).json() == value
    assert json.loads((await store.read_json(Location(name))).document)["extra"] == {"Kept": 1}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "badRequest"),
        ("fileName=", 400, "badRequest"),
        ("fileName=no.account", 404, "notFound"),
        ("fileName=no.account&storage=unknown", 404, "notFound"),
        ("fileName=a.txt", 400, "badName"),
        ("fileName=a.multi.account", 400, "badName"),
        ("fileName=a.account&folder=..", 400, "badName"),
        ("fileName=..%2Fa.account", 400, "badName"),
        ("fileName=a.account&fileName=b.account", 400, "badRequest"),
        ("fileName=a.account&FileName=b.account", 400, "badRequest"),
        ("fileName=%ff.account", 400, "badRequest"),
        ("&".join(f"x{n}=1" for n in range(100)), 400, "badRequest"),
    ],
)
async def test_a_query_that_leads_nowhere(store: AccountStore, query: str, status: int, code: str) -> None:
    """What is asked for wrongly, or is not there, is told in the envelope."""
    async with serving(store) as http:
        assert told(await http.get(f"{BASE}?{query}")) == (status, code)


async def test_queries_are_decoded_as_forms(store: AccountStore) -> None:
    """`+`, `%20`, `%2F` and `%2f`, raw slashes and a bare `%` are read as every client sends them."""
    async with serving(store) as http:
        for folder, name in (("a b/é", "x y.account"), ("", "100% sure.account")):
            assert (await http.put(BASE, json=request_of(PASSWORD, name, folderPath=folder))).status_code == 200
        for query in (
            "fileName=x+y.account&folder=a+b%2F%C3%A9",
            "fileName=x%20y.account&folder=a%20b%2f%c3%a9&storage=",
            "fileName=x+y.account&folder=/a+b/%C3%A9/",
            "fileName=100%+sure.account",
        ):
            assert (await http.get(f"{BASE}?{query}")).json() == PASSWORD, query


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "badRequest"),
        (b"[]", "badRequest"),
        (b"{", "badRequest"),
        (b"{}", "badRequest"),
        (b"\xff\xfe{}", "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"}}', "badRequest"),
        (b'{"value":{}}', "badRequest"),
        (b'{"storageFile":null,"value":{}}', "badRequest"),
        (b'{"storageFile":{"fileName":1e999},"value":{}}', "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":1,"credentials":1e999}}', "badRequest"),
        (
            b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":1,"credentials":%s}}' % (b"9" * 5000),
            "badRequest",
        ),
        (b'{"storageFile":{"fileName":1},"value":{}}', "badRequest"),
        (b'{"storageFile":{"fileName":"a.account","folder":"mail"},"value":%s}' % RICH, "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"},"value":null}', "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"},"value":{}}', "badDocument"),
        (b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":NaN}}', "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":0}}', "badDocument"),
        (b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":1,"port":2}}', "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","Port":1,"port":2}}', "badRequest"),
        (b'{"storageFile":{"fileName":"a.txt"},"value":{"host":"h","port":1}}', "badName"),
        (b'{"storageFile":{"fileName":"a.multi.account"},"value":{"host":"h","port":1}}', "badName"),
        (b"[" * 100_000, "badRequest"),
        (b'{"storageFile":{"fileName":"a.account"},"value":%s}' % (b'{"a":' * 40 + b"1" + b"}" * 40), "badDocument"),
        (
            b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":1,"credentials":{"password":"p"}}}',
            "badDocument",
        ),
        (b'{"storageFile":{"fileName":"a.account"},"value":{"host":"h","port":1,"credentials":"p"}}', "badRequest"),
    ],
)
async def test_a_bad_body_is_refused(store: AccountStore, body: bytes, code: str) -> None:
    """A body that is no such request is refused with 400 in the envelope, and nothing is written."""
    async with serving(store) as http:
        assert told(await http.put(BASE, content=body)) == (400, code)
    assert not [entry async for entry in store.list()]


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
async def test_no_depth_of_a_value_is_a_failure(opened: str, closed: str) -> None:
    """Where one part of the gateway can still read what is nested, and another cannot, it is refused as what is nested
    less, or more.
    """

    def nested(depth: int) -> str:
        return opened * depth + "1" + closed * depth

    def is_read(depth: int) -> bool:
        try:
            return bool(json.loads(nested(depth)))
        except RecursionError:
            return False

    least, most = 1, 150_000
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if is_read(middle) else (least, middle)
    multi = json.dumps(request_of({"receiveAccounts": [{**PASSWORD, "host": "@@"}]}, "a.multi.account"))
    async with serving(StoreConfig(storages={"main": StorageConfig("memory://")})) as http:
        await http.put(MULTI, json=request_of({"receiveAccounts": [PASSWORD]}, "a.multi.account"))
        for depth in range(least - 100, least + 5):
            answer = await http.put(MULTI, content=multi.replace('"@@"', nested(depth)))
            assert told(answer) in {(400, "badDocument"), (400, "badRequest")}, depth


def test_fields_that_are_nested_too_deep_are_named() -> None:
    """Beyond what can be read, a body is refused with the field; a value that was stored so is none."""
    deep = b"[" * 1_000_000 + b"]" * 1_000_000
    with pytest.raises(Problem, match="value: is nested too deep") as caught:
        fields_of(b'{"a":%s}' % deep, "value")
    assert (caught.value.status, caught.value.code) == (400, "badRequest")
    with pytest.raises(Problem, match=r"value\.a: is nested too deep"):
        value_in({"a": Raw(deep)}, "a", "value")
    assert merging._decoded(Raw(deep)) is None  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b'{"host":"\\ud800","port":1}', "$"),
        (b'{"host":"h","port":1,"own":["\\udfff"]}', "$"),
    ],
)
async def test_the_field_of_a_value_that_cannot_be_is_named(store: AccountStore, value: bytes, field: str) -> None:
    """Half of a character is refused at the first save, and the message says where."""
    async with serving(store) as http:
        body = b'{"storageFile":{"fileName":"a.account"},"value":%s}' % value
        answer = await http.put(BASE, content=body)
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert message.startswith(f"{field}: ")
        assert "object" not in message
    assert not [entry async for entry in store.list()]


async def test_a_stored_number_out_of_range_stops_no_save(store: AccountStore) -> None:
    """It stays as it stands, however it came there."""
    field = b'"accountstoreRefresh":{"x":1e999}'
    async with serving(store) as http:
        await store.save_json(AT, json.dumps(PASSWORD).encode()[:-1] + b"," + field + b"}")
        for _ in range(2):
            assert (await http.put(BASE, json=request_of(PASSWORD))).status_code == 200
    assert field in (await store.read_json(AT)).document


async def test_a_multi_call_takes_multi_names_only(store: AccountStore) -> None:
    """Both multi calls refuse another extension than `.multi.account`."""
    async with serving(store) as http:
        body = request_of({"receiveAccounts": []})
        assert told(await http.put(MULTI, json=body)) == (400, "badName")
        assert told(await http.get(MULTI, params={"fileName": "a.account"})) == (400, "badName")


# --- what a save keeps ----------------------------------------------------------------------------------------------


async def test_a_save_keeps_what_its_client_does_not_know(store: AccountStore) -> None:
    """Unknown fields of every level stay as they stand, numbers to the digit; known ones are the client's to drop."""
    stored = RICH.replace(b'"port":1', b'"port":1,"X-Own":{"Deep":1.50},"securityOptions":"Auto"')
    await store.save_json(AT, stored)
    changed = {"host": "new", "port": 2, "credentials": {"login": "l", "password": "q", **_discriminator("Password")}}
    async with serving(store) as http:
        assert (await http.put(BASE, json=request_of(changed))).status_code == 200
        assert (await http.get(BASE, params={"fileName": "a.account"})).json() == changed
    after = (await store.read_json(AT)).document
    assert b'"new":{"deep":[1,2.50]}' in after
    assert b'"X-Own":{"Deep":1.50}' in after
    assert b'"hint":"?"' in after
    assert b"securityOptions" not in after


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"clientSecret": "new"}, True),
        ({"refreshToken": "new"}, False),
        ({"login": "other"}, False),
        ({"clientId": "other"}, False),
    ],
)
async def test_tokens_stay_with_their_grant(store: AccountStore, change: dict[str, str], kept: bool) -> None:
    """Access token and expiry survive a read-change-save by a client that drops them, unless the grant is another;
    other fields unless the login is.
    """
    tokens = {"accessToken": "at", "expiresAt": "2031-01-01T00:00:00Z"}
    credentials: dict[str, Any] = {**OAUTH["credentials"], "hint": "?"}  # type: ignore[dict-item]
    await store.save_json(AT, json.dumps({**OAUTH, "credentials": {**credentials, **tokens}}).encode())
    del credentials["hint"]
    async with serving(store) as http:
        body = request_of({**OAUTH, "port": 466, "credentials": {**credentials, **change}})
        assert (await http.put(BASE, json=body)).status_code == 200
    after = json.loads((await store.read_json(AT)).document)["credentials"]
    assert (tokens.items() <= after.items()) is kept
    assert after.get("hint") == (None if "login" in change else "?")


@pytest.mark.parametrize(("name", "kept"), [("c", True), ("d", False)])
async def test_fields_of_a_cache_file_stay_with_that_file(store: AccountStore, name: str, kept: bool) -> None:
    """Of another file nothing is kept."""
    account = {**PASSWORD, "cacheFile": {"fileName": "c", "own": 1}}
    await store.save_json(AT, json.dumps(account).encode())
    async with serving(store) as http:
        assert (await http.put(BASE, json=request_of({**account, "cacheFile": {"fileName": name}}))).status_code == 200
    assert json.loads((await store.read_json(AT)).document)["cacheFile"].get("own") == (1 if kept else None)


async def test_empty_text_in_a_cache_file_is_none(store: AccountStore) -> None:
    """A client leaves out an empty folder or storage that it has got: it is the same file, and keeps its fields."""
    empty = {**PASSWORD, "cacheFile": {"fileName": "c", "folderPath": "", "storage": "", "own": 1}}
    async with serving(store) as http:
        assert (await http.put(f"{STORAGE}/file/a.account", json=empty)).status_code == 200
        got = (await http.get(BASE, params={"fileName": "a.account"})).json()
        assert (await http.put(BASE, json=request_of(got))).status_code == 200
    assert json.loads((await store.read_json(AT)).document)["cacheFile"]["own"] == 1


async def test_a_field_that_a_client_changes_stays_one(store: AccountStore) -> None:
    """The first letter of an unknown field is as it is stored; another field that differs by it alone is left alone."""
    before = {**PASSWORD, "Note": 1, "Both": 1, "both": 1}
    async with serving(store) as http:
        assert (await http.put(f"{STORAGE}/file/a.account", json=before)).status_code == 200
        assert (await http.put(BASE, json=request_of({**PASSWORD, "Note": 2, "both": 2}))).status_code == 200
    assert json.loads((await store.read_json(AT)).document) == {**before, "Note": 2, "both": 2}


@pytest.mark.parametrize("value", [[], [1], {"x": 1}, None, 5, "x"])
async def test_a_single_account_may_have_a_field_of_a_multi_account(store: AccountStore, value: Any) -> None:
    """`receiveAccounts` is no field of an account: whatever it is, it stays, and what is written is told."""
    async with serving(store) as http:
        odd = {**PASSWORD, "receiveAccounts": value}
        for sent in (odd, PASSWORD, PASSWORD):
            assert (await http.put(BASE, json=request_of(sent))).status_code == 200
            assert (await http.get(f"{STORAGE}/file/a.account")).json() == odd


async def test_other_credentials_keep_nothing(store: AccountStore) -> None:
    """From a password to OAuth, nothing of the old credentials comes along."""
    await store.save_json(AT, RICH)
    async with serving(store) as http:
        assert (await http.put(BASE, json=request_of(OAUTH))).status_code == 200
    assert b"hint" not in (await store.read_json(AT)).document


def one(host: str, tag: int | None = None, /, **more: Any) -> dict[str, Any]:
    """An account of the same login on a host, with an unknown field if that is given."""
    return {**PASSWORD, "host": host, **({} if tag is None else {"tag": tag}), **more}


def login(name: str) -> dict[str, Any]:
    """Credentials of another login."""
    return {"credentials": {**PASSWORD["credentials"], "login": name}}  # type: ignore[dict-item]


NOBODY = {"credentials": _discriminator("")}


@pytest.mark.parametrize(
    ("stored", "given", "kept"),
    [
        ([one("a", 1), one("b", 2), one("c", 3)], [one("c"), one("d"), one("a")], [3, None, 1]),
        ([one("a", 1), one("b", 2)], [one("b")], [2]),
        ([one("a", 1), one("b", 2)], [one("b", port=1)], [2]),
        ([one("a", 1), one("b", 2)], [one("c")], [None]),
        ([one("a", 1)], [one("a", **login("you"))], [None]),
        ([one("a", 1)], [one("a", protocolType="POP3")], [None]),
        ([one("a", 1, port=1), one("a", 2, port=2)], [one("a", port=2), one("a", port=1)], [2, 1]),
        ([one("a", 1, port=1), one("a", 2, port=2)], [one("a", port=2)], [2]),
        ([one("a", 1, port=1), one("a", 2, port=2)], [one("a", port=3)], [None]),
        ([one("a", 1), one("a", 2)], [one("a"), one("a")], [1, 2]),
        ([one("a", 1)], [one("a"), one("a")], [None, None]),
        ([one("a", 1, **NOBODY)], [one("a"), one("a", **NOBODY)], [None, 1]),
        ([], [one("a")], [None]),
    ],
)
async def test_accounts_of_a_multi_account_keep_their_own(
    store: AccountStore, stored: list[Any], given: list[Any], kept: list[int | None]
) -> None:
    """Wherever it stands, an account keeps its own fields, and no account takes those of another: one is the same as
    another with its protocol, host and login; of several such, with its port. The sending account too.
    """
    multi = {"receiveAccounts": stored, "sendAccount": one("s", 4), "label": "team"}
    await store.save_json(MULTI_AT, json.dumps(multi).encode())
    async with serving(store) as http:
        for sender, tag in (("s", 4), ("t", None)):
            body = request_of({"receiveAccounts": given, "sendAccount": one(sender)}, "a.multi.account")
            assert (await http.put(MULTI, json=body)).status_code == 200
            after = json.loads((await store.read_json(MULTI_AT)).document)
            assert [each.get("tag") for each in after["receiveAccounts"]] == kept
            assert (after["sendAccount"].get("tag"), after["label"]) == (tag, "team")


def test_the_work_of_a_merge_grows_with_the_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten times as many accounts, all others than the stored ones, ten times as many values are looked at."""
    looked: list[object] = []
    value = merging._value  # pyright: ignore[reportPrivateUsage]

    def look(field: object) -> object:
        looked.append(field)
        return value(field)

    monkeypatch.setattr(merging, "_value", look)

    def work(number: int) -> int:
        looked.clear()
        multis = ({"receiveAccounts": [one(f"{who}{n}") for n in range(number)]} for who in "ab")
        new, old = (merging.multi_fields(json.dumps(multi).encode(), "$", str) for multi in multis)
        merging.keep_multi(merging.renewed(new, "multi", {}), old, {})
        return len(looked)

    assert work(100) == 10 * work(10) > 0


async def test_a_multi_account_has_no_end_of_accounts(store: AccountStore) -> None:
    """More receiving accounts than a document has room for are refused before they are looked at."""
    async with serving(store) as http:
        answer = await http.put(MULTI, json=request_of({"receiveAccounts": [{}] * 2501}, "a.multi.account"))
        assert told(answer) == (413, "tooMany")
        answer = await http.put(MULTI, json=request_of({"receiveAccounts": [{}] * 2500}, "a.multi.account"))
        assert told(answer) == (400, "badDocument")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        json.dumps({**PASSWORD, "credentials": {"discriminator": "EmailClientAccountPasskeyCredentials"}}).encode(),
        b'{"protected":"e30","ciphertext":"","iv":"","tag":"","recipients":[]}',
    ],
    ids=["broken", "newer", "sealed"],
)
async def test_a_document_that_cannot_be_read_is_not_replaced(tmp_path: Any, content: bytes) -> None:
    """What is stored and cannot be read answers a get with 502 and a save with 409, whatever its conditions, and stays;
    a whole file takes its place.
    """
    file = tmp_path / "a.account"
    file.write_bytes(content)
    async with serving(StoreConfig(storages={"main": StorageConfig(str(tmp_path))})) as http:
        assert (await http.get(BASE, params={"fileName": "a.account"})).status_code == 502
        for headers in ({}, {"if-match": "*"}):
            assert told(await http.put(BASE, json=request_of(PASSWORD), headers=headers)) == (409, "badStored")
            assert file.read_bytes() == content
        assert (await http.put(f"{STORAGE}/file/a.account", json=PASSWORD)).status_code == 200
        assert (await http.get(BASE, params={"fileName": "a.account"})).json() == PASSWORD


async def test_a_document_that_is_too_large_is_not_replaced(tmp_path: Any) -> None:
    """What is larger than the storage allows stays where a save comes; a whole file takes its place."""
    file = tmp_path / "a.account"
    file.write_text(json.dumps({**PASSWORD, "own": "x" * 2000}))
    async with serving(StoreConfig(storages={"main": StorageConfig(str(tmp_path))}, max_bytes=1000)) as http:
        assert told(await http.put(BASE, json=request_of(PASSWORD))) == (409, "badStored")
        assert (await http.put(f"{STORAGE}/file/a.account", json=PASSWORD)).status_code == 200
        assert (await http.get(BASE, params={"fileName": "a.account"})).json() == PASSWORD


async def test_values_that_json_has_not_stay(tmp_path: Any) -> None:
    """A document of MessagePack with such is got as far as it is known; neither is it sent whole, nor replaced."""
    file = tmp_path / "a.account"
    content = msgspec.msgpack.encode(PASSWORD | {"later": b"\0"})
    file.write_bytes(content)
    config = StorageConfig(str(tmp_path), codec="msgpack")
    async with serving(StoreConfig(storages={"main": config})) as http:
        assert (await http.get(BASE, params={"fileName": "a.account"})).json() == PASSWORD
        assert told(await http.get(f"{STORAGE}/file/a.account")) == (502, "badStored")
        assert told(await http.put(BASE, json=request_of(PASSWORD))) == (409, "badStored")
        assert file.read_bytes() == content


@pytest.mark.parametrize("error", [DeniedError("zQ7k"), KeyDeniedError("zQ7k")], ids=["read", "key"])
async def test_a_whole_file_takes_the_place_of_what_may_not_be_read(error: Exception) -> None:
    """An upload needs no right to read what it replaces."""
    backend = Recording(None, [Fault("read", error=error)])
    async with serving(store_over({"main": backend})) as http:
        assert (await http.put(f"{STORAGE}/file/a.account", json=PASSWORD)).status_code == 200
    assert backend.calls["write"] == 1


async def test_a_document_whose_key_is_refused_is_not_to_be_deleted() -> None:
    """Where the key service refuses the gateway, which it may not a moment later, a save says that."""
    backend = Recording(None, [Fault("read", error=KeyDeniedError("zQ7k"))])
    async with serving(store_over({"main": backend})) as http:
        answer = await http.put(BASE, json=request_of(PASSWORD))
    assert told(answer) == (503, "unavailable")
    assert backend.calls["write"] == 0


# --- conditions -----------------------------------------------------------------------------------------------------


async def test_etags_and_conditions(store: AccountStore) -> None:
    """An ETag names one state, for GET and PUT; what does not hold is 412, what is there already 304."""
    at = {"fileName": "a.account"}
    async with serving(store) as http:
        none = await http.put(BASE, json=request_of(PASSWORD), headers={"if-match": "*"})
        assert told(none) == (412, "changed")
        created = await http.put(BASE, json=request_of(PASSWORD), headers={"if-none-match": "*"})
        tag = created.headers["etag"]
        again = await http.put(BASE, json=request_of(PASSWORD), headers={"if-none-match": "*"})
        assert told(again) == (412, "changed")
        got = await http.get(BASE, params=at)
        assert got.headers["etag"] == tag
        known = await http.get(BASE, params=at, headers={"if-none-match": f'"x", W/{tag}'})
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
        assert told(await http.get(BASE, params=at, headers={"if-match": '"x"'})) == (412, "changed")
        assert (await http.get(BASE, params=at, headers={"if-match": tag})).status_code == 200

        changed = await http.put(BASE, json=request_of(OAUTH), headers={"if-match": tag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        stale = await http.put(BASE, json=request_of(PASSWORD), headers={"if-match": tag})
        assert told(stale) == (412, "changed")
        weak = await http.put(BASE, json=request_of(PASSWORD), headers={"if-match": f"W/{changed.headers['etag']}"})
        assert told(weak) == (412, "changed")
        assert (await http.get(BASE, params=at)).json() == OAUTH


async def test_a_condition_in_several_lines_is_one(store: AccountStore) -> None:
    """A header that stands several times has the tags of all its lines."""
    at = {"fileName": "a.account"}
    async with serving(store) as http:
        tag = (await http.put(BASE, json=request_of(PASSWORD))).headers["etag"]
        for header, values, get, put in (
            ("if-none-match", ['"x"', tag], 304, 412),
            ("if-none-match", ['"x"', "*"], 304, 412),
            ("if-none-match", ['"x"', '"y"'], 200, 200),
            ("if-match", ['"x"', '"y"'], 412, 412),
            ("if-match", ['"x"', tag], 200, 200),
        ):
            lines = [(header, value) for value in values]
            assert (await http.get(BASE, params=at, headers=lines)).status_code == get
            assert (await http.put(BASE, json=request_of(PASSWORD), headers=lines)).status_code == put


async def test_an_etag_is_no_digest_of_a_document(store: AccountStore) -> None:
    """Two gateways with different keys give one state different ETags, and so do two documents of equal bytes.

    Control: the versions below are digests, equal for equal bytes.
    """
    tags: set[str] = set()
    for key in ("a" * 43, "b" * 43):
        async with serving(store, configured(keys=(key,))) as http:
            for name in ("a.account", "b.account"):
                if key[0] == "a":
                    await http.put(BASE, json=request_of(PASSWORD, name))
                tags.add((await http.get(BASE, params={"fileName": name})).headers["etag"])
    assert len(tags) == 4
    if store.capabilities().durable:
        assert (await store.read(AT)).version == (await store.read(Location("b.account"))).version


async def test_a_conditional_save_survives_a_rotated_key(store: AccountStore) -> None:
    """A gateway whose keys were rotated takes an ETag that the older key made."""
    async with serving(store, configured(keys=("a" * 43,))) as http:
        tag = (await http.put(BASE, json=request_of(PASSWORD))).headers["etag"]
    async with serving(store, configured(keys=("b" * 43, "a" * 43))) as http:
        after = await http.put(BASE, json=request_of(OAUTH), headers={"if-match": tag})
        assert after.status_code == 200
    async with serving(store, configured(keys=("b" * 43,))) as http:
        refused = await http.put(BASE, json=request_of(OAUTH), headers={"if-match": tag})
        assert refused.status_code == 412


async def test_saves_at_once_keep_one_anothers_unknown_fields(store: AccountStore) -> None:
    """Saves that meet merge with what the other has written: no field that a client does not know is lost."""
    await store.save_json(AT, json.dumps({**PASSWORD, "own": 1}).encode())
    async with serving(store) as http:

        async def save(port: int) -> None:
            value = {**PASSWORD, "port": port, f"field{port}": port}
            assert (await http.put(BASE, json=request_of(value))).status_code == 200

        async with anyio.create_task_group() as tasks:
            for port in range(1, 11):
                tasks.start_soon(save, port)
    after = json.loads((await store.read_json(AT)).document)
    assert after["own"] == 1
    assert {f"field{port}" for port in range(1, 11)} <= after.keys()


async def test_a_storage_without_conditions_takes_saves_but_no_conditions() -> None:
    """Where the storage cannot compare and swap, a save overwrites, and one with a condition is refused with 501."""
    backend = Recording(create=False, update=False)
    async with serving(store_over({"main": backend})) as http:
        assert (await http.put(BASE, json=request_of({**PASSWORD, "own": 1}))).status_code == 200
        assert (await http.put(BASE, json=request_of(OAUTH))).status_code == 200
        assert json.loads(await backend.raw(AT))["own"] == 1
        tag = (await http.get(BASE, params={"fileName": "a.account"})).headers["etag"]
        refused = await http.put(BASE, json=request_of(PASSWORD), headers={"if-match": tag})
        assert told(refused) == (501, "notSupported")


async def test_a_save_that_never_wins_is_told(pauses: list[float]) -> None:
    """Where others are faster for ever, a save ends in a conflict; with a condition, at the first one in 412."""
    backend = Recording()
    async with serving(store_over({"main": backend})) as http:
        first = await http.put(BASE, json=request_of(PASSWORD))
        rivals = iter(range(10**6))

        async def rival(operation: str) -> None:
            if operation == "write":
                await backend.put(AT, json.dumps({**PASSWORD, "port": next(rivals) + 1}).encode(), minutes=0)

        backend.before = rival
        refused = await http.put(BASE, json=request_of(OAUTH), headers={"if-match": first.headers["etag"]})
        assert told(refused) == (412, "changed")
        assert next(rivals) == 1
        assert told(await http.put(BASE, json=request_of(OAUTH))) == (409, "conflict")
        assert next(rivals) == 66
    assert pauses


async def test_a_save_over_ones_own_needs_no_read() -> None:
    """Where the gateway knows that there is nothing to keep, a save is one request; with anything to keep it reads."""
    backend = Recording()
    async with serving(store_over({"main": backend})) as http:
        for value, requests in (
            (PASSWORD, ["read", "write"]),
            (OAUTH, ["write"]),
            ({**OAUTH, "own": 1}, ["write"]),
            (OAUTH, ["read", "write"]),  # and keeps `own`
            (OAUTH, ["read", "write"]),
        ):
            backend.log.clear()
            assert (await http.put(BASE, json=request_of(value))).status_code == 200
            assert [call for call in backend.log if call in {"read", "write"}] == requests
        assert json.loads(await backend.raw(AT))["own"] == 1


async def test_a_save_needs_no_read_where_each_request_is_narrowed_anew() -> None:
    """A service that calls `scoped` for each request has as fast saves, and no more memory, than one that does once."""
    backend = Recording()
    store = store_over({"main": backend})

    async def authorize(_: object) -> Access:
        return Access("a", store.scoped("tenants/a"))

    async with serving(store, GatewayConfig(), authorize=authorize, token=False) as http:
        for requests in (["read", "write"], ["write"], ["write"]):
            backend.log.clear()
            assert (await http.put(BASE, json=request_of(PASSWORD))).status_code == 200
            assert [call for call in backend.log if call in {"read", "write"}] == requests


@pytest.mark.parametrize("kind", ["account", "multi"])
async def test_what_others_wrote_meanwhile_is_kept_all_the_same(store: AccountStore, kind: str) -> None:
    """A document that somebody else has written since the gateway did is read, and keeps its fields; one removed is
    created.
    """
    at, path = (AT, BASE) if kind == "account" else (MULTI_AT, MULTI)
    value = PASSWORD if kind == "account" else {"receiveAccounts": [PASSWORD, OAUTH]}
    async with serving(store) as http:
        body = request_of(value, at.file_name)
        assert (await http.put(path, json=body)).status_code == 200
        await store.save_json(at, json.dumps({**value, "own": 1}).encode())
        for _ in range(2):
            assert (await http.put(path, json=body)).status_code == 200
            assert json.loads((await store.read_json(at)).document)["own"] == 1
        await store.delete(at)
        for _ in range(2):
            assert (await http.put(path, json=body)).status_code == 200
            await store.delete(at)


def test_the_versions_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many documents are saved, memory does not grow with them."""
    monkeypatch.setattr("accountstore.gateway.plain._KEPT", 3)
    known, store = PlainVersions(), store_over({"main": Recording()})
    for number in range(9):
        known.put(store, Location(f"{number}.account"), Version(str(number)))
    found = [known.take(store, Location(f"{number}.account")) for number in range(9)]
    assert found == [None] * 6 + [Version("6"), Version("7"), Version("8")]
    assert known.take(store, Location("8.account")) is None
