"""The vendor's Python client of the API against a gateway: `python vendorclient.py URL ID SECRET`.

Each case is a function; the process prints `ok NAME` for each that holds, and ends without the interpreter's own end,
at which the client may wait for ever.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import traceback
from typing import Any
from uuid import uuid4

import AsposeEmailCloudSdk.api
import AsposeEmailCloudSdk.models
from AsposeEmailCloudSdk.rest import ApiException

api: Any = AsposeEmailCloudSdk.api
models: Any = AsposeEmailCloudSdk.models  # which take None where their types say text
URL, ID, SECRET = sys.argv[1:4]
STORAGE = "First Storage"
FOLDER = str(uuid4())


def cloud(secret: str = SECRET) -> Any:
    return api.EmailCloud(secret, ID, URL)


def location(name: str, folder: str | None = FOLDER, storage: str | None = STORAGE) -> Any:
    return models.StorageFileLocation(storage, folder, name)


def password(host: str = "imap.gmail.com", port: int = 993, protocol: str = "IMAP") -> Any:
    credentials = models.EmailClientAccountPasswordCredentials("login", "password")
    return models.EmailClientAccount(host, port, "SSLAuto", protocol, credentials)


def oauth(**more: Any) -> Any:
    credentials = models.EmailClientAccountOauthCredentials("login", "clientId", "clientSecret", "refreshToken", **more)
    return models.EmailClientAccount("smtp.example.com", 465, "SSLAuto", "SMTP", credentials)


def save(client: Any, account: Any, at: Any) -> None:
    assert client.client.account.save(models.ClientAccountSaveRequest(at, account)) is None


def get(client: Any, name: str, folder: str | None = FOLDER, storage: str | None = STORAGE) -> Any:
    return client.client.account.get(models.ClientAccountGetRequest(name, folder, storage))


def refusal(call: Any, *arguments: Any) -> tuple[int, str]:
    try:
        call(*arguments)
    except ApiException as error:
        assert error.error.message
        assert error.error.inner_error.request_id
        return error.code, error.error.code
    raise AssertionError("no error")


def case_the_vendor_single(client: Any) -> None:
    """The vendor's own test of a single account, by the data that it saves."""
    at = location(f"{uuid4()}.account")
    save(client, password("smtp.gmail.com", 551, "SMTP"), at)
    got = get(client, at.file_name)
    assert got.host == "smtp.gmail.com"
    assert got.credentials.discriminator == "EmailClientAccountPasswordCredentials"
    assert got.credentials.password == "password"


def case_the_vendor_multi(client: Any) -> None:
    """The vendor's own test of a multi account, whose OAuth arguments are one position late."""
    shifted = models.EmailClientAccountOauthCredentials(
        "example@outlook.com", None, "client_id", "client_secret", "refresh_token"
    )
    ews = models.EmailClientAccount("exchange@outlook.com", 443, "SSLAuto", "EWS", shifted)
    multi = models.EmailClientMultiAccount([password(), ews], password("smtp.gmail.com", 465, "SMTP"))
    at = location(f"{uuid4()}.multi.account")
    assert client.client.account.save_multi(models.ClientAccountSaveMultiRequest(at, multi)) is None
    got = client.client.account.get_multi(models.ClientAccountGetMultiRequest(at.file_name, FOLDER, STORAGE))
    assert len(got.receive_accounts) == 2
    assert got.send_account.credentials.discriminator == multi.send_account.credentials.discriminator
    assert got.receive_accounts[1].credentials.request_url == "refresh_token"


def case_seed_samples(client: Any) -> None:
    save(client, oauth(), location("email.account", "file/location/folder/on/storage"))
    got = get(client, "email.account", "file/location/folder/on/storage")
    assert (got.credentials.client_secret, got.credentials.refresh_token) == ("clientSecret", "refreshToken")


def case_overwrite(client: Any) -> None:
    for port in (1, 2147483647):
        save(client, password(port=port), location("over.account"))
        assert get(client, "over.account").port == port


def case_defaults(client: Any) -> None:
    save(client, password(), location("default.account", None, None))
    assert get(client, "default.account", None, None).host == "imap.gmail.com"
    assert get(client, "default.account", "", "").host == "imap.gmail.com"


def case_names_and_values(client: Any) -> None:
    for name in ("é &+%='~ü.account", "日本.account", "100%.account", "a b.account"):
        account = password(host='h"\\é\u2028</script>\U0001f511')
        save(client, account, location(name, "a b/c+d"))
        assert get(client, name, "a b/c+d").host == account.host, name


def case_missing_and_wrong(client: Any) -> None:
    save(client, password(), location("here.account"))
    assert refusal(get, client, "missing.account") == (404, "notFound")
    assert refusal(get, client, "here.account", FOLDER, "Unknown") == (404, "notFound")
    assert refusal(get, client, "here.txt") == (400, "badName")
    assert refusal(get, client, "here.account", "../..") == (400, "badName")
    assert refusal(save, client, password(), location("a.multi.account")) == (400, "badName")
    assert refusal(save, client, models.EmailClientAccount(), location("a.account")) == (400, "badDocument")


def raw(client: Any, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request by hand, with the client's own token."""
    host, _, port = URL.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    token = client.client.account.api_client.configuration.access_token
    connection.request(method, path, body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def case_bad_documents(client: Any) -> None:
    refusal(get, client, "missing.account")  # has a token now
    for body in (b"{}", b"[]", b"", b'{"value": {}}', b'{"storageFile": {}}', b"\xff"):
        status, answer = raw(client, "PUT", "/v4.0/email/client/account", body)
        assert (status, set(json.loads(answer))) == (400, {"error"}), body


def case_stale_token(client: Any) -> None:
    save(client, password(), location("stale.account"))
    client.client.account.api_client.configuration.access_token = "spoiled"
    assert get(client, "stale.account").port == 993


def case_wrong_secret(_: Any) -> None:
    try:
        get(cloud("wrong"), "missing.account")
    except ApiException as error:
        assert error.code == 400
    else:
        raise AssertionError("no error")


def case_unknown_fields_survive(client: Any) -> None:
    save(client, oauth(), location("own.account"))
    path = f"/v4.0/email/storage/file/{FOLDER}/own.account?storageName=First+Storage"
    document = json.loads(raw(client, "GET", path)[1])
    document["own"] = {"kept": True}
    document["credentials"]["accessToken"] = "at"
    assert raw(client, "PUT", path, json.dumps(document).encode())[0] == 200
    got = get(client, "own.account")
    got.port = 1
    save(client, got, location("own.account"))
    after = json.loads(raw(client, "GET", path)[1])
    assert (after["port"], after["own"], after["credentials"]["accessToken"]) == (1, {"kept": True}, "at")


def case_storage_calls(client: Any) -> None:
    storage = client.cloud_storage
    folder = f"{FOLDER}-files"
    assert storage.folder.create_folder(models.CreateFolderRequest(folder, STORAGE)) is None
    with tempfile.NamedTemporaryFile(suffix=".account") as file:
        file.write(json.dumps({"host": "h", "port": 1}).encode())
        file.flush()
        uploaded = storage.file.upload_file(models.UploadFileRequest(f"{folder}/a.account", file.name, STORAGE))
    assert (uploaded.uploaded, uploaded.errors) == (["a.account"], [])
    downloaded = storage.file.download_file(models.DownloadFileRequest(f"{folder}/a.account", STORAGE))
    with open(downloaded, "rb") as file:
        assert json.loads(file.read()) == {"host": "h", "port": 1}
    os.unlink(downloaded)
    storage.file.copy_file(models.CopyFileRequest(f"{folder}/a.account", f"{folder}/b.account", STORAGE, STORAGE))
    storage.file.move_file(models.MoveFileRequest(f"{folder}/a.account", f"{folder}/in/c.account", STORAGE, STORAGE))
    listed = storage.folder.get_files_list(models.GetFilesListRequest(folder, STORAGE))
    assert [(entry.name, entry.is_folder) for entry in listed.value] == [("in", True), ("b.account", False)]
    there = storage.storage.object_exists(models.ObjectExistsRequest(f"{folder}/b.account", STORAGE))
    assert (there.exists, there.is_folder) == (True, False)
    assert storage.storage.object_exists(models.ObjectExistsRequest(f"{folder}/in", STORAGE)).is_folder
    assert storage.storage.exists(models.StorageExistsRequest(STORAGE)).exists
    assert not storage.storage.exists(models.StorageExistsRequest("Unknown")).exists
    storage.file.delete_file(models.DeleteFileRequest(f"{folder}/b.account", STORAGE))
    assert not storage.storage.object_exists(models.ObjectExistsRequest(f"{folder}/b.account", STORAGE)).exists
    storage.folder.delete_folder(models.DeleteFolderRequest(folder, STORAGE, True))
    assert not storage.storage.object_exists(models.ObjectExistsRequest(folder, STORAGE)).exists
    usage = storage.storage.get_disc_usage(models.GetDiscUsageRequest(STORAGE))
    assert 0 < usage.used_size <= usage.total_size


def case_versions(client: Any) -> None:
    file, storage = client.cloud_storage.file, client.cloud_storage.storage
    client.client.account.save(models.ClientAccountSaveRequest(location("v.account"), password()))
    [version] = storage.get_file_versions(models.GetFileVersionsRequest(f"{FOLDER}/v.account", STORAGE)).value
    assert (version.name, version.is_latest, version.is_folder) == ("v.account", True, False)
    downloaded = file.download_file(models.DownloadFileRequest(f"{FOLDER}/v.account", STORAGE, version.version_id))
    assert os.path.getsize(downloaded) == version.size
    os.unlink(downloaded)
    old = models.DeleteFileRequest(f"{FOLDER}/v.account", STORAGE, "old")
    assert refusal(file.delete_file, old) == (501, "notSupported")
    file.delete_file(models.DeleteFileRequest(f"{FOLDER}/v.account", STORAGE, version.version_id))
    assert not storage.object_exists(models.ObjectExistsRequest(f"{FOLDER}/v.account", STORAGE)).exists


def main() -> int:
    failed = 0
    for name, case in list(globals().items()):
        if name.startswith("case_"):
            try:
                case(cloud())
            except Exception:
                failed += 1
                print("FAILED", name, traceback.format_exc(), flush=True)
            else:
                print("ok", name.removeprefix("case_"), flush=True)
    return failed


if __name__ == "__main__":
    os._exit(main())  # not the interpreter's own end
