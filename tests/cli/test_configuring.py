"""`storages add` and `config show`: the configuration file as the command line writes and shows it."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

for package in ("typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

from commandline import CONFIG, SINGLE, configure, python, run

from accountstore.config_file import load_config

pytestmark = pytest.mark.usefixtures("home")


COMMENTED = """\
# What this is for.
default = "First Storage"   # the usual one
max_bytes = 20_000

[storages."First Storage"]  # local
url = "first"

# The other one.
[storages.Archive]
url = "archive"
options = { }
"""
FILE = Path("accountstore.toml")


def added() -> Any:
    """The configuration file's storages."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))["storages"]


def test_a_storage_is_added_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, TOML values, nested options and variables land in the file as they are meant; of variables that are not set
    it is said that no command can do without them.
    """
    monkeypatch.setenv("SET_HERE", "x")
    answer = run(
        *("storages", "add", "Cloud", "s3://bucket/mail", "--engine", "obstore", "--codec", "msgpack"),
        *("--timeout", "2.5", "-o", "account=0123", "--option", "anon:=false", "-o", "client_kwargs.region_name=eu"),
        *("--option-env", "secret=S3_SECRET", "-o", "key=${S3_KEY}"),
        *("--option-env", "token=SET_HERE", "-o", "endpoint_url=http://$${NO_VARIABLE}/"),
    )
    assert (answer.code, answer.out) == (0, "")
    note = "is not set here: until it is, no command can open this configuration"
    assert answer.err.splitlines() == [
        f"accountstore: {line}" for line in (f"added 'Cloud' to {FILE}", f"S3_KEY {note}", f"S3_SECRET {note}")
    ]
    assert run("ls").refusal.endswith("variable S3_KEY is not set; a literal ${ is written $${"), "nor does any"
    assert added()["Cloud"] == {
        "url": "s3://bucket/mail",
        "engine": "obstore",
        "codec": "msgpack",
        "timeout": 2.5,
        "options": {
            "account": "0123",
            "anon": False,
            "client_kwargs": {"region_name": "eu"},
            "secret": "${S3_SECRET}",
            "key": "${S3_KEY}",
            "token": "${SET_HERE}",
            "endpoint_url": "http://$${NO_VARIABLE}/",
        },
    }


def test_what_was_added_works(tmp_path: Path) -> None:
    """A document is saved on it at once; as the default it is what a location without a storage means."""
    assert run("storages", "add", "New one", str(tmp_path / "new"), "--default").code == 0
    assert run("save", "a.account", stdin=SINGLE).code == 0
    assert (tmp_path / "new" / "a.account").exists()
    assert run("storages").out.splitlines()[2].startswith("New one")


def test_comments_and_form_of_the_file_stay() -> None:
    """What was there is there as it was, byte for byte; the new storage stands behind."""
    configure(COMMENTED)
    assert run("storages", "add", "New", "new").code == 0
    text = FILE.read_text(encoding="utf-8")
    assert text.startswith(COMMENTED)
    assert text[len(COMMENTED) :].strip() == '[storages.New]\nurl = "new"'
    assert run("storages", "add", "Newer", "newer", "--default").code == 0
    assert FILE.read_text(encoding="utf-8").startswith(COMMENTED.replace('"First Storage" ', '"Newer" ', 1))


@pytest.mark.parametrize(
    "before",
    [
        'storages = { a = { url = "a" } }\n',
        'storages.a.url = "a"\n',
        '[storages]\na = { url = "a" }\n',
        '[storages]\n[storages.a]\nurl = "a"\n',
        '\ufeff[storages.a]\r\nurl = "a"\r\n',
        '[storages.a]\nurl = "a"',
        "",
        "# nothing yet\n",
    ],
)
def test_any_form_of_the_file_is_extended_or_refused_whole(before: str) -> None:
    """Whatever TOML says the same, the file then has both storages, or is as it was."""
    FILE.write_bytes(before.encode())
    answer = run("storages", "add", "b", "b", "--option-env", "x.y=NAME")
    if answer.code == 0:
        expected = {"a": {"url": "a"}} if "a" in before.replace("nothing yet", "").replace("storages", "") else {}
        assert added() == expected | {"b": {"url": "b", "options": {"x": {"y": "${NAME}"}}}}
        assert run("ls", "b:").code == 1, "NAME is not set, and so the file is read"
    else:
        assert "add the storage by hand" in answer.refusal
        assert FILE.read_bytes() == before.encode()


def test_a_second_storage_leaves_the_first_the_default() -> None:
    """Where one storage needed no `default`, it is said from now on."""
    configure('[storages.a]\nurl = "a"\n')
    assert run("storages", "add", "b", "b").code == 0
    assert load_config(str(FILE)).default_name() == "a"


def test_without_a_file_one_is_made_that_keeps_what_served(tmp_path: Path) -> None:
    """The storage that served without a configuration stays the default, with all its documents."""
    FILE.unlink()
    assert run("save", "a.account", stdin=SINGLE).code == 0
    assert run("storages", "add", "b", str(tmp_path / "b")).code == 0
    [made] = (tmp_path / "home").rglob("accountstore.toml")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert run("ls").out == "a.account\n"
    assert run("ls", "b:").code == 0


def test_a_file_that_is_named_and_not_there_is_made(tmp_path: Path) -> None:
    """`--config` says where the file shall be; it has the new storage only."""
    assert run("--config", "new/mine.toml", "storages", "add", "b", "b").code == 0
    assert tomllib.loads(Path("new/mine.toml").read_text(encoding="utf-8"))["storages"] == {"b": {"url": "b"}}
    assert Path("accountstore.toml").read_text(encoding="utf-8") == CONFIG


def test_mode_and_links_of_the_file_stay(tmp_path: Path) -> None:
    """A link to a file among others is followed, not replaced, and the file keeps its mode."""
    (tmp_path / "dotfiles").mkdir()
    kept = tmp_path / "dotfiles" / "accountstore.toml"
    FILE.rename(kept)
    kept.chmod(0o640)
    FILE.symlink_to(kept)
    assert run("storages", "add", "b", "b").code == 0
    assert FILE.is_symlink()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert "[storages.b]" in kept.read_text(encoding="utf-8")
    assert os.listdir(tmp_path / "dotfiles") == ["accountstore.toml"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["Archive", "x"], "there is a storage 'Archive' already"),
        (["a:b", "x"], "'a:b': storage: has ':': no separator"),
        (["b", ""], "storages.b.url: the url is empty"),
        (["b", "c:folder"], "storages.b.url: the url must be scheme://... or a folder"),
        (["b", "x", "--codec", "yaml"], "storages.b.codec: unknown codec; known: json, msgpack"),
        (["b", "x", "--engine", "rust"], "storages.b.engine: unknown engine; known: fsspec, obstore"),
        (["b", "x", "--timeout", "0"], "storages.b.timeout: must be more than 0 seconds"),
        (["b", "x", "-o", "password=CANARY"], "looks like a secret: give it by --option-env password=NAME"),
        (["b", "x", "-o", "client_kwargs.aws_secret_access_key=CANARY"], "looks like a secret"),
        (["b", "x", "-o", "connection_string=CANARY"], "looks like a secret"),
        (["b", "x", "-o", "sas_token:='CANARY'"], "give it by --option-env sas_token=NAME"),
        (["b", "ftp://me:CANARY@h/x"], "the URL has a password: leave it out"),
        (["b", "ftp://me:${HALF}CANARY@h/x"], "the URL has a password: leave it out"),
        (["b", "foo://bar"], "storages.b: unknown scheme 'foo'; known: abfs, az, file, ftp"),
        (["b", "fil:///x"], "storages.b: unknown scheme 'fil'; did you mean 'file'?"),
        (["b", "x", "-o", "file_mod=0640"], "storages.b.options: unknown 'file_mod'; did you mean 'file_mode'?"),
        (["b", "accountstore.toml"], "storages.b.url: what stands there is no folder"),
        (["b", "accountstore.toml/below"], "storages.b"),
        (["b", "ftp://h/x", "-o", "usr=me"], "storages.b.options: unknown 'usr'; did you mean"),
    ],
)
def test_what_cannot_be_added_leaves_the_file_as_it_is(arguments: list[str], reason: str) -> None:
    """The reason is one line without a value; nothing is written, and no other file is left."""
    refusal = run("storages", "add", *arguments).refusal
    assert reason in refusal
    assert "CANARY" not in refusal
    assert FILE.read_text(encoding="utf-8") == CONFIG
    assert os.listdir() == ["accountstore.toml"]


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["get", "a.account"],
        ["save", "a.account", "--host", "h", "--port", "1"],
        ["cp", "a.account", "b.account"],
        ["storages"],
        ["check"],
        ["refresh", "a.account"],
        ["keys", "list"],
        ["migrate", "plan", "default:a", "default:b"],
    ],
    ids=lambda command: command[0],
)
def test_what_is_wrong_with_a_storage_names_file_and_key(command: list[str]) -> None:
    """Also what only shows when the storage is opened, whatever the command."""
    configure('storages.default = { url = ".", options = { file_mod = "0640" } }\n')
    refusal = run(*command).refusal
    assert refusal.startswith("accountstore.toml: storages.default.options: unknown 'file_mod'")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "CANARY"], "--option: must be KEY=TEXT or KEY:=VALUE"),
        (["-o", "n:=CANARY"], "--option n: is no TOML value"),
        (["-o", "n:=" + "[" * 5000], "--option n: is no TOML value"),
        (["-o", "a=1", "-o", "a=2"], "--option a: is given twice"),
        (["-o", "a=1", "-o", "a.b=2"], "--option a.b: is given twice"),
        (["--option-env", "a"], "--option-env: must be KEY=NAME"),
        (["--option-env", "a=CANARY-1"], "--option-env: must be KEY=NAME"),
        (["--option-env", "a:=NAME"], "--option-env: must be KEY=NAME"),
    ],
)
def test_options_that_are_not_understood_are_wrong_usage(arguments: list[str], reason: str) -> None:
    """The reason shows no value; nothing is written."""
    answer = run("storages", "add", "b", "x", *arguments)
    assert answer.code == 2
    assert reason in " ".join(answer.err.split())
    assert "CANARY" not in answer.err
    assert FILE.read_text(encoding="utf-8") == CONFIG


def test_a_file_that_is_not_valid_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with it is said, with its key, and it stays."""
    broken = CONFIG + "urll = 3\n"
    configure(broken)
    assert "unknown key 'urll'" in run("storages", "add", "b", "b").refusal
    assert FILE.read_text(encoding="utf-8") == broken
    FILE.write_bytes(b"\xff")
    assert "is not UTF-8" in run("storages", "add", "b", "b").refusal


def test_a_url_is_no_file_to_write() -> None:
    """A URL where a path is expected makes no file of that name."""
    refusal = run("--config", "https://h/accountstore.toml", "storages", "add", "b", "b").refusal
    assert "is a url where the path of a file is expected" in refusal
    assert os.listdir() == ["accountstore.toml"]


def test_a_variable_need_not_be_set_where_the_file_is_written() -> None:
    """A file is written on one machine and read where the secret is."""
    configure(CONFIG + '[storages.Far]\nurl = "ftp://h/x"\noptions = { password = "${NOT_SET_HERE}" }\n')
    assert run("storages", "add", "b", "b", "--option-env", "x=NOT_SET_EITHER").code == 0
    assert {"Far", "b"} <= added().keys()


def test_the_file_is_replaced_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the old file, and nothing else; a change meanwhile is not lost."""
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(28, "No space left on device")))
    assert "cannot be written (No space left on device)" in run("storages", "add", "b", "b").refusal
    assert (FILE.read_text(encoding="utf-8"), os.listdir()) == (CONFIG, ["accountstore.toml"])

    def meanwhile(_: int) -> None:
        configure(CONFIG + "# by another\n")

    monkeypatch.setattr("os.fsync", meanwhile)
    assert "was changed meanwhile" in run("storages", "add", "b", "b").refusal
    assert (FILE.read_text(encoding="utf-8"), os.listdir()) == (CONFIG + "# by another\n", ["accountstore.toml"])


SECRET = """\
default = "a"
[storages.a]
url = "ftp://CANARY:CANARY@127.0.0.1/mail?CANARY"
timeout = 3.5
[storages.a.options]
username = "me"
password = "CANARY-password"
pin = 4711
port = 21
token = "${TOKEN}"
mixed = "x${TOKEN}CANARY"
anon = true
list = ["CANARY"]
client_kwargs = { endpoint_url = "https://CANARY:CANARY@s3.example.com/?CANARY", secret = "CANARY" }
"""


def test_config_show_masks_what_could_be_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options show if they are known to be harmless or name a variable; URLs without user and query."""
    monkeypatch.setenv("TOKEN", "CANARY-token")
    configure(SECRET)
    stars = "**********"
    expected = {
        "url": "ftp://127.0.0.1/mail",
        "timeout": 3.5,
        "options": {
            "username": "me",
            "password": stars,
            "pin": stars,
            "port": 21,
            "token": "${TOKEN}",
            "mixed": stars,
            "anon": True,
            "list": stars,
            "client_kwargs": {"endpoint_url": "https://s3.example.com/", "secret": stars},
        },
    }
    answer = run("config", "show")
    assert (answer.code, answer.err.count("\n"), "storages.a.options: unknown " in answer.err) == (1, 1, True)
    assert "CANARY" not in answer.everything
    assert answer.out.startswith(f"# {FILE.absolute()}\n")
    assert tomllib.loads(answer.out) == {"default": "a", "storages": {"a": expected}}
    shown = run("config", "show", "--json")
    assert json.loads(shown.out) == {"file": str(FILE.absolute()), "default": "a", "storages": {"a": expected}}
    assert "CANARY" not in shown.everything


def test_config_show_says_where_keys_are() -> None:
    """Files and variables with keys show; what may be a key itself does not, nor what a key service is told."""
    key, stars = "CANARY" * 7, "**********"
    listed = f"""["env:KEYS", "{key}", '{{"k": "CANARY"}}', {{ token = "{key}" }}]"""
    for_a = '[storages.a]\nurl = "a"\nencryption = { keys = "~/mail/keys.jwks" }\n'
    configure(f'{for_a}[storages.b]\nurl = "b"\nencryption = {{ keys = {listed} }}\n')
    shown = run("config", "show", "--json")
    assert "CANARY" not in shown.out
    storages = json.loads(shown.out)["storages"]
    assert storages["a"]["encryption"] == {"keys": "~/mail/keys.jwks"}
    assert storages["b"]["encryption"] == {"keys": ["env:KEYS", stars, stars, {"token": stars}]}


def test_config_show_of_what_serves_without_a_file() -> None:
    """Without a file the storage that serves is shown."""
    FILE.unlink()
    answer = run("config", "show")
    assert answer.out.startswith("# no file")
    assert tomllib.loads(answer.out)["default"] == "default"
    assert json.loads(run("config", "show", "--json").out)["file"] is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[storages.a]\nurl = "a"\noptions = { x = "${NO_SUCH}" }\n', "NO_SUCH is not set"),
        ('[storages.a]\nurl = "a"\nurll = "CANARY"\n', "unknown key 'urll'"),
        ('default = "b"\n[storages.a]\nurl = "a"\n', "default: no storage of that name is configured"),
    ],
)
def test_config_show_says_what_is_wrong(text: str, reason: str) -> None:
    """What the file says is shown all the same, and the exit code is 1."""
    configure(text)
    answer = run("config", "show")
    assert answer.code == 1
    assert "[storages.a]" in answer.out
    assert reason in answer.err
    assert "CANARY" not in answer.everything


UNOPENABLE = {
    "a lost key file": 'url = "m"\nencryption = { keys = "lost.jwks", required = true }',
    "no variable of keys": 'url = "m"\nencryption = { keys = "env:NO_SUCH", required = true }',
    "no such provider": 'url = "m"\nencryption = { keys = { provider = "transot" }, required = true }',
    "no such option": 'url = "m"\noptions = { file_mod = 1 }',
    "no such scheme": 'url = "s4://CANARY@b"',
    "no such option elsewhere": 'url = "ftp://127.0.0.1:1/x"\noptions = { user = "CANARY" }',
    "no folder to be read": 'url = "m"\nread_only = true',
}


@pytest.mark.parametrize("text", UNOPENABLE.values(), ids=UNOPENABLE)
def test_config_show_says_what_every_command_would_say(text: str) -> None:
    """A storage that no command can open ends it with 1 and the reason, as any other does; nothing is made."""
    configure(f"[storages.Mail]\n{text}\n")
    shown = run("config", "show")
    assert os.listdir() == [FILE.name]
    assert (shown.code, shown.err) == (1, run("ls").err)
    assert "storages.Mail" in shown.err
    assert "[storages.Mail]" in shown.out
    assert "CANARY" not in shown.everything


def test_config_show_says_it_of_each_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens is passed over, though its folder is not there yet, and is not made."""
    configure(
        '[storages.One]\nurl = "/dev/null/x"\n[storages.Two]\nurl = "two/below"\n[storages.Three]\nurl = "s4://b"\n'
    )
    FILE.write_text(f'default = "One"\n{FILE.read_text()}')
    answer = run("config", "show", "--json")
    assert (answer.code, json.loads(answer.out)["default"]) == (1, "One")
    assert [line.split(":")[2].split(".")[1] for line in answer.err.splitlines()] == ["One", "Three"]
    configure('[storages.Two]\nurl = "two/below"\n')
    assert (run("config", "show").code, os.listdir()) == (0, [FILE.name])
    monkeypatch.setattr("os.access", Mock(return_value=False))
    answer = run("config", "show")
    assert answer.code == 1
    assert f"storages.Two.url: there is no such folder, and none can be made in {Path.cwd()}\n" in answer.err


@pytest.mark.parametrize(
    "text",
    [
        "[storages.a\nCANARY",
        "storages = 3\n",
        '[storages]\na = "CANARY"\n',
        '[storages.a]\nurl = ["CANARY"]\n',
        '[storages.a]\nurl = "a"\nsealing = { key = "CANARY" }\n',
        '[storages.a]\nurl = "a"\n[keys]\nmine = "CANARY"\n',
    ],
)
def test_config_show_of_no_configuration_is_one_line(text: str) -> None:
    """A file that is no configuration at all ends with 1 and the reason, without a value of it."""
    configure(text)
    answer = run("config", "show")
    assert (answer.code, answer.crash) == (1, "")
    assert answer.err.count("\n") == 1
    assert "CANARY" not in answer.everything
    missing = run("--config", "nope.toml", "config", "show").refusal
    assert missing == "nope.toml: does not exist: `accountstore storages add NAME URL` makes one"


def test_a_name_that_steers_a_terminal_shows_as_its_escape() -> None:
    """The name of a storage with a direction character does not turn the terminal's text around."""
    configure('[storages."a\u202eb"]\nurl = "a\u202eb"\n')
    for command in ("config show", "config show --json", "storages --json"):
        answer = run(*command.split())
        assert answer.code == 0
        assert "\u202e" not in answer.everything
        assert "\\u202e" in answer.out


def test_without_tomlkit_the_program_says_what_to_install() -> None:
    """It is imported where the file is written or shown, and belongs to the same extra."""
    code = "import sys; sys.modules['tomlkit'] = None; from accountstore.cli import main; main()"
    refusal = python("-c", code, "storages", "add", "b", "b").refusal
    assert refusal == "the command line needs typer, click, rich and tomlkit: pip install 'accountstore[cli]'"
