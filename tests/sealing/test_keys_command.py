"""`accountstore keys`: what each command does, says and returns."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from samples import ACCOUNT, AT, ELSEWHERE
from sealed import write_keys

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from accountstore import AccountStore
from accountstore.cli.commands import app
from accountstore.sealing import read_keys
from accountstore.sealing.sources import promote

if TYPE_CHECKING:
    from typer.testing import Result

    from accountstore import Encryption

CONFIG = """
default = "Mail"

[storages.Mail]
url = "mail"
encryption = {{ keys = "keys.jwks", {more} }}

[storages.Plain]
url = "plain"
"""

STARTED = (
    "accountstore: Programs started before `rotate --to` still use the old key. Restart them, then run rotate and"
    " verify again; remove the old key last.\n"
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCOUNTSTORE_CONFIG", raising=False)
    write_keys(tmp_path / "keys.jwks", "old")
    configured("required = true")


def configured(more: str) -> None:
    Path("accountstore.toml").write_text(CONFIG.format(more=more))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def test_no_key_seals_for_a_storage_that_is_not_written() -> None:
    """A rotation that a read-only storage refuses leaves the key file as it is, for all others that share it."""
    write_keys(Path("keys.jwks"), "old", "new")
    Path("accountstore.toml").write_text(
        CONFIG.format(more="required = true").replace('url = "mail"', 'url = "mail"\nread_only = true')
    )
    refused = run("rotate", "--to", "new")
    assert refused.exit_code == 1
    assert "storages.Mail: is read_only" in refused.stderr
    assert list(read_keys("keys.jwks")) == ["old", "new"]


def test_no_key_seals_for_a_storage_that_cannot_compare_and_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation that a storage refuses, as it honours no conditions, leaves the key file as it is."""

    async def honours(*_: object) -> bool:
        return False

    monkeypatch.setattr("accountstore.client.StorageClient.honours", honours)
    fill()
    write_keys(Path("keys.jwks"), "old", "new")
    refused = run("rotate", "--to", "new")
    assert (refused.exit_code, "storage 'Mail' ignores the condition of a swap" in refused.stderr) == (1, True)
    assert list(read_keys("keys.jwks")) == ["old", "new"]


def fill() -> None:
    async def save() -> None:
        async with AccountStore.open("accountstore.toml") as store:
            await store.save(AT, ACCOUNT)
            await store.save(ELSEWHERE, ACCOUNT)

    anyio.run(save)


def kid(path: str) -> str:
    return str(json.loads(Path("mail", path).read_bytes())["recipients"][0]["header"]["kid"])


def test_new_makes_and_extends_a_key_file() -> None:
    """`new` makes a file of mode 0600, adds keys, prints their ids alone; an error names the file."""
    made = run("new", "made.jwks")
    assert made.exit_code == 0
    assert made.stdout.strip() in read_keys("made.jwks")
    assert Path("made.jwks").stat().st_mode & 0o777 == 0o600
    assert run("new", "made.jwks", "--id", "later").stdout == "later\n"
    assert run("new", "made.jwks", "--id", "now", "--primary").exit_code == 0
    assert list(read_keys("made.jwks")) == ["now", made.stdout.strip(), "later"]
    Path("made.jwks").chmod(0o644)
    refused = run("new", "made.jwks")
    assert refused.exit_code == 1
    assert "made.jwks: others may read or write it (0644): chmod 600" in refused.stderr


def test_list_names_the_keys_of_each_storage() -> None:
    """`list` says of each storage how it is sealed and by which keys, or that it is not."""
    shown = run("list")
    assert shown.exit_code == 0
    assert shown.stdout == "Mail: required, id 'Mail': old\nPlain: not sealed\n"


def test_storages_and_check_say_what_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`storages` has a column for it where a storage is sealed; `check` names the keys, and kept plaintext."""

    def shown(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0
        return done.stdout

    words = {"required = true": "yes", "required = false": "plaintext too", "seal = false": "no longer"}
    for more, word in words.items():
        configured(more)
        header, _, mail, plain = shown("storages").splitlines()
        assert header.split()[-1] == "sealed"
        assert mail.rstrip().endswith(f"  {word}")
        assert plain.rstrip().endswith(" no")
    configured("required = true")
    assert "sealed (required), keys: old" in shown("check")
    assert "sealed" not in shown("check", "Plain")
    assert "plaintext" not in shown("check")

    async def versioned(_: object) -> bool:
        return True

    monkeypatch.setattr("accountstore.client.StorageClient.versioned", versioned)
    assert "plaintext from before the first encryption may be among what is kept" in shown("check")
    Path("accountstore.toml").write_text('[storages.Plain]\nurl = "plain"\n')
    assert "sealed" not in shown("storages")


def test_a_rotation_from_the_first_command_to_the_last() -> None:
    """A key is added, made the one that seals, documents are moved, and it is proven that none needs the old one."""
    fill()
    run("new", "keys.jwks", "--id", "new")
    verified = run("verify")
    assert (verified.exit_code, verified.stdout) == (0, "2 current\n")
    assert verified.stderr == STARTED
    rotated = run("rotate", "--to", "new")
    assert (rotated.exit_code, rotated.stdout) == (0, "2 written\n")
    assert rotated.stderr == STARTED
    assert kid(AT.path) == "new"
    assert list(read_keys("keys.jwks")) == ["new", "old"]
    assert run("rotate").stdout == "2 current\n"
    assert run("verify", "Mail", "--folder", AT.folder).stdout == "1 current\n"
    before = Path("mail", AT.path).read_bytes()
    resealed = run("reseal")
    assert (resealed.exit_code, resealed.stdout) == (0, "2 written\n")
    assert Path("mail", AT.path).read_bytes() != before


@pytest.mark.parametrize(("keys", "more"), [(("old", "new"), "seal = false"), (("old",), "required = true")])
def test_old_keys_are_told_of_only_where_one_may_still_seal(keys: tuple[str, ...], more: str) -> None:
    """Where nothing is sealed any more, or there is one key, neither `verify` nor `rotate --to` tells of another."""
    fill()
    write_keys(Path("keys.jwks"), *keys)
    configured(more)
    assert run("verify").stderr.count("Programs started") == 0
    assert run("rotate", "--to", "old").stderr == ""


def test_a_killed_resealing_goes_on_with_the_time_that_it_told() -> None:
    """`reseal` tells the time for `--before`, by which it leaves what it has written and nothing that was there."""
    fill()
    again = "accountstore: If this is interrupted: accountstore keys reseal"
    told = re.fullmatch(rf"{again} --before (\S+)\n", run("reseal").stderr)
    assert told is not None
    assert told[1].endswith("Z")
    start = datetime.fromisoformat(told[1])
    assert start >= datetime.fromtimestamp(int(Path("mail", AT.path).stat().st_mtime), UTC)
    assert start - datetime.now(UTC) <= timedelta(seconds=2)
    for at, moment in ((AT, start.timestamp()), (ELSEWHERE, start.timestamp() + 1)):
        os.utime(Path("mail", at.path), (moment, moment))
    while datetime.now(UTC) < start + timedelta(seconds=1):
        time.sleep(0.1)
    same = start.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    resumed = run("reseal", "--before", same)
    assert (resumed.stdout, resumed.stderr) == ("1 current, 1 written\n", told[0])
    for end in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert run("reseal", "--before", end).stderr == f"{again} --before {end}\n"
    below = run("reseal", "Mail", "--folder", AT.folder).stderr
    assert re.fullmatch(rf"{again} Mail --folder {AT.folder} --before \S+\n", below)


def test_a_key_that_does_not_come_first_is_not_made_to_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rotate --to` finds the file by `~`, and refuses a key that is in another source than the first, which would
    still not seal: it says what to do, and changes nothing.
    """
    fill()
    monkeypatch.setenv("HOME", os.getcwd())
    run("new", "keys.jwks", "--id", "new")
    run("new", "more.jwks", "--id", "a")
    run("new", "more.jwks", "--id", "b")
    monkeypatch.setenv("KEYS", Path("more.jwks").read_text())

    def sourced(keys: str) -> None:
        Path("accountstore.toml").write_text(CONFIG.format(more="required = true").replace('"keys.jwks"', keys))

    sourced('["~/keys.jwks", "more.jwks"]')
    refused = run("rotate", "--to", "b")
    assert refused.exit_code == 1
    assert "more.jwks first in the configuration" in refused.stderr
    assert list(read_keys("more.jwks")) == ["a", "b"]
    assert kid(AT.path) == "old"
    assert run("rotate", "--to", "new").stdout == "2 written\n"
    assert list(read_keys("keys.jwks")) == ["new", "old"]
    sourced('["env:KEYS", "keys.jwks"]')
    assert "put 'b' first there" in run("rotate", "--to", "b").stderr
    assert run("rotate", "--to", "a").stdout == "2 written\n"


def test_a_key_that_somebody_else_lets_seal_meanwhile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who rotate to different keys at once do not undo one another's work: the one who comes late is refused."""
    fill()
    run("new", "keys.jwks", "--id", "new")

    def overtaken(encryption: Encryption | None, key_id: str) -> None:
        promote(encryption, key_id)
        promote(encryption, "old")

    monkeypatch.setattr("accountstore.cli.keys.promote", overtaken)
    done = run("rotate", "--to", "new")
    assert (done.exit_code, "another key seal meanwhile ('old')" in done.stderr) == (1, True)
    assert kid(AT.path) == "old"


def test_verify_names_the_other_storages_with_the_keys() -> None:
    """Before a key is taken out of a file, all storages with the file must be verified; of one key nothing is said."""
    fill()
    assert run("verify").stderr == ""
    encryption = 'encryption = { keys = ["other.jwks", "keys.jwks"] }'
    with Path("accountstore.toml").open("a") as file:
        file.write(f'[storages.Archive]\nurl = "archive"\n{encryption}\n[storages.Other]\nurl = "other"\n')
        file.write('encryption = { keys = "other.jwks" }\n')
    run("new", "other.jwks")
    run("new", "keys.jwks")
    found = run("verify")
    assert (found.exit_code, found.stdout) == (0, "2 current\n")
    assert [name for name in ("Archive", "Other", "Plain") if f"the storage {name!r} has the same" in found.stderr] == [
        "Archive"
    ]


@pytest.mark.parametrize("other", ["./keys.jwks", "link.jwks", "../{here}/keys.jwks", "~/keys.jwks", "{whole}"])
def test_verify_knows_a_key_file_by_every_name(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another storage that names the file in another way has the same keys; one with a copy of it has its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fill()
    run("new", "keys.jwks")
    Path("link.jwks").symlink_to("keys.jwks")
    write_keys(Path("copy.jwks"), "old")
    path = other.format(here=tmp_path.name, whole=tmp_path / "keys.jwks")
    with Path("accountstore.toml").open("a") as file:
        file.write(f'[storages.Archive]\nurl = "archive"\nencryption = {{ keys = "{path}" }}\n')
        file.write('[storages.Copy]\nurl = "copy"\nencryption = { keys = "copy.jwks" }\n')
    told = run("verify").stderr
    assert "the storage 'Archive' has the same keys" in told
    assert "'Copy'" not in told


def test_verify_fails_where_a_key_is_still_needed() -> None:
    """`verify` ends with 1 and names the document and its key while one needs another key, or does not open."""
    fill()
    run("new", "keys.jwks", "--id", "new", "--primary")
    found = run("verify")
    assert (found.exit_code, found.stdout) == (1, "2 stale\n")
    assert f"{AT}: is sealed with the key old\n" in found.stderr
    run("rotate")
    Path("mail", AT.path).write_bytes(b"{}")
    Path("mail", "a#b.account").write_bytes(b"{}")
    broken = run("verify")
    assert (broken.exit_code, broken.stdout) == (1, "1 current, 1 failed, 1 skipped\n")
    way = "to seal it, set required = false, rotate, then require it"
    for done in (broken, run("rotate", "Mail:")):
        assert re.search(rf"{AT}: it is plaintext.*: {way}\n", done.stderr)
    assert "'a#b.account' was not looked at" in broken.stderr


def test_a_plain_storage_is_sealed_and_made_plain_again() -> None:
    """First encryption and the way back are `rotate` with another configuration."""
    Path("accountstore.toml").write_text(
        CONFIG.format(more="required = true").replace('"mail"\nencryption', '"mail"\n# encryption')
    )
    fill()
    plain = Path("mail", AT.path).read_bytes()
    configured("required = false")
    assert run("rotate").stdout == "2 written\n"
    configured("required = true")
    assert run("verify", "Mail:").exit_code == 0
    configured("seal = false")
    assert run("rotate").stdout == "2 written\n"
    assert Path("mail", AT.path).read_bytes() == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rotate", "Plain"), "the storage 'Plain' has no `encryption`"),
        (("verify", "Nowhere"), "not configured"),
        (("rotate", "Nowhere", "--to", "x"), "'Nowhere' is not configured"),
        (("rotate", "--to", "x"), "no key file of the storage has a key 'x'"),
        (("rotate", "Plain", "--to", "x"), "no key file of the storage has a key 'x'"),
        (("verify", "--folder", "../x"), "folder"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    """A command that cannot do its work ends with 1 and says why, in one line, without a traceback."""
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["verify", "rotate", "reseal", "rotate --to new"])
def test_a_folder_without_a_document_is_an_error(command: str) -> None:
    """One that is misspelt would be taken for verified; it is not made, and no other key seals. A storage that has no
    document yet, and a folder with one that has no LOCATION, are what they are.
    """
    if "new" not in command:
        assert run(*command.split()).stdout == "no documents\n"
    fill()
    write_keys(Path("keys.jwks"), "old", "new")
    for folder in ("nowhere", "Mail"):
        done = run(*command.split(), "--folder", folder)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].startswith(f"accountstore: no documents in '{folder}/'")
        assert not Path("mail", folder).exists()
    assert list(read_keys("keys.jwks")) == ["old", "new"]
    Path("mail", "odd").mkdir()
    Path("mail", "odd", "a#b.account").write_bytes(b"{}")
    assert "1 skipped" in run(*command.split(), "--folder", "odd").stdout


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", "", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_is_none_is_wrong_usage(time: str) -> None:
    """`--before` shows a time as it takes it, also where UTC has no such year."""
    done = run("reseal", "--before", time)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--before takes a time such as 2026-11-27T05:30:00Z" in " ".join(done.stderr.split())


def test_each_command_has_help() -> None:
    """The group and its commands have help, with an example."""
    shown = run("--help")
    assert shown.exit_code == 0
    for name in ("new", "list", "rotate", "verify", "reseal"):
        assert name in shown.stdout
        assert f"accountstore keys {name}" in run(name, "--help").stdout
