"""`save` by options, and `edit`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from running import HUNG, PYTHON

for package in ("pty", "typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

from commandline import CANARIES, CONFIG, MULTI, PASSWORD, SINGLE, Terminal, configure, document_at, files, run, start

from accountstore import AccountStore, Location, Version
from accountstore.cli import editor
from accountstore.cli.commands import app

pytestmark = pytest.mark.usefixtures("home")


PLACE = ("save", "a.account", "--host", "imap.example.com")
LOGIN = (*PLACE, "--port", "993", "--login", "me")
STDIN = b"CANARY-typed"


def test_a_misspelt_field_is_kept_and_told() -> None:
    """A field that is not known and near a known one is saved as it is, and named with the one that may be meant, also
    within a multi account; a field that is near none is no news, and no value shows.
    """
    pair = {"login": "me", "password": "CANARY-1", "pasword": "CANARY-2", "ofTomorrow": "CANARY-3"}
    given = {
        "host": "imap.example.com",
        "port": 993,
        "securityOption": "CANARY-4",
        "credentials": {"discriminator": "EmailClientAccountPasswordCredentials", **pair},
    }
    answer = run("save", "a.account", stdin=given)
    told = "accountstore: warning: {}: is not a field here, and is kept; did you mean {!r}?"
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.splitlines() == [
        told.format("$.securityOption", "securityOptions"),
        told.format("$.credentials.pasword", "password"),
    ]
    assert document_at("a.account") == given
    answer = run("save", "a.multi.account", stdin={"receiveAccounts": [given], "sendAccount": PASSWORD})
    assert answer.code == 0
    assert "$.receiveAccounts[0].securityOption: " in answer.err
    assert "CANARY" not in answer.err


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_password_comes_from_standard_input(end: bytes) -> None:
    """`--password-stdin` reads one line, whatever its end; what is not given is not made up."""
    answer = run(*LOGIN, "--password-stdin", stdin=STDIN + end)
    assert (answer.code, answer.everything) == (0, "")
    assert document_at("a.account") == {
        "host": "imap.example.com",
        "port": 993,
        "credentials": {
            "discriminator": "EmailClientAccountPasswordCredentials",
            "login": "me",
            "password": "CANARY-typed",
        },
    }


def test_an_oauth_account_takes_one_secret_from_standard_input_and_others_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every field of an OAuth account has an option; enumerations are read whatever their case."""
    monkeypatch.setenv("CLIENT", "CANARY-client")
    options = "--client-id id --refresh-token-stdin --client-secret-env CLIENT --request-url https://login.example.com/"
    answer = run(*LOGIN, "--protocol", "imap", "--security", "sslimplicit", *options.split(), stdin=STDIN)
    assert (answer.code, answer.everything) == (0, "")
    saved = document_at("a.account")
    assert (saved["protocolType"], saved["securityOptions"]) == ("IMAP", "SSLImplicit")
    assert saved["credentials"] == {
        "discriminator": "EmailClientAccountOauthCredentials",
        "login": "me",
        "clientId": "id",
        "clientSecret": "CANARY-client",
        "refreshToken": "CANARY-typed",
        "requestUrl": "https://login.example.com/",
    }


def test_without_a_login_there_are_no_credentials() -> None:
    """A relay that asks for nothing needs host and port only, up to the last one."""
    assert run(*PLACE, "--port", "65535").code == 0
    assert document_at("a.account")["credentials"] == {"discriminator": "EmailClientAccountCredentials"}


@pytest.mark.parametrize(
    ("protocol", "security", "port"),
    [
        ("IMAP", "SSLImplicit", 993),
        ("IMAP", "SSLExplicit", 143),
        ("POP3", "SSLImplicit", 995),
        ("POP3", "None", 110),
        ("SMTP", "SSLImplicit", 465),
        ("SMTP", "SSLExplicit", 587),
        ("SMTP", "None", 25),
        ("EWS", "SSLImplicit", 443),
    ],
)
def test_the_port_may_be_left_out_where_protocol_and_security_tell_it(protocol: str, security: str, port: int) -> None:
    """The ports are those that are assigned to the services."""
    assert run(*PLACE, "--protocol", protocol, "--security", security).code == 0
    assert document_at("a.account")["port"] == port


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "say --port"),
        (["--protocol", "IMAP", "--security", "SSLAuto"], "say --port"),
        (["--port", "1", "--login", "me"], "--login needs --password-stdin"),
        (["--port", "1", "--password-stdin"], "credentials need --login"),
        (["--port", "1", "--request-url", "https://x"], "credentials need --login"),
        (["--port", "1", "--login", "me", "--client-id", "x"], "--login needs --password-stdin"),
        (["--port", "1", "--login", "me", "--password-stdin", "--client-id", "x"], "not both"),
        (["--port", "1", "--login", "me", "--password-env", "NO_SUCH"], "'NO_SUCH' of the password is not set"),
        (["--port", "1", "--login", "me", "--refresh-token-stdin", "--client-secret-stdin"], "has one secret"),
        (["--port", "0"], "--port"),
        (["--port", "65536"], "--port"),
        (["--port", "1", "--protocol", "IMAPP"], "--protocol must be one of IMAP, POP3, SMTP, EWS, WebDav"),
        (["--port", "1", "--security", "TLS"], "--security must be one of None, SSLExplicit, SSLImplicit, SSLAuto"),
    ],
)
def test_options_that_do_not_make_an_account_are_wrong_usage(options: list[str], reason: str) -> None:
    """They end with 2, say what is missing and write nothing."""
    answer = run(*PLACE, *options, stdin=STDIN)
    assert (answer.code, answer.out, answer.crash) == (2, "", "")
    assert reason in " ".join(answer.err.replace("│", " ").split())
    assert "CANARY" not in answer.everything
    assert files() == []


def test_options_need_a_host_and_a_single_account() -> None:
    """A document from standard input is not mixed with options; several accounts are JSON."""
    assert run("save", "a.account", "--port", "1", stdin=SINGLE).code == 2
    assert run("save", "a.multi.account", *PLACE[2:], "--port", "1", stdin=MULTI).code == 2
    assert files() == []


@pytest.mark.parametrize("given", [b"", b"\n", b"CANARY\nCANARY\n", b"\xffCANARY", b"CANARY\0", b"\xef\xbb\xbf\n"])
def test_standard_input_that_is_no_secret_is_refused(given: bytes) -> None:
    """A secret is one line of text; no message shows it."""
    answer = run(*LOGIN, "--password-stdin", stdin=given)
    assert answer.refusal == "standard input: the password must be one line of UTF-8 text"
    assert files() == []


def test_a_secret_on_standard_input_is_bounded_and_has_no_byte_order_mark() -> None:
    """What is longer is told so, also where it is cut within a character; a mark before it is no part of it."""
    for given in (b"x" * 400_000, b"x" + "\u00e9".encode() * 40_000):
        answer = run(*LOGIN, "--password-stdin", stdin=given)
        assert answer.refusal == "standard input: the password is longer than 65536 bytes"
    assert files() == []
    assert run(*LOGIN, "--password-stdin", stdin=b"\xef\xbb\xbfCANARY\r\n").code == 0
    assert document_at("a.account")["credentials"]["password"] == "CANARY"


def test_a_variable_that_is_empty_is_not_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable in a secret's place is wrong usage, and said to be empty."""
    monkeypatch.setenv("EMPTY", "")
    answer = run(*LOGIN, "--password-env", "EMPTY")
    assert answer.code == 2
    assert "'EMPTY' of the password is empty" in " ".join(answer.err.replace("│", " ").split())


def test_options_are_checked_as_json_is() -> None:
    """An account that `get` would not return is refused with its field."""
    refusal = run("save", "a.account", "--host", "", "--port", "1").refusal
    assert "$.host" in refusal
    assert files() == []


def test_create_goes_with_options(saved: None) -> None:
    """With `--create` the document that is there stays."""
    assert run(*LOGIN, "--create", "--password-stdin", stdin=STDIN).refusal == (
        "a.account: there is a document already"
    )
    assert document_at("a.account") == SINGLE


@pytest.mark.once
def test_a_password_is_asked_for_on_a_terminal() -> None:
    """Where standard input is a terminal, it is asked for without an echo."""
    terminal = Terminal(*LOGIN, "--password-stdin")
    terminal.answer("Password (hidden): ", STDIN)
    assert terminal.end() == 0
    assert "CANARY" not in terminal.shown
    assert document_at("a.account")["credentials"]["password"] == "CANARY-typed"


def test_no_secret_is_an_argument() -> None:
    """What is on the command line others can see: no option takes a secret itself."""
    shown = run("save", "--help").out
    for secret in ("password", "refresh-token", "client-secret"):
        assert f"--{secret}-stdin " in shown
        assert f"--{secret}-env NAME" in shown
        assert f"--{secret} " not in shown


SEEN = """\
import json, os, sys
path = sys.argv[-1]
folder = os.path.dirname(path)
json.dump(
    {"path": path, "text": open(path).read(), "file": os.stat(path).st_mode, "folder": os.stat(folder).st_mode},
    open("seen.json", "w"),
)
"""


def edit_by(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the editor be a Python program, which gets the file's path as its last argument."""
    Path("editor.py").write_text(SEEN + code, encoding="utf-8")
    monkeypatch.setenv("EDITOR", f"{sys.executable} editor.py")


def seen() -> dict[str, Any]:
    """What the editor saw."""
    saw: dict[str, Any] = json.loads(Path("seen.json").read_bytes())
    return saw


def test_edit_gives_the_whole_document_in_a_private_file(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The editor gets indented JSON, secrets included, where nobody else can read; then the file is gone."""
    edit_by("text = open(path).read(); open(path, 'w').write(text.replace('smtp.ex', 'new.ex'))", monkeypatch)
    answer = run("edit", "a.account")
    assert (answer.code, answer.everything) == (0, "")
    saw = seen()
    assert json.loads(saw["text"]) == SINGLE
    assert saw["text"].count("\n") > 10
    assert (stat.S_IMODE(saw["file"]), stat.S_IMODE(saw["folder"])) == (0o600, 0o700)
    assert not os.path.exists(os.path.dirname(saw["path"]))
    assert document_at("a.account") == SINGLE | {"host": "new.example.com"}
    assert Path("first", "a.account").read_bytes().count(b"\n") == 0


def test_edit_prefers_memory_to_a_disk(saved: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file is in $XDG_RUNTIME_DIR where there is one, else among temporary files; VISUAL goes before EDITOR."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    edit_by("", monkeypatch)
    monkeypatch.setenv("VISUAL", os.environ["EDITOR"])
    monkeypatch.setenv("EDITOR", "no-such-editor")
    assert run("edit", "a.account").code == 0
    assert seen()["path"].startswith(f"{runtime}/")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    assert run("edit", "a.account").code == 0
    assert list(runtime.iterdir()) == []


def test_edit_writes_nothing_where_nothing_was_changed(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the document nor its time changes."""
    before = Path("first", "a.account").stat().st_mtime_ns
    edit_by("", monkeypatch)
    assert run("edit", "a.account").code == 0
    assert Path("first", "a.account").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("open(path, 'w').write('{')", "the edited text: is not valid JSON"),
        ("open(path, 'w').write('')", "the edited text: is empty"),
        (
            "text = open(path).read(); open(path, 'w').write(text.replace('465', '\"CANARY\"'))",
            "the edited text: $.port: ",
        ),
        (
            "text = open(path).read(); open(path, 'w').write(text.replace('CANARY-client-secret', '*' * 10))",
            "the edited text: a secret in it is masked",
        ),
        ("os.unlink(path)", "cannot read the input"),
        ("sys.exit(3)", "the editor ended with 3: nothing was written"),
    ],
)
def test_edit_refuses_what_is_no_document(saved: None, monkeypatch: pytest.MonkeyPatch, code: str, reason: str) -> None:
    """The document stays, no value of the text shows, and the file is gone."""
    edit_by(code, monkeypatch)
    refusal = run("edit", "a.account").refusal
    assert refusal.startswith(reason)
    assert "CANARY" not in refusal
    assert document_at("a.account") == SINGLE
    assert not os.path.exists(os.path.dirname(seen()["path"]))


def test_edit_does_not_overwrite_what_another_has_written(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is written by the version that was read: a change meanwhile is a conflict."""
    other = json.dumps(SINGLE | {"host": "other.example.com"})
    edit_by(
        f"text = open(path).read(); open(path, 'w').write(text.replace('465', '466'))\n"
        f"open('first/a.account', 'w').write({other!r})",
        monkeypatch,
    )
    assert run("edit", "a.account").refusal.startswith("a.account: ")
    assert document_at("a.account")["host"] == "other.example.com"


def test_without_the_version_edit_would_overwrite(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: written as `save` writes, the other's change is lost."""
    save_json = AccountStore.save_json

    async def blindly(self: AccountStore, where: Location, data: bytes, **_: object) -> Version:
        return await save_json(self, where, data)

    monkeypatch.setattr(AccountStore, "save_json", blindly)
    other = json.dumps(SINGLE | {"host": "other.example.com"})
    edit_by(
        f"text = open(path).read(); open(path, 'w').write(text.replace('465', '466'))\n"
        f"open('first/a.account', 'w').write({other!r})",
        monkeypatch,
    )
    assert run("edit", "a.account").code == 0
    assert document_at("a.account") == SINGLE | {"port": 466}


@pytest.mark.parametrize("editor", ["no-such-editor", "/", "'unbalanced"])
def test_edit_says_which_editor_cannot_be_started(saved: None, monkeypatch: pytest.MonkeyPatch, editor: str) -> None:
    """One line names the editor and what to set."""
    monkeypatch.setenv("EDITOR", editor)
    refusal = run("edit", "a.account").refusal
    assert refusal.startswith(f"the editor {editor!r} cannot be started (")
    assert refusal.endswith("): set EDITOR")


def test_edit_refuses_before_it_starts_an_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing document, a wrong name and a storage that cannot swap need no editor."""
    edit_by("", monkeypatch)
    assert run("edit", "nope.account").refusal == "nope.account: there is no such document"
    assert run("edit", "x.txt").code == 1
    configure(CONFIG + '[storages.Far]\nurl = "ftp://127.0.0.1:1/mail"\n')
    assert "this storage cannot tell" in run("edit", "Far:a.account").refusal
    configure(CONFIG.replace('url = "first"', 'url = "first"\nread_only = true'))
    Path("first").mkdir(exist_ok=True)
    assert run("edit", "a.account").refusal == "a.account: the storage is opened read-only"
    assert not Path("seen.json").exists()


def test_edit_keeps_a_multi_account_and_another_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of either kind and of any codec are edited as JSON."""
    run("save", "Archive:a.multi.account", stdin=MULTI)
    edit_by("text = open(path).read(); open(path, 'w').write(text.replace('993', '994'))", monkeypatch)
    assert run("edit", "Archive:a.multi.account").code == 0
    assert document_at("Archive:a.multi.account")["receiveAccounts"][0]["port"] == 994
    assert not Path("archive", "a.multi.account").read_bytes().startswith(b"{")


def test_edit_asks_on_a_terminal_whether_to_go_on(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is no document is given back to the editor, as it was left; at a no nothing is written."""
    edit_by(
        "text = open(path).read().strip()\n"
        "open(path, 'w').write(text + '}' if text[-1] != '}' else text[:-1].replace('465', '466').rstrip())",
        monkeypatch,
    )
    terminal = Terminal("edit", "a.account")
    terminal.answer("Edit again? [y/N]: ", "y")
    assert terminal.end() == 0
    assert "the edited text: is not valid JSON" in terminal.shown
    assert document_at("a.account") == SINGLE | {"port": 466}
    terminal = Terminal("edit", "a.account")
    terminal.answer("Edit again? [y/N]: ", "")
    assert terminal.end() == 1
    assert document_at("a.account") == SINGLE | {"port": 466}
    assert not any(canary in terminal.shown for canary in CANARIES)


@pytest.mark.once
def test_edit_replaces_anothers_change_only_if_told_to(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a conflict the terminal is asked; a yes is to the newest document, and the text is as it was left."""
    other = json.dumps(SINGLE | {"host": "other.example.com"})
    edit_by(
        "text = open(path).read(); open(path, 'w').write(text.replace('465', '466'))\n"
        f"open('first/a.account', 'w').write({other!r}) if '465' in text else None",
        monkeypatch,
    )
    terminal = Terminal("edit", "a.account")
    terminal.answer("replace what the other has written? [y/N]: ", "y")
    assert terminal.end() == 0
    assert document_at("a.account") == SINGLE | {"port": 466}


WAIT = "open('ready', 'w').close()\nimport time\ntime.sleep(600)"


def until(path: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file is there."""
    until_then = time.monotonic() + HUNG
    while not os.path.exists(path) and process.poll() is None and time.monotonic() < until_then:
        time.sleep(0.01)
    assert os.path.exists(path)


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_killed_edit_leaves_no_file_and_no_editor(
    saved: None, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """SIGTERM, SIGHUP and SIGQUIT end the editor, remove the file and end the program as such signals do."""
    edit_by(f"open('pid', 'w').write(str(os.getpid()))\n{WAIT}", monkeypatch)
    process = start("edit", "a.account", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until("ready", process)
    folder = os.path.dirname(seen()["path"])
    assert os.path.isdir(folder)
    process.send_signal(number)
    _, err = process.communicate(timeout=HUNG)
    assert (process.returncode, err) == (128 + number, b"")
    assert not os.path.exists(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text(encoding="utf-8")), 0)
    assert document_at("a.account") == SINGLE


@pytest.mark.once
def test_ctrl_c_is_the_editors(saved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the whole terminal: an editor that ends by it ends the command, and the file is gone."""
    edit_by(WAIT, monkeypatch)
    process = start("edit", "a.account", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until("ready", process)
    folder = os.path.dirname(seen()["path"])
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None, "the program itself waits for its editor"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=HUNG)
    assert process.returncode == 1
    assert b"the editor ended with" in err
    assert not os.path.exists(folder)


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_edits_leaves_no_file(
    saved: None, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """At the question, where no editor runs, a signal ends the program with its code."""
    edit_by("open(path, 'w').write('{')", monkeypatch)
    terminal = Terminal("edit", "a.account", PYTHONUNBUFFERED="1")
    terminal.expect("Edit again? [y/N]: ")
    terminal.interrupt(number)
    assert terminal.end() == 128 + number
    assert "Traceback" not in terminal.shown
    assert not os.path.exists(os.path.dirname(seen()["path"]))


@pytest.mark.parametrize("at", ["mkdtemp", "rmtree"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_folder_is_made_or_removed_leaves_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: str, number: signal.Signals
) -> None:
    """A signal waits until the folder is known, or gone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    module = tempfile if at == "mkdtemp" else shutil
    really = getattr(module, at)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(number)
        made = really(*arguments, **options)
        signal.raise_signal(number)
        return made

    monkeypatch.setattr(module, at, interrupted)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ends = pytest.raises((KeyboardInterrupt, SystemExit)) if at == "mkdtemp" else nullcontext()
    with ends, editor.private_room() as room:
        room.write(b"CANARY")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("accountstore-")]
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.once
def test_without_its_handlers_a_killed_edit_would_leave_the_file(
    saved: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The control: a program that dies of SIGTERM as others do leaves the secrets behind."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    edit_by(WAIT, monkeypatch)
    code = "import accountstore.cli.editor as e; e._SIGNALS = (); from accountstore.cli import main; main()"
    process = subprocess.Popen(
        [*PYTHON, "-c", code, "edit", "a.account"], stdin=subprocess.DEVNULL, start_new_session=True
    )
    until("ready", process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(HUNG) == -signal.SIGTERM
    assert os.path.exists(seen()["path"])


def test_a_bug_in_edit_leaves_no_file(saved: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is raised while the file is there, it goes."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(editor, "_run", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError):
        app(["edit", "a.account"], standalone_mode=False)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("accountstore-")]
