"""The API's storage calls on account documents."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from anyio import to_thread
from doubles import Recording
from gateways import BASE, KEY, PASSWORD, STORAGE, ask_token, client, configured, request_of, serving, told
from msgspec.structs import replace
from samples import RICH

from accountstore import AccountStore, Location, StorageConfig, StoreConfig, Version, VersionInfo
from accountstore.backends.local.backend import open_backend
from accountstore.backends.memory import MemoryBackend
from accountstore.gateway import Limits
from accountstore.testing import store_over

if TYPE_CHECKING:
    from pathlib import Path

    from cloudservers import Server

    from accountstore.backends.base import Stat

pytestmark = pytest.mark.anyio

BODY = json.dumps(PASSWORD).encode()


def form(header: bytes) -> bytes:
    """A form with a file, whose part has one more header."""
    disposition = b'content-disposition: form-data; name="x; y=\\"z"; filename="a b;c.account"\r\n'
    return b"--x\r\n%s%s\r\n%s\r\n--x--\r\n" % (header, disposition, BODY)


async def names(http: Any, folder: str) -> list[str]:
    listed = await http.get(f"{STORAGE}/folder/{folder}")
    assert listed.status_code == 200
    # A folder of a local storage stays when its last document goes.
    return [entry["path"] for entry in listed.json()["value"] if entry["name"] not in {"to", "empty"}]


async def test_files_go_up_and_come_down_whole(store: AccountStore) -> None:
    """A form's file or a bare body is stored as it is, unknown fields too, and comes down the same."""
    async with serving(store) as http:
        uploads: list[tuple[str, dict[str, Any]]] = [
            ("a.account", {"files": {"File": ("x.account", RICH, "application/octet-stream")}}),
            ("mail/b.account", {"content": RICH}),
        ]
        for name, content in uploads:
            up = await http.put(f"{STORAGE}/file/{name}", params={"storageName": "main"}, **content)
            assert up.json() == {"uploaded": [name.rpartition("/")[2]], "errors": []}
            down = await http.get(f"{STORAGE}/file//{name}")
            assert down.headers["content-type"] == "application/octet-stream"
            assert json.loads(down.content) == json.loads(RICH)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("a.txt", 400, "badName"),
        ("%2E%2E/a.account", 400, "badName"),
        ("x/..%2F..%2Fa.account", 400, "badName"),
        ("a%00.account", 400, "badName"),
        ("a%FF.account", 400, "badRequest"),
        ("", 400, "badRequest"),
        ("a.account?storageName=other", 404, "notFound"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_names_have_the_stores_rules(store: AccountStore, method: str, path: str, status: int, code: str) -> None:
    """Extensions and names are the store's in every call."""
    async with serving(store) as http:
        answer = await http.request(method, f"{STORAGE}/file/{path}", content=BODY if method == "PUT" else None)
    assert told(answer) == (status, code)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        ("multipart/form-data", BODY),
        ("multipart/form-data; boundary=x", b"garbage"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="f"\r\n\r\ntext\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=0",
            b"".join(b"--%d\r\ncontent-type: multipart/mixed; boundary=%d\r\n\r\n" % (n, n + 1) for n in range(9999)),
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\ntext\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n%s\r\n--x--" % BODY),
        ("multipart/form-data; boundary=x", form(b"")[:-5]),
        ("multipart/form-data; boundary=x", b"--x--" + form(b"")),
        ("multipart/form-data; boundary=x", b"--x\r\na:b\r\n\r\n" * 16 + form(b"")),
        ("multipart/form-data; boundary=x", form(b"content-transfer-encoding: base64\r\n")),
        ("multipart/form-data; boundary=x", form(b"x: %s\r\n" % (b"x" * 9999))),
        (
            "multipart/form-data; boundary=y",
            b"--y\r\ncontent-type: multipart/mixed; boundary=x\r\n\r\n%s\r\n--y--" % form(b""),
        ),
        ("multipart/form-data; boundary=\xff", form(b"").replace(b"--x", b"--\xff")),
        ("multipart/form-data; boundary=" + "x" * 71, form(b"").replace(b"--x", b"--" + b"x" * 71)),
        ("multipart/form-data; boundary*0*=x; boundary*=utf-8''%ff", form(b"")),
    ],
)
async def test_a_form_without_a_file_is_refused(store: AccountStore, kind: str, body: bytes) -> None:
    """A form that has no file, or is none, is refused. A part within a part is no file, nor is a coded one."""
    async with serving(store) as http:
        answer = await http.put(
            f"{STORAGE}/file/a.account", content=body, headers={b"content-type": kind.encode("latin-1")}
        )
    assert told(answer) == (400, "badRequest")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", form(b"")),
        ('Multipart/Form-Data; charset=utf-8; Boundary="x"', form(b"content-transfer-encoding: Binary\r\n")),
        ("multipart/form-data; boundary=x", b"preamble\r\n--x\r\na:b\r\n\r\n{}\r\n" + form(b"")),
    ],
)
async def test_the_file_of_a_form_is_found(store: AccountStore, kind: str, body: bytes) -> None:
    """Wherever it stands, as it is: the control of the test above."""
    async with serving(store) as http:
        answer = await http.put(f"{STORAGE}/file/a.account", content=body, headers={"content-type": kind})
        assert answer.status_code == 200
    assert (await store.read_json(Location("a.account"))).document == BODY


async def test_files_have_conditions(store: AccountStore) -> None:
    """Upload, download and removal take an ETag, which is that of the account's own calls; what does not hold is 412,
    and nothing is written or removed.
    """
    file = f"{STORAGE}/file/a.account"
    async with serving(store) as http:

        async def status(method: str, **headers: str) -> int:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            content = BODY if method == "PUT" else None
            return (await http.request(method, file, content=content, headers=given)).status_code

        assert [await status(method, if_match="*") for method in ("PUT", "DELETE")] == [412, 412]
        assert await status("DELETE", if_none_match="*") == 200
        assert await status("PUT", if_none_match="*") == 200
        assert [await status(method, if_none_match="*") for method in ("PUT", "DELETE", "GET")] == [412, 412, 304]
        tag = (await http.get(BASE, params={"fileName": "a.account"})).headers["etag"]
        assert (await http.get(file)).headers["etag"] == tag
        for method in ("GET", "PUT", "DELETE"):
            assert await status(method, if_match='"x"') == 412
        assert [await status("GET", if_match=tag), await status("GET", if_none_match=tag)] == [200, 304]
        changed = await http.put(file, content=BODY + b" ", headers={"if-match": tag})
        assert changed.headers["etag"] == (await http.get(file)).headers["etag"] != tag
        assert [await status(method, if_match=tag) for method in ("PUT", "DELETE")] == [412, 412]
        assert await status("DELETE", if_match=changed.headers["etag"]) == 200
        assert await status("GET") == 404


async def test_what_others_write_meanwhile_breaks_a_condition() -> None:
    """An upload and a removal whose condition held are 412 all the same if the document is changed before they land."""
    backend = Recording()
    async with serving(store_over({"main": backend})) as http:
        tag = (await http.put(f"{STORAGE}/file/a.account", content=BODY)).headers["etag"]
        for method, others in (("PUT", RICH), ("DELETE", RICH + b" ")):

            async def rival(operation: str, others: bytes = others) -> None:
                if operation in {"write", "delete"}:
                    await backend.put(Location("a.account"), others, minutes=0)

            backend.before = rival
            content = BODY if method == "PUT" else None
            answer = await http.request(method, f"{STORAGE}/file/a.account", content=content, headers={"if-match": tag})
            assert told(answer) == (412, "changed")
            backend.before = None
            tag = (await http.get(f"{STORAGE}/file/a.account")).headers["etag"]
            assert await backend.raw(Location("a.account")) == others


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "file/copy/a.account?destPath=b.account"),
        ("PUT", "file/move/a.account?destPath=b.account"),
        ("GET", "folder/"),
        ("PUT", "folder/x"),
        ("DELETE", "folder/?recursive=true"),
        ("GET", "exist/a.account"),
        ("GET", "main/exist"),
    ],
)
@pytest.mark.parametrize("header", ["if-match", "if-none-match"])
async def test_no_call_ignores_a_condition(store: AccountStore, method: str, path: str, header: str) -> None:
    """What takes no conditions refuses them, and does nothing."""
    await store.save_json(Location("a.account"), BODY)
    async with serving(store) as http:
        answer = await http.request(method, f"{STORAGE}/{path}", headers={header: '"x"'})
    assert told(answer) == (400, "badRequest")
    assert [entry.location.path async for entry in store.list(recursive=True)] == ["a.account"]


async def test_what_is_uploaded_must_be_a_document(store: AccountStore) -> None:
    """Bytes that are no account are refused, with the field."""
    async with serving(store) as http:
        answer = await http.put(f"{STORAGE}/file/a.account", content=b'{"host":"h","port":"x"}')
    assert told(answer) == (400, "badDocument")
    assert "$.port" in answer.json()["error"]["message"]


async def test_a_lease_that_is_taken_meanwhile_stands() -> None:
    """Whoever begins to exchange the document's token while a file is uploaded keeps the lease."""
    backend, leases = Recording(), {"key": {"holder": "x", "seconds": 30}}
    taken = [json.dumps({**PASSWORD, "accountstoreRefresh": leases}).encode()]

    async def rival(operation: str) -> None:
        if operation == "write" and taken:
            await backend.put(Location("a.account"), taken.pop(), minutes=0)

    async with serving(store_over({"main": backend})) as http:
        for _ in range(2):
            assert (await http.put(f"{STORAGE}/file/a.account", content=RICH)).status_code == 200
            backend.before = rival
    assert json.loads(await backend.raw(Location("a.account"))) == {**json.loads(RICH), "accountstoreRefresh": leases}


async def test_copy_move_delete_and_exist(store: AccountStore) -> None:
    """Files are copied, moved and removed; what is not there is told, but removing it is no error."""
    async with serving(store) as http:
        await http.put(BASE, json=request_of(PASSWORD))
        copied = await http.put(f"{STORAGE}/file/copy/a.account", params={"destPath": "/to/b.account"})
        assert (copied.status_code, copied.content) == (200, b"")
        moved = await http.put(
            f"{STORAGE}/file/move/to/b.account",
            params={"destPath": "c.account", "srcStorageName": "main", "destStorageName": "main"},
        )
        assert moved.status_code == 200
        assert await names(http, "") == ["/a.account", "/c.account"]
        for path, exists, is_folder in (
            ("a.account", True, False),
            ("to/b.account", False, False),
            ("to", False, False),
        ):
            there = (await http.get(f"{STORAGE}/exist/{path}")).json()
            assert there == {"exists": exists, "isFolder": is_folder}
        assert told(await http.put(f"{STORAGE}/file/copy/no.account?destPath=d.account")) == (404, "notFound")
        assert told(await http.put(f"{STORAGE}/file/copy/a.account")) == (400, "badRequest")
        assert told(await http.put(f"{STORAGE}/file/copy/a.account?destPath=a.multi.account")) == (400, "badName")
        assert told(await http.put(f"{STORAGE}/file/move/a.account?destPath=a.account")) == (400, "badName")
        unknown = await http.put(f"{STORAGE}/file/copy/a.account?destPath=d.account&destStorageName=no")
        assert told(unknown) == (404, "notFound")
        for _ in range(2):
            removed = await http.delete(f"{STORAGE}/file/a.account")
            assert (removed.status_code, removed.content) == (200, b"")
        # A path of copy is a path of a file, for other methods.
        await http.put(f"{STORAGE}/folder/copy")
        await store.save_json(Location("x.account", folder="copy"), BODY)
        assert (await http.get(f"{STORAGE}/file/copy/x.account")).json() == PASSWORD


async def test_folders(store: AccountStore) -> None:
    """A folder is there while it has documents; it is removed with them if that is said, as every client says it."""
    async with serving(store) as http:
        assert (await http.put(f"{STORAGE}/folder/mail/team")).status_code == 200
        assert told(await http.put(f"{STORAGE}/folder/mail/%2E%2E/team")) == (400, "badName")
        assert (await http.get(f"{STORAGE}/exist/mail")).json() == {"exists": False, "isFolder": False}
        assert (await http.delete(f"{STORAGE}/folder/mail")).status_code == 200
        for recursive in ("True", "true"):
            for name in ("a.account", "b.multi.account"):
                document = BODY if name == "a.account" else b'{"receiveAccounts":[]}'
                await store.save_json(Location(name, folder="mail/team"), document)
            assert (await http.get(f"{STORAGE}/exist/mail")).json() == {"exists": True, "isFolder": True}
            assert await names(http, "mail") == ["/mail/team"]
            assert await names(http, "/mail/team/") == ["/mail/team/a.account", "/mail/team/b.multi.account"]
            assert told(await http.delete(f"{STORAGE}/folder/mail")) == (409, "notEmpty")
            removed = await http.delete(
                f"{STORAGE}/folder/mail", params={"recursive": recursive, "storageName": "main"}
            )
            assert (removed.status_code, removed.content) == (200, b"")
            assert await names(http, "mail/team") == []


async def test_a_listing_tells_what_is_known(store: AccountStore) -> None:
    """Name, path, size and time of each document, of folders without them; folders first."""
    await store.save_json(Location("a.account"), BODY)
    await store.save_json(Location("b.account", folder="z"), BODY)
    async with serving(store) as http:
        folder, file = (await http.get(f"{STORAGE}/folder/")).json()["value"]
    assert folder == {"name": "z", "isFolder": True, "path": "/z"}
    assert file.pop("modifiedDate").endswith("Z")
    assert file == {"name": "a.account", "isFolder": False, "size": len(BODY), "path": "/a.account"}


async def test_a_listing_is_bounded(store: AccountStore) -> None:
    """A folder with more entries than the limit is refused."""
    async with serving(store, configured(limits=Limits(entries=2))) as http:
        for name in ("a", "b", "c"):
            await store.save_json(Location(f"{name}.account"), BODY)
            listed = await http.get(f"{STORAGE}/folder/")
            assert listed.status_code == (413 if name == "c" else 200)


async def test_storages_exist_within_reach(store: AccountStore) -> None:
    """A storage is there, or not."""
    async with serving(store) as http:
        assert (await http.get(f"{STORAGE}/main/exist")).json() == {"exists": True}
        assert (await http.get(f"{STORAGE}/other/exist")).json() == {"exists": False}


async def test_how_full_a_storage_is(store: AccountStore, tmp_path: Path) -> None:
    """A local storage tells it, to a client that reaches all of it. 501 is what others tell, and what a tenant gets,
    of whom it would tell more than is his.
    """
    clients = {"id": client(), "tenant": client(folder="tenants/a")}
    async with (
        store_over({"main": await open_backend(str(tmp_path), {}), "other": MemoryBackend()}) as both,
        serving(both, configured(clients)) as http,
    ):
        for query in ("", "?storageName=main"):
            answer = await http.get(f"{STORAGE}/disc{query}")
            assert answer.status_code == 200
            assert list(answer.json()) == ["usedSize", "totalSize"]
            assert 0 < answer.json()["usedSize"] <= answer.json()["totalSize"]
        refused = {"?storageName=other": (501, "notSupported"), "?storageName=none": (404, "notFound")}
        assert {query: told(await http.get(f"{STORAGE}/disc{query}")) for query in refused} == refused
        token = (await ask_token(http, "tenant")).json()["access_token"]
        answer = await http.get(f"{STORAGE}/disc", headers={"authorization": f"Bearer {token}"})
        assert told(answer) == (501, "notSupported")


async def test_a_storage_that_keeps_none_has_the_current_version(store: AccountStore) -> None:
    """The wire is that of a listing with id and place; the id is the ETag's, keyed: no digest of the document, and not
    the same with another key. The control: the storage's own version is the digest.
    """
    at, ids = Location("a.account"), set[str]()
    await store.save_json(at, BODY)
    version = (await store.stat(at)).version
    assert version is not None
    assert sha256(BODY).hexdigest() in version.token
    for key in (KEY, "x" * 43):
        async with serving(store, configured(keys=(key,))) as http:
            answer = await http.get(f"{STORAGE}/version/a.account")
            [one] = answer.json()["value"]
            assert one.pop("modifiedDate").endswith("Z")
            ids.add(one.pop("versionId"))
            assert one == {
                "name": "a.account",
                "isFolder": False,
                "size": len(BODY),
                "path": "/a.account",
                "isLatest": True,
            }
            assert sha256(BODY).hexdigest() not in answer.text
            etag = (await http.get(f"{STORAGE}/file/a.account")).headers["etag"]
            assert etag.strip('"') in ids
            assert told(await http.get(f"{STORAGE}/version/b.account")) == (404, "notFound")
            assert told(await http.get(f"{STORAGE}/version/a.account?storageName=no")) == (404, "notFound")
    assert len(ids) == 2


BY_VERSION = [
    ("file.download_file", "GET", "file/a.account"),
    ("storage.object_exists", "GET", "exist/a.account"),
    ("file.copy_file", "PUT", "file/copy/a.account?destPath=b.account"),
    ("file.move_file", "PUT", "file/move/a.account?destPath=c.account"),
    ("file.delete_file", "DELETE", "file/a.account"),
]


@pytest.mark.parametrize(("operation", "method", "path"), BY_VERSION)
async def test_the_current_version_is_served_by_its_id(
    store: AccountStore, operation: str, method: str, path: str
) -> None:
    """A call that names the current version does what it does without; one that names another is 501 with its name,
    and does nothing.
    """
    await store.save_json(Location("a.account"), BODY)
    async with serving(store) as http:
        [one] = (await http.get(f"{STORAGE}/version/a.account")).json()["value"]
        url = f"{STORAGE}/{path}{'&' if '?' in path else '?'}versionId="
        for other in ("1", "*", f'x",*,"{one["versionId"]}'):
            answer = await http.request(method, url + quote(other, safe=""))
            assert told(answer) == (501, "notSupported")
            assert operation in answer.json()["error"]["message"]
        assert [entry.location.path async for entry in store.list()] == ["a.account"]
        await store.save_json(Location("a.account"), BODY + b" ")
        assert told(await http.request(method, url + one["versionId"])) == (501, "notSupported")
        [one] = (await http.get(f"{STORAGE}/version/a.account")).json()["value"]
        assert (await http.request(method, url + one["versionId"])).status_code == 200
        gone = method == "DELETE" or "move" in path
        assert await store.exists(Location("a.account")) is not gone
        await store.delete(Location("a.account"))
        answer = await http.request(method, url + one["versionId"])
        if operation == "storage.object_exists":
            assert answer.json() == {"exists": False, "isFolder": False}
        else:
            assert told(answer) == (404, "notFound")


async def test_what_takes_no_version_refuses_one(store: AccountStore) -> None:
    """An upload would write over the current document, and a folder has no versions: both are 501."""
    async with serving(store) as http:
        answer = await http.put(f"{STORAGE}/file/a.account?versionId=1", content=BODY)
        assert told(answer) == (501, "notSupported")
        assert told(await http.get(f"{STORAGE}/exist/mail?versionId=1")) == (501, "notSupported")
        assert [entry async for entry in store.list()] == []


async def test_a_version_that_changes_meanwhile_is_not_touched() -> None:
    """A download and a removal of a version that is replaced after it was looked at are 412, and leave the new one."""
    backend = Recording()
    async with serving(store_over({"main": backend})) as http:
        for method in ("GET", "DELETE"):
            await http.put(f"{STORAGE}/file/a.account", content=BODY)
            [one] = (await http.get(f"{STORAGE}/version/a.account")).json()["value"]

            async def rival(operation: str) -> None:
                if operation in {"read", "delete"}:
                    await backend.put(Location("a.account"), RICH, minutes=0)

            backend.before = rival
            answer = await http.request(method, f"{STORAGE}/file/a.account?versionId={one['versionId']}")
            assert told(answer) == (412, "changed")
            backend.before = None
            assert await backend.raw(Location("a.account")) == RICH


class Versioned(MemoryBackend):
    """Keeps three versions that are its service's own, of which the newest is a digest to nobody."""

    async def versions(self, key: str, /) -> list[VersionInfo]:
        [now] = await super().versions(key)
        old = [VersionInfo(f"v{n}", Version(f"old{n}"), n, None, current=False) for n in (2, 1)]
        return [replace(now, id="v3/+="), *old]


class Untold(MemoryBackend):
    """Does not tell versions in a stat, as fsspec's other protocols."""

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), version=None)


async def test_a_services_own_ids_are_told_as_they_are() -> None:
    """Its versions come newest first with its own ids, of which the current one is served. More than the limit of a
    listing are refused, and 501 is what there is of a document whose version nobody tells.
    """
    file = f"{STORAGE}/file/a.account"
    for entries, status in ((3, 200), (2, 413)):
        async with serving(
            store_over({"main": Versioned(), "other": Untold()}), configured(limits=Limits(entries=entries))
        ) as http:
            for storage in ("main", "other"):
                await http.put(file, params={"storageName": storage}, content=BODY)
            answer = await http.get(f"{STORAGE}/version/a.account")
            assert answer.status_code == status
            untold = await http.get(f"{STORAGE}/version/a.account?storageName=other")
            assert told(untold) == (501, "notSupported")
            assert told(await http.get(file, params={"storageName": "other", "versionId": "1"})) == (
                501,
                "notSupported",
            )
            if status == 200:
                found = [(one["versionId"], one["isLatest"]) for one in answer.json()["value"]]
                assert found == [("v3/+=", True), ("v2", False), ("v1", False)]
                assert (await http.get(file, params={"versionId": "v3/+="})).content == BODY
                assert told(await http.get(file, params={"versionId": "v2"})) == (501, "notSupported")


@pytest.mark.once
async def test_the_versions_that_a_bucket_keeps(moto: Server) -> None:
    """On a server of S3's protocol: those of a bucket without versions are one without a name of its own, the control;
    once it keeps them each write adds one by S3's own id, and a removal leaves none that is the latest.
    """
    pytest.importorskip("s3fs")
    bucket, at, file = f"versions-{os.urandom(4).hex()}", Location("a.account"), f"{STORAGE}/file/a.account"
    moto.bucket(bucket)
    config = StoreConfig(storages={"main": StorageConfig(f"s3://{bucket}/p", dict(moto.options))})
    async with AccountStore.open(config) as store, serving(store) as http:

        async def versions() -> list[tuple[str, bool]]:
            answer = await http.get(f"{STORAGE}/version/a.account")
            return [(one["versionId"], one["isLatest"]) for one in answer.json()["value"]]

        first = await store.save_json(at, BODY)
        [unnamed] = await versions()
        assert unnamed == ((await http.get(file)).headers["etag"].strip('"'), True)
        assert unnamed[0] not in first.token
        fs: Any = (await store.filesystem())[0]
        await to_thread.run_sync(fs.make_bucket_versioned, bucket)
        await store.save_json(at, RICH)
        second, old = await versions()
        assert (second[1], old) == (True, (unnamed[0], False))
        assert [one.id for one in await store.versions(at)] == [second[0], None]
        assert told(await http.get(file, params={"versionId": old[0]})) == (501, "notSupported")
        assert json.loads((await http.get(file, params={"versionId": second[0]})).content) == json.loads(RICH)
        assert (await http.delete(file, params={"versionId": second[0]})).status_code == 200
        assert await versions() == [(second[0], False), old]
        assert told(await http.get(file, params={"versionId": second[0]})) == (501, "notSupported")
