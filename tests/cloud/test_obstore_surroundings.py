"""The Rust client obstore: what the environment and the files of the services' tools say counts as on fsspec."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest
from cloudtargets import AT, BUCKET, CALLS, NEW, OLD, Target, forget_credentials, on_asyncio, refusal
from cloudtls import make_authority, tls_before
from running import HUNG

from accountstore import AccountStore, BackendError, ConfigError, DeniedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudstub import Stub

pytest.importorskip("obstore")
translation: Any = import_module("accountstore.backends.obstore.options")
surroundings: Any = import_module("accountstore.backends.obstore.surroundings")

S3 = Target("s3", "obstore")
KEYS = "[{}]\naws_access_key_id={}\naws_secret_access_key=s\nregion=eu-central-1\n"
SERVED = [pytest.mark.anyio, pytest.mark.once, on_asyncio]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_credentials(monkeypatch, str(tmp_path))
    for name in ("REQUESTS_CA_BUNDLE", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)


def never(*_: object) -> bool:
    return False


def served(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test on the stub, on asyncio."""
    for mark in SERVED:
        test = mark(test)
    return test


def hide_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules, "botocore", "botocore.session"]:
        if name.partition(".")[0] == "botocore":
            monkeypatch.setitem(sys.modules, name, None)


def at(stub: Stub, **options: Any) -> Any:
    """The configuration of a storage on S3 without keys."""
    return S3.config_of(f"s3://{BUCKET}/p", {"endpoint_url": stub.url, **options}, conditions="trust", attempts=1)


def keys_of(stub: Stub) -> set[str]:
    """The access keys that requests were signed with."""
    heads = [head for head in stub.heads() if "Credential=" in head]
    return {head.partition("Credential=")[2].partition("/")[0] for head in heads}


def write_keys(profile: str, key: str) -> None:
    with open(os.environ["AWS_SHARED_CREDENTIALS_FILE"], "w", encoding="utf-8") as file:
        file.write(KEYS.format(profile, key))


# --- AWS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["AWS_PROFILE", "profile", "the default"])
@served
async def test_a_profile_gives_the_keys(stub: Stub, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """The keys of the profile that AWS_PROFILE or the option names, or of the default one, sign the requests."""
    pytest.importorskip("botocore")
    write_keys("default" if by == "the default" else "mail", "AKIAMAIL")
    if by == "AWS_PROFILE":
        monkeypatch.setenv("AWS_PROFILE", "mail")
    options = {"profile": "mail"} if by == "profile" else {}
    async with AccountStore.open(at(stub, **options)) as store:
        await store.save(AT, NEW)
        assert await store.get(AT) == NEW
    assert keys_of(stub) == {"AKIAMAIL"}
    assert all("/eu-central-1/" in head for head in stub.heads() if "Credential=" in head)


@served
async def test_a_profile_that_is_not_there(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that no file has is refused at opening by the name of what names it; no other keys take its place."""
    pytest.importorskip("botocore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    assert "'profile' cannot be used (ProfileNotFound)" in await refusal(at(stub, profile="nobody"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "AWS_PROFILE" in await refusal(at(stub))


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "profile"])
@served
async def test_obstore_alone_reads_no_profile(stub: Stub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without botocore what names a profile or a file of keys is refused at opening by its name; with keys among the
    options it plays no part.
    """
    config, with_keys = at(stub), S3.config(stub.url)
    write_keys("mail", "AKIAMAIL")
    if name == "profile":
        config = at(stub, profile="mail")
        monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    elif name != "AWS_SHARED_CREDENTIALS_FILE":
        monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
        monkeypatch.setenv(name, "mail")
    hide_botocore(monkeypatch)
    said = await refusal(config)
    assert name in said
    assert "pip install 'accountstore[s3]'" in said
    async with AccountStore.open(with_keys) as store:
        await store.save(AT, NEW)


@served
async def test_credentials_are_found_while_another_call_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is asked for credentials and hangs keeps nobody else from finding them."""
    gate, asked = Event(), []

    def session(_: object) -> Any:
        asked.append(1)
        if len(asked) == 1:
            gate.wait(HUNG)
        return Mock()

    monkeypatch.setattr(surroundings, "_session", session)
    credentials = surroundings.Credentials(None)
    with anyio.fail_after(HUNG):
        async with anyio.create_task_group() as group:
            group.start_soon(credentials)
            while not asked:
                await anyio.sleep(0.005)
            assert "token" in await credentials()
            gate.set()


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
@pytest.mark.parametrize("name", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"])
@served
async def test_a_pipe_in_the_place_of_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: Any, name: str
) -> None:
    """A client would wait for the pipe's other end, with no deadline; a missing file and a device are the client's."""
    config = Target("s3", engine).config_of(f"s3://{BUCKET}/p", {"client_kwargs": {"region_name": "x"}})
    for path in (tmp_path / "missing", os.devnull):
        monkeypatch.setenv(name, str(path))
        async with AccountStore.open(config):
            pass
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv(name, str(tmp_path / "pipe"))
    assert f"{name} names a pipe" in await refusal(config)


@served
async def test_no_credentials_anywhere(stub: Stub) -> None:
    """Where botocore finds none each call is denied, and nothing is sent."""
    pytest.importorskip("botocore")
    async with AccountStore.open(at(stub)) as store:
        with pytest.raises(DeniedError, match=r"no valid credentials were found \(LookupError\)"):
            await store.exists(AT)
        with pytest.raises(DeniedError):
            await store.delete(AT)
    assert stub.count() == 0


@pytest.mark.parametrize("call", CALLS)
@served
async def test_renewed_keys_are_taken_up(stub: Stub, call: str) -> None:
    """After a refusal of its keys as expired, which is a DeniedError, an open store signs with the file's new ones."""
    pytest.importorskip("botocore")
    write_keys("default", "AKIAOLD")
    async with AccountStore.open(at(stub)) as store:
        await store.save(AT, OLD)
        write_keys("default", "AKIANEW")
        stub.faults([{"nth": 1, "times": 2, "kind": "answer", "status": 400, "code": "ExpiredToken"}])
        with pytest.raises(DeniedError, match="ExpiredToken"):
            await CALLS[call](store)
        stub.faults([])
        assert keys_of(stub) == {"AKIAOLD"}
        await CALLS[call](store)
    assert keys_of(stub) == {"AKIAOLD", "AKIANEW"}


@served
async def test_control_keys_that_are_not_asked_for_anew(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where a refusal is not taken for stale keys, the open store goes on with them."""
    pytest.importorskip("botocore")
    monkeypatch.setattr("accountstore.backends.obstore.backend.ObstoreBackend._is_stale", never)
    write_keys("default", "AKIAOLD")
    async with AccountStore.open(at(stub)) as store:
        await store.save(AT, OLD)
        write_keys("default", "AKIANEW")
        stub.faults([{"nth": 1, "times": 2, "kind": "answer", "status": 400, "code": "ExpiredToken"}])
        with pytest.raises(DeniedError, match="ExpiredToken"):
            await store.get(AT)
        stub.faults([])
        await store.get(AT)
    assert keys_of(stub) == {"AKIAOLD"}


@pytest.mark.parametrize("with_botocore", [True, False])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@served
async def test_an_endpoint_of_the_environment(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, name: str, with_botocore: bool
) -> None:
    """AWS_ENDPOINT_URL counts where no option names an endpoint, with plain HTTP also; a broken one is refused by name;
    one among the options goes before.
    """
    if with_botocore:
        pytest.importorskip("botocore")
    keys = {"key": "k", "secret": "s", "client_kwargs": {"region_name": "us-east-1"}}
    config = S3.config_of(f"s3://{BUCKET}/p", keys, attempts=1, conditions="trust")
    known = S3.config(stub.url)
    if not with_botocore:
        hide_botocore(monkeypatch)
    monkeypatch.setenv(name, stub.url)
    async with AccountStore.open(config) as store:
        await store.save(AT, NEW)
    monkeypatch.setenv(name, "localhost:9000")
    assert "AWS_ENDPOINT_URL, is no http or https URL" in await refusal(config)
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with AccountStore.open(known) as store:
        assert await store.get(AT) == NEW


BUNDLES = ["verify", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"]


@pytest.mark.parametrize("with_botocore", [True, False])
@pytest.mark.parametrize("by", BUNDLES)
@served
async def test_an_authority_of_ones_own(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str, with_botocore: bool
) -> None:
    """A file of certificates is trusted that the option `verify` or a variable names; one that is not there, or is no
    such file, is refused at opening by the name.
    """
    if with_botocore:
        pytest.importorskip("botocore")
    authority, certificate = make_authority(tmp_path)
    options = S3.options(stub.url)
    S3.config(stub.url)  # skips where the package is missing
    if not with_botocore:
        hide_botocore(monkeypatch)

    def config(url: str, path: str) -> Any:
        mine = {**options, "endpoint_url": url}
        if by == "verify":
            mine["client_kwargs"] = {**options["client_kwargs"], "verify": path}
        else:
            monkeypatch.setenv(by, path)
        return storage(mine)

    async with tls_before(stub.port, certificate) as url:
        async with AccountStore.open(config(url, authority)) as store:
            await store.save(AT, NEW)
            assert await store.get(AT) == NEW
        for path in (str(tmp_path / "missing.pem"), __file__):
            assert by in await refusal(config(url, path))


def storage(options: dict[str, Any]) -> Any:
    from accountstore import StorageConfig, StoreConfig

    place = StorageConfig(f"s3://{BUCKET}/p", options=options, engine="obstore", conditions="trust", attempts=1)
    return StoreConfig(storages={"cloud": place})


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
@served
async def test_an_authority_by_a_path_of_pathlib(stub: Stub, tmp_path: Path, engine: Any) -> None:
    """`verify` may be a path as Python has it, on either engine; one that is not there is refused by the name."""
    authority, certificate = make_authority(tmp_path)
    target = Target("s3", engine)
    async with tls_before(stub.port, certificate) as url:
        for path in (tmp_path / "missing.pem", tmp_path / Path(authority).name):
            options = target.options(url)
            options["client_kwargs"] = {**options["client_kwargs"], "verify": path}
            config = target.config_of(f"s3://{BUCKET}/p", options, attempts=1, conditions="trust")
            if path.exists():
                async with AccountStore.open(config) as store:
                    await store.save(AT, NEW)
                    assert await store.get(AT) == NEW
            else:
                assert "'verify'" in await refusal(config)


@served
async def test_control_an_authority_that_is_not_named(stub: Stub, tmp_path: Path) -> None:
    """The control: without a word of the authority the same server is not trusted."""
    _, certificate = make_authority(tmp_path)
    async with tls_before(stub.port, certificate) as url, AccountStore.open(S3.config(url)) as store:
        with pytest.raises(BackendError, match="TLS"):
            await store.get(AT)


def test_an_option_goes_before_the_bundle_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`verify = true` or `false` leaves AWS_CA_BUNDLE out, as botocore does."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    keys = {"key": "k", "secret": "s"}
    for verify in (True, False):
        _, client = translation.settings_of("s3", BUCKET, {**keys, "client_kwargs": {"verify": verify}})
        assert client == {"allow_invalid_certificates": not verify}
    with pytest.raises(ConfigError, match="AWS_CA_BUNDLE"):
        translation.settings_of("s3", BUCKET, keys)


@served
async def test_a_checksum_goes_with_each_write(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bucket with Object Lock asks for: a checksum, by the option or AWS_REQUEST_CHECKSUM_CALCULATION."""
    pytest.importorskip("botocore")
    options = S3.options(stub.url)
    async with AccountStore.open(
        storage({**options, "s3_additional_kwargs": {"ChecksumAlgorithm": "SHA256"}})
    ) as store:
        await store.save(AT, NEW)
    assert "x-amz-checksum-sha256" in stub.heads()[-1].lower()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    async with AccountStore.open(storage(options)) as store:
        await store.save(AT, NEW)
    assert "x-amz-checksum-sha256" in stub.heads()[-1].lower()


@served
async def test_control_no_checksum_where_none_is_asked_for(stub: Stub) -> None:
    """The control: without the option none is sent, which older servers would refuse."""
    async with AccountStore.open(S3.config(stub.url)) as store:
        await store.save(AT, NEW)
    assert "x-amz-checksum" not in stub.heads()[-1].lower()


def test_endpoints_that_are_not_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, which obstore does not know, is refused where it would change something."""
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    keys = {"key": "k", "secret": "s"}
    translation.settings_of("s3", BUCKET, keys)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    translation.settings_of("s3", BUCKET, {**keys, "endpoint_url": "http://127.0.0.1:2"})
    with pytest.raises(ConfigError, match="AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        translation.settings_of("s3", BUCKET, keys)


# --- Google Cloud Storage ---------------------------------------------------------------------------------------------


def test_a_key_file_of_the_environment_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GOOGLE_APPLICATION_CREDENTIALS that names no file is refused at opening by its name, unless a token is given."""
    monkeypatch.setenv(surroundings.KEY_FILE, str(tmp_path / "missing.json"))
    for options in ({}, {"token": "google_default"}):
        with pytest.raises(ConfigError, match="GOOGLE_APPLICATION_CREDENTIALS names a file that is not there"):
            translation.settings_of("gcs", BUCKET, options)
    assert translation.settings_of("gcs", BUCKET, {"token": "ya29.raw"})[0] == {"bearer_token": "ya29.raw"}
    (tmp_path / "missing.json").write_text("{}")
    assert translation.settings_of("gcs", BUCKET, {}) == ({}, {})


@pytest.mark.parametrize("kind", ["external_account", "impersonated_service_account", "nonsense"])
def test_a_key_file_of_a_kind_that_obstore_does_not_know(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Credentials that only gcsfs can use, as of workload identity federation, are refused at opening by name."""
    opening: Any = import_module("accountstore.backends.obstore.opening")
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"type": kind}))
    monkeypatch.setenv(surroundings.KEY_FILE, str(path))
    for options in ({}, {"token": str(path)}, {"token": path.read_text()}, {"token": {"type": kind}}):
        with pytest.raises(ConfigError, match="'token', or GOOGLE_APPLICATION_CREDENTIALS"):
            opening.open_store("gcs", BUCKET, options, surroundings.timedelta(1))


def test_an_emulator_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """STORAGE_EMULATOR_HOST is the endpoint where no option names one, without credentials where there are none."""
    for host in ("http://127.0.0.1:9", "127.0.0.1:9"):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
        store, client = translation.settings_of("gcs", BUCKET, {})
        assert json.loads(store["service_account_key"])["gcs_base_url"] == "http://127.0.0.1:9"
        assert client == {"allow_http": True}
        store, _ = translation.settings_of("gcs", BUCKET, {"token": "t", "endpoint_url": "https://g.example.org"})
        assert store == {"bearer_token": "t", "base_url": "https://g.example.org"}


def test_the_credentials_of_gcloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `gcloud auth application-default login` has left, also where CLOUDSDK_CONFIG moves it, is told."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    path = tmp_path / "application_default_credentials.json"
    assert translation.settings_of("gcs", BUCKET, {}) == ({}, {})
    path.write_text("{}")
    assert translation.settings_of("gcs", BUCKET, {}) == ({"application_credentials": str(path)}, {})


# --- Azure ------------------------------------------------------------------------------------------------------------


def test_anonymous_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """AZURE_STORAGE_ANON counts where there are no other credentials, as adlfs reads it."""
    for value, anonymous in (("true", True), ("1", True), ("false", False), ("0", False), ("", False)):
        monkeypatch.setenv("AZURE_STORAGE_ANON", value)
        store, _ = translation.settings_of("azure", "box", {"account_name": "you"})
        assert store.get("skip_signature", False) is anonymous
    monkeypatch.setenv("AZURE_STORAGE_ANON", "true")
    store, _ = translation.settings_of("azure", "box", {"account_name": "you", "account_key": "a2V5"})
    assert "skip_signature" not in store
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    store, _ = translation.settings_of("azure", "box", {"account_name": "you"})
    assert "skip_signature" not in store
