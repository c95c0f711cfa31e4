"""`accountstore migrate`: what it prints, its progress, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from doubles import raises
from running import HUNG, PYTHON

from accountstore import ConfigError

pytest.importorskip("typer")

from accountstore.cli.names import read_names
from accountstore.cli.progress import Progress
from accountstore.cli.show import show_line
from accountstore.migration import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.once

DOCUMENT = (
    '{"host":"%s","port":993,"credentials":'
    '{"discriminator":"EmailClientAccountPasswordCredentials","login":"me","password":"canary-31f0"}}'
)
COMMAND = (*PYTHON, "-m", "accountstore", "migrate")

Run = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two storages in folders, with twenty documents at one."""
    (tmp_path / "accountstore.toml").write_text(
        'default = "Old"\n[storages.Old]\nurl = "old"\n[storages.New]\nurl = "new"\ncodec = "msgpack"\n'
        '[storages.Mem]\nurl = "memory://"\n'
    )
    (tmp_path / "old" / "mail").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "old" / "mail" / f"{number:02}.account").write_text(DOCUMENT % "first")
    return tmp_path


@pytest.fixture
def migrate(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command; no secret is in what it prints, whatever it does."""

    def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder, env=environment(folder), input=given, capture_output=True, text=True, timeout=HUNG, check=False,
        )  # fmt: skip
        assert "canary" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def environment(folder: Path, /) -> dict[str, str]:
    quick = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    return {**os.environ, **quick, "XDG_DATA_HOME": str(folder / "data"), "HOME": str(folder)}


def lines(done: subprocess.CompletedProcess[str], /) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_from_plan_to_verification(migrate: Any, folder: Path) -> None:
    """Plan, run, a further pass, a conflict, verify and report: what each prints, and its exit code."""
    planned = migrate("plan", "Old:mail", "New:post", "--json")
    assert planned.returncode == 0
    *told, total = lines(planned)
    assert {line["outcome"] for line in told} == {"copied"}
    assert all(line["source"] == f"Old:mail/{line['name']}" for line in told)
    assert all(line["target"] == f"New:post/{line['name']}" for line in told)
    assert total["totals"] == {"copied": {"documents": 20, "bytes": sum(line["bytes"] for line in told)}}
    assert not (folder / "new").exists() or not [*(folder / "new").rglob("*.account")]
    assert not (folder / "accountstore.journal").exists()
    done = migrate("Old:mail", "New:post")
    assert (done.returncode, done.stdout.splitlines()[0].rpartition(",")[0]) == (
        0,
        "Old:mail to New:post, 20 documents",
    )
    assert "copied" in done.stdout
    again = migrate("Old:mail", "New:post")
    assert (again.returncode, "--resume" in again.stderr) == (1, True)
    (folder / "old" / "mail" / "03.account").write_text(DOCUMENT % "second")
    passed = migrate("Old:mail", "New:post", "--resume", "--json")
    assert passed.returncode == 0
    assert [line["name"] for line in lines(passed)[:-1] if line["outcome"] == "changed"] == ["03.account"]
    (folder / "old" / "mail" / "04.account").write_text(DOCUMENT % "mine")
    (folder / "new" / "post" / "04.account").write_bytes((folder / "new" / "post" / "03.account").read_bytes())
    conflict = migrate("Old:mail", "New:post", "--resume")
    assert conflict.returncode == 3
    assert "conflict: Old:mail/04.account to New:post/04.account (both ends have changed" in conflict.stderr
    assert conflict.stderr.count(":") > 4  # with both times
    checked = migrate("verify", "Old:mail", "New:post")
    assert checked.returncode == 1
    assert "differs: Old:mail/04.account" in checked.stderr
    assert (
        "conflict: Old:mail/04.account to New:post/04.account (migrate --resume says why)"
        in migrate("report", "accountstore.journal").stderr
    )
    report = migrate("report", "accountstore.journal", "--json")
    assert report.returncode == 3
    assert [(line["name"], line["outcome"]) for line in lines(report)[:-1]] == [("04.account", "conflict")]
    assert migrate("Old:mail", "New:post", "--resume", "--lease", "0").returncode == 2
    mended = migrate(
        "Old:mail",
        "New:post",
        "--resume",
        "--lease",
        "5",
        "--on-conflict",
        "overwrite",
        "--names",
        "-",
        given=report.stdout,
    )
    assert mended.returncode == 0
    assert migrate("verify", "Old:mail", "New:post").returncode == 0


def test_shards_and_processes(migrate: Any, folder: Path) -> None:
    """Shards have a journal each, whose reports are one; `--processes` does the work in others."""
    for part in ("1/2", "2/2"):
        done = migrate("Old:mail", "New:post", "--shard", part, "--journal", f"j{part[0]}", "--processes", "2")
        assert done.returncode == 0, done.stderr
    report = migrate("report", "j1", "j2", "--json")
    assert report.returncode == 0
    assert lines(report)[-1]["totals"]["copied"]["documents"] == 20
    part = migrate("report", "j2")
    assert (part.returncode, "without the journals of shards 1" in part.stdout) == (1, True)
    assert len([*(folder / "new" / "post").iterdir()]) == 20


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["Old:mail"], 2, "TARGET"),
        (["Old:mail", "New:post", "--verify", "perhaps"], 2, "verify (--verify) must be one of"),
        (["Old:mail", "New:post", "--shard", "3"], 2, "2/8"),
        (["Old:mail", "New:post", "--shard", "3/2"], 2, "(--shard 1/n to n/n)"),
        (["Old:mail", "New:post", "--delete-source", "--verify", "none"], 2, "(--verify read or write)"),
        (["Old:mail", "New:../post"], 1, "a segment is '.' or '..'"),
        (["Old:mail", "Nowhere:post"], 1, "not configured"),
        (["Old:mail", "Old:mail"], 1, "one place"),
        (["New", "Old:mail"], 1, "no documents in 'New/'; the storage 'New' is 'New:'"),
        (["Old:mial", "New:post"], 1, "no documents in 'Old:mial/'"),
        (["plan", "Old:mial", "New:post"], 1, "no documents in 'Old:mial/'"),
        (["verify", "Old:mial", "New:post"], 1, "no documents in 'Old:mial/'"),
        (
            ["Old:mail", "Mem:", "--delete-source"],
            1,
            "Mem: is in the memory of this command alone",
        ),
        (["Old:mail", "New"], 1, "'New' is a storage: its root is 'New:', a folder of that name 'Old:New'"),
        (["Old:mail", "New:post", "--resume"], 1, "no journal"),
        (["Old:mail", "New:post", "--names", "nowhere"], 1, "No such file"),
        (["Old:mail", "New:post", "--names", "none"], 1, "none: is empty: is it the list"),
        (["plan", "Old:mail", "New:post", "--names", "-"], 1, "-: is empty: is it the list"),
        (
            ["Old:mail", "New:post", "--include", "mail/*"],
            1,
            "no document in 'Old:mail/' is chosen by include (--include) 'mail/*': ",
        ),
        (["verify", "Old:mail", "New:post", "--exclude", "*"], 1, "is chosen by exclude (--exclude) '*': "),
        (
            ["Old:mail", "New:post", "--names", "names", "--include", "z*"],
            1,
            "names: no name in it is chosen by --include 'z*'",
        ),
        (["report", "nowhere"], 1, "no journal"),
        (["report", "accountstore.toml"], 1, "accountstore.toml: is no journal"),
        (
            ["Old:mail", "New:post", "--requests-per-second", "inf"],
            2,
            "requests_per_second (--requests-per-second) must be",
        ),
        (["Old:mail", "New:post", "--on-conflict", "ignore"], 2, "on_conflict (--on-conflict) must be one of"),
        (["Old:mail", "New:post", "--concurrency", "20000"], 2, "concurrency (--concurrency) must be"),
        (["Old:mail", "New:post", "--lease", "-1"], 2, "lease (--lease) must be"),
        (["Old:mail", "Far:post"], 1, "writes='blind' (`migrate --blind`) does so"),
        (["plan", "Old:mail", "Far:post"], 1, "writes='blind' (`migrate --blind`) does so"),
        (["plan", "Old:mail", "Read:post"], 1, "storage 'Read' is opened read-only"),
        (["Read:mail", "New:post", "--delete-source", "--dry-run"], 1, "(--delete-source) would delete there"),
        (["Far:mail", "New:post", "--names", "names", "--delete-source"], 1, "delete_source (--delete-source) needs"),
        (["Old:mail", "Far:post", "--blind", "--mirror-deletes"], 1, "mirror_deletes (--mirror-deletes) needs"),
        (["Read:mail", "New:post", "--delete-source"], 1, "delete_source (--delete-source) would delete there"),
        (["Old:mail", "New:post", "--shard", f"1/{'9' * 5000}"], 2, "Invalid value"),
        (["Old:mail", "New:post", "--processes", "9999999999"], 2, "Invalid value"),
        (["Old:mail", "New:post", "--names", "old"], 1, "Is a directory"),
        (["Old:mail", "New:post", "--journal", "no/where"], 1, "cannot be opened"),
        (["Old:mail", "New:post", "--dask", "tcp://127.0.0.1:1"], 1, "accountstore: --dask "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said(migrate: Any, folder: Path, arguments: list[str], code: int, said: str) -> None:
    """Wrong usage exits with 2, what is refused with 1, with the reason on stderr, and what the option of the command
    line is called; nothing is copied.
    """
    with (folder / "accountstore.toml").open("a") as file:
        file.write('[storages.Far]\nurl = "ftp://127.0.0.1:1/x"\n[storages.Read]\nurl = "old"\nread_only = true\n')
    (folder / "names").write_text("00.account\n")
    (folder / "none").touch()
    done = migrate(*arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not [*folder.glob("*.journal*"), *folder.glob("data/**/*.key")]
    assert not [*folder.glob("new/**/*.account")]


@pytest.mark.parametrize("address", ["nonsense", "tls://127.0.0.1:1", "nothing://127.0.0.1:1"])
def test_a_scheduler_that_cannot_be_is_one_line(migrate: Any, address: str) -> None:
    """The error names the address, and Python warns of nothing besides."""
    pytest.importorskip("distributed")
    done = migrate("Old:mail", "New:post", "--dask", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"accountstore: --dask {address}: ")
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_no_scheduler_is_told(migrate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens and never answers is given up after the time that Dask gives a connection."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        done = migrate("Old:mail", "New:post", "--dask", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"accountstore: --dask {address}: ")
    assert done.stderr.count("\n") == 1


def test_a_certificate_for_dask_that_is_not_there_is_told(migrate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the option, and not as what was given to read."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__CA_FILE", "nowhere.pem")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT", "nowhere.pem")
    done = migrate("Old:mail", "New:post", "--dask", "tls://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("accountstore: --dask tls://127.0.0.1:1: ")


def test_a_folder_whose_name_is_not_utf_8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of JSON have it as an escape; processes, which cannot be told such a path, say so, and read a file."""
    show_line(Outcome(outcome="failed", name="a", source="Old:a", target="New:a", reason="w\udcff"))
    assert json.loads(capsys.readouterr().out)["reason"] == "w\udcff"
    within = os.path.join(os.fsencode(folder), b"w\xff")
    try:
        os.mkdir(within)
    except OSError:
        pytest.skip("the file system has UTF-8 alone")
    for name in (b"accountstore.toml", b"old"):
        os.rename(os.path.join(os.fsencode(folder), name), os.path.join(within, name))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND[:-1], *arguments],
            cwd=within, env=environment(folder), capture_output=True, text=True, timeout=HUNG, check=False,
        )  # fmt: skip

    assert os.fsencode(lines(run("storages", "--json"))[0]["url"]) == os.path.join(within, b"old")
    refused = run("migrate", "Old:mail", "New:post", "--processes", "2")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "a path of the configuration is not UTF-8" in refused.stderr
    done = run("--config", "accountstore.toml", "migrate", "Old:mail", "New:post", "--processes", "2", "--json")
    assert lines(done)[-1]["totals"]["copied"]["documents"] == 20


def test_a_list_of_names(tmp_path: Path) -> None:
    """A line is a name, whatever separators are in it but a line feed, or JSON as a run prints it; what is neither is
    told by the number of its line, as a line of `ls --json` is. A file of nothing is refused, but not the report of a
    run without problems, nor one that tells of the folder itself.
    """
    path = tmp_path / "names"
    plain = "\ufeffa.account\r\n\nu\u2028\x85\x0cb.account\n"
    path.write_bytes(plain.encode() + b'{"outcome":"copied","name":"{x}\\n.account"}\n{"totals":{}}')
    assert read_names(str(path)) == ("a.account", "u\u2028\x85\x0cb.account", "{x}\n.account")
    for report in (b'{"totals":{}}\n', b'{"outcome":"failed","name":"","source":"a:"}\n{"totals":{"failed":{}}}\n'):
        path.write_bytes(report)
        assert read_names(str(path)) == ()
    for nothing in (b"", b" \r\n\n", b"\xef\xbb\xbf\n"):
        path.write_bytes(nothing)
        with raises(ConfigError, "names: is empty"):
            read_names(str(path))
    for line in (
        b"\xff",
        b'{"name": ["a"]}',
        b'{"name":"\\ud800.account"}',
        b"{x}",
        b'{"name": 1}',
        b'{"location":"x"}',
    ):
        path.write_bytes(b"a.account\n" + line)
        with raises(ConfigError, "names, line 2: is neither a name nor a line of JSON"):
            read_names(str(path))


def test_help(migrate: Any) -> None:
    """Each command has a help, which names its options."""
    assert "accountstore migrate run --help" in migrate("--help").stdout
    for command, option in {"run": "--resume", "plan": "--json", "verify": "--spool", "report": "JOURNAL..."}.items():
        done = migrate(command, "--help")
        assert (done.returncode, option in done.stdout) == (0, True)


def on_a_terminal(folder: Path, *arguments: str, columns: str = "100") -> str:
    """What the command shows on a terminal of so many columns."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.environ.update(environment(folder), COLUMNS=columns, TERM="xterm")
        os.execv(COMMAND[0], [*COMMAND, *arguments])
    shown, end = b"", time.monotonic() + HUNG
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                more = os.read(terminal, 65536)
            except OSError:
                break
            if not more:
                break
            shown += more
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    return shown.decode()


def test_progress_on_a_terminal_and_in_a_pipe(migrate: Any, folder: Path) -> None:
    """A terminal shows a bar with count, rate, bytes, conflicts and errors, and each problem above it; a pipe has plain
    lines, without any control character. A terminal that does not say how wide it is shows the same.
    """
    (folder / "old" / "mail" / "broken.account").write_text("{")
    assert "refused: Old:mail/broken.account" in on_a_terminal(folder, "plan", "Old:mail", "New:post", columns="0")
    screen = on_a_terminal(folder, "Old:mail", "New:post")
    assert "\x1b[" in screen
    assert "21/" in screen
    for word in ("/s", "kB", "0 conflicts", "1 error", "refused: Old:mail/broken.account"):
        assert word in screen
    assert "\r\x1b[2Kaccountstore: refused: " in screen  # on a line of its own
    assert "canary" not in screen
    piped = migrate("Old:mail", "New:post", "--resume")
    assert piped.returncode == 1
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "refused: Old:mail/broken.account" in piped.stderr


def test_the_time_left_is_told_when_it_means_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in the first seconds, and not by a few documents; then by the rate of the whole run, however the documents
    come.
    """
    clock = Mock(return_value=0.0)
    monkeypatch.setattr("accountstore.cli.progress.time.monotonic", clock)
    progress = Progress(Mock(expected=1000), shown=True)
    told: list[str] = []
    for now, documents in ((1.0, 10), (20.0, 30), (40.0, 160)):
        clock.return_value = now
        for _ in range(documents):
            progress.add(Outcome(outcome="copied", name="a", source="a", target="b"))
        progress._update()  # pyright: ignore[reportPrivateUsage] -- whatever the time since the last
        told.append(capsys.readouterr().err.splitlines()[-1])
    assert [" left" in line for line in told] == [False, False, True]
    assert told[-1].endswith(", 0 conflicts, 0 errors, 0:02:40 left")


def test_the_bar_never_has_more_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what was left out of a listing comes on top, and when the run has let go of its numbers."""
    monkeypatch.setattr("sys.stderr", Mock(wraps=sys.stderr, isatty=lambda: True))
    run = Mock(expected=1)
    progress = Progress(run, shown=True)
    for run.expected in (1, 1, None):
        progress.add(Outcome(outcome="copied", name="a", source="a", target="b"))
        progress._update()  # pyright: ignore[reportPrivateUsage] -- whatever the time since the last
    [task] = vars(progress)["_bar"].tasks
    assert (task.completed, task.total) == (3, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="of its signals")
def test_interrupted_it_goes_on(migrate: Any, folder: Path) -> None:
    """Ctrl-C ends it with 130 and no traceback; --resume goes on."""
    for number in range(20, 2000):
        (folder / "old" / "mail" / f"{number:04}.account").write_text(DOCUMENT % "first")
    begun = subprocess.Popen(
        [*COMMAND, "Old:mail", "New:post", "--json"],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert begun.stdout is not None
    begun.stdout.readline()
    begun.send_signal(2)
    _, said = begun.communicate(timeout=HUNG)
    assert (begun.returncode, "Traceback" in said) in {(130, False), (0, False)}
    assert ("interrupted: the same command with --resume goes on" in said) is (begun.returncode == 130)
    done = migrate("Old:mail", "New:post", "--resume")
    assert done.returncode == 0
    assert len([*(folder / "new" / "post").iterdir()]) == 2000


def test_interrupted_before_its_journal_is_there_it_is_run_again(folder: Path) -> None:
    """Ctrl-C before there is a journal names no --resume, which would find no journal to go on with."""
    interrupted = """if True:
        from accountstore.cli import main, migrate
        def interrupt(*_): raise KeyboardInterrupt
        migrate.check_target = interrupt
        main()"""
    done = subprocess.run(
        [*PYTHON, "-c", interrupted, "migrate", "Old:mail", "New:post"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=HUNG, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (130, "accountstore: interrupted: run it again")
    assert not (folder / "accountstore.journal").exists()


def test_a_run_that_stops_says_how_to_go_on(folder: Path) -> None:
    """Where the target is full, --resume is told of as after Ctrl-C; not of what never began, or goes on already."""
    full = """if True:
        import errno, sys
        from accountstore.backends.local.syscalls import SystemCalls
        def no_space(*_): raise OSError(errno.ENOSPC, "No space left on device")
        SystemCalls.write = staticmethod(no_space)
        from accountstore.cli import main
        main()"""
    hint = "accountstore: the same command with --resume goes on"
    for arguments, hinted in ((["Old:mail", "Old:mail"], False), ([], True), (["--resume"], False)):
        places = [] if "Old:mail" in arguments else ["Old:mail", "New:post"]
        done = subprocess.run(
            [*PYTHON, "-c", full, "migrate", *places, *arguments],
            cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=HUNG, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        stopped = "the migration has stopped" in done.stderr
        assert (stopped, hint in done.stderr.splitlines()) == (bool(places), hinted), done.stderr
