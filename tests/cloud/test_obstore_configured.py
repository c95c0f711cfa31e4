"""The Rust client obstore: what fsspec's own configuration says, its variables and files, is read as it was meant."""

from __future__ import annotations

import json
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import BUCKET, forget_credentials

from accountstore import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("obstore")
translation: Any = import_module("accountstore.backends.obstore.options")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_credentials(monkeypatch, str(tmp_path))
    for name in ("REQUESTS_CA_BUNDLE", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_the_configuration_of_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that fsspec's own environment or files give count as on fsspec; those of the storage go before."""
    config: Any = import_module("fsspec.config")
    monkeypatch.setitem(config.conf, "s3", {"key": "k", "secret": "s", "nonsense": None})
    store, _ = translation.settings_of("s3", BUCKET, {})
    assert "access_key_id" not in store
    monkeypatch.setenv("FSSPEC_S3_KEY", "k")
    store, _ = translation.settings_of("s3", BUCKET, {"key": "mine"})
    assert (store["access_key_id"], store["secret_access_key"]) == ("mine", "s")


@pytest.mark.parametrize("around", [{"key": "k", "secret": "s"}, {"username": "k", "password": "s"}, None])
@pytest.mark.parametrize(
    "own",
    [
        {"key": "mine", "secret": "own"},
        {"username": "mine", "password": "own"},
        {"client_kwargs": {"aws_access_key_id": "mine", "aws_secret_access_key": "own"}},
    ],
    ids=lambda own: next(iter(own)),
)
def test_the_keys_of_the_storage_go_before(
    monkeypatch: pytest.MonkeyPatch, around: dict[str, str] | None, own: dict[str, Any]
) -> None:
    """Under whichever names the storage has its own, fsspec's environment has others for everybody else."""
    below = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "r"}
    monkeypatch.setenv("FSSPEC_S3_KEY", "k")
    config: Any = import_module("fsspec.config")
    monkeypatch.setitem(config.conf, "s3", around or {"client_kwargs": below})
    store, _ = translation.settings_of("s3", BUCKET, own)
    assert (store["access_key_id"], store["secret_access_key"]) == ("mine", "own")
    store, _ = translation.settings_of("s3", BUCKET, {})
    assert (store["access_key_id"], store["secret_access_key"]) == ("k", "s")


@pytest.mark.parametrize(("text", "unsigned"), [("true", True), ("False", False)])
def test_a_file_of_fsspec_has_flags_as_text(monkeypatch: pytest.MonkeyPatch, text: str, unsigned: bool) -> None:
    """In the INI format all values are text: there "false" is what it says."""
    config: Any = import_module("fsspec.config")
    monkeypatch.setenv("FSSPEC_S3_ANON", text)
    monkeypatch.setitem(config.conf, "s3", {"anon": text, "max_concurrency": "5"})
    store, _ = translation.settings_of("s3", BUCKET, {})
    assert store.get("skip_signature", False) == unsigned
    monkeypatch.setitem(config.conf, "s3", {"anon": "maybe"})
    with pytest.raises(ConfigError, match="'anon' must be true or false"):
        translation.settings_of("s3", BUCKET, {})


def configure(monkeypatch: pytest.MonkeyPatch, folder: Path, ini: str = "", **variables: str) -> None:
    """Have fsspec's own configuration say what variables (without FSSPEC_) and a file of the INI format do."""
    config: Any = import_module("fsspec.config")
    (folder / "mine.ini").write_text(ini)
    monkeypatch.setenv("FSSPEC_CONFIG_DIR", str(folder))
    for name, text in variables.items():
        monkeypatch.setenv(f"FSSPEC_{name}", text)
    found: dict[str, Any] = {}
    config.set_conf_files(str(folder), found)
    config.set_conf_env(found, {f"FSSPEC_{name}": text for name, text in variables.items()})
    monkeypatch.setattr(config, "conf", found)


FLAGS = [
    *((text, True) for text in ("1", "true", "True", "YES", "on")),
    *((text, False) for text in ("0", "false", "FALSE", "no", "Off")),
]


@pytest.mark.parametrize("by", ["variable", "file", "table"])
@pytest.mark.parametrize(("text", "meant"), FLAGS)
def test_flags_around_are_read_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, meant: bool, by: str
) -> None:
    """What fsspec's variables and files have for a flag, of which fsspec makes a number or leaves the text, is one; a
    variable that is a table of options also.
    """
    if by == "variable":
        configure(monkeypatch, tmp_path, S3_ANON=text, S3_USE_SSL=text, ABFS_ANON=text)
    elif by == "file":
        configure(monkeypatch, tmp_path, f"[s3]\nanon = {text}\nuse_ssl = {text}\n[abfs]\nanon = {text}\n")
    else:
        table = json.dumps({"anon": text, "use_ssl": text})
        configure(monkeypatch, tmp_path, S3=table, ABFS=json.dumps({"anon": text}))
    store, client = translation.settings_of("s3", BUCKET, {})
    assert (store.get("skip_signature", False), client.get("allow_http", False)) == (meant, not meant)
    store, _ = translation.settings_of("azure", BUCKET, {"account_name": "me"})
    assert store.get("skip_signature", False) == meant


SECRETS = ["12345678", "1e5", "12E34", "true", "NaN", "1.10", "[1]", "-0", "007", "SeCrEt/AbC", "123456789012345678901"]


@pytest.mark.parametrize("text", SECRETS)
def test_a_text_around_stays_the_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Of a secret that looks like JSON fsspec makes a number or another value; the client is told what was written."""
    wanted = {"access_key_id": "k", "secret_access_key": text}
    for ini, variables in ((f"[s3]\nkey = k\nsecret = {text}\n", {}), ("", {"S3_KEY": "k", "S3_Secret": text})):
        configure(monkeypatch, tmp_path, ini, **variables)
        store, _ = translation.settings_of("s3", BUCKET, {})
        assert {name: store.get(name) for name in wanted} == wanted


def test_a_number_around_whose_text_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A whole number in JSON has one text. Of another number there are many: as a secret it is refused by name."""
    configure(monkeypatch, tmp_path, S3='{"key": "k", "secret": 12345678}')
    store, _ = translation.settings_of("s3", BUCKET, {})
    assert store["secret_access_key"] == "12345678"
    configure(monkeypatch, tmp_path, S3='{"key": "k", "secret": 1e5}')
    with pytest.raises(ConfigError, match="'secret' must be a string"):
        translation.settings_of("s3", BUCKET, {})


def test_tables_and_numbers_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A table in a file of the INI format keeps its case; texts in it, and elsewhere, are numbers and flags where those
    are wanted.
    """
    keys = {"aws_access_key_id": "AKIAX", "aws_secret_access_key": "SeCrEt/AbC", "verify": "No"}
    times = {"read_timeout": "7", "connect_timeout": 1.5, "max_pool_connections": "5"}
    ini = f"[s3]\nclient_kwargs = {json.dumps(keys)}\nconfig_kwargs = {json.dumps(times)}\n[abfs]\nread_timeout = 2.5\n"
    configure(monkeypatch, tmp_path, ini)
    store, client = translation.settings_of("s3", BUCKET, {})
    assert (store["access_key_id"], store["secret_access_key"]) == ("AKIAX", "SeCrEt/AbC")
    assert client == {
        "allow_invalid_certificates": True,
        "read_timeout": timedelta(seconds=7),
        "connect_timeout": timedelta(seconds=1.5),
        "pool_max_idle_per_host": "5",
    }
    _, client = translation.settings_of("azure", BUCKET, {"account_name": "me"})
    assert client == {"read_timeout": timedelta(seconds=2.5)}


WRONG_AROUND = [
    ("s3", "S3_ANON", "2", "'anon' must be true or false"),
    ("s3", "S3_USE_SSL", "canary", "'use_ssl' must be true or false"),
    ("s3", "S3_MAX_CONCURRENCY", "canary", "'max_concurrency' must be a whole number"),
    ("s3", "S3_MAX_CONCURRENCY", "true", "'max_concurrency' must be a whole number"),
    ("s3", "S3_CLIENT_KWARGS", "canary", "'client_kwargs' must be a table"),
    ("azure", "ABFS_READ_TIMEOUT", "canary", "'read_timeout' must be a number"),
]


@pytest.mark.parametrize(("service", "variable", "text", "said"), WRONG_AROUND)
def test_what_is_around_and_of_no_use_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: str, variable: str, text: str, said: str
) -> None:
    """A text of another meaning is refused by the option's name, and is not told."""
    configure(monkeypatch, tmp_path, **{variable: text})
    with pytest.raises(ConfigError, match=said) as caught:
        translation.settings_of(service, BUCKET, {})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("value", ["1", "yes", 1])
def test_control_an_option_of_the_storage_is_of_its_kind(value: object) -> None:
    """The control: what the storage's own options have is not read so."""
    with pytest.raises(ConfigError, match="'anon' must be true or false"):
        translation.settings_of("s3", BUCKET, {"anon": value})
