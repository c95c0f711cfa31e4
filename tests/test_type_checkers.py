"""An application is typed by four type checkers alike: each finds its mistakes, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from running import HUNG

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
CHECKERS = {
    "mypy": ("--strict", "--python-executable", sys.executable, "--cache-dir", str(ROOT / ".mypy_cache")),
    "pyright": ("--project", ".", "--pythonpath", sys.executable),
    "pyrefly": ("check", "--config", "pyrefly.toml", "--output-format", "min-text"),
    "ty": ("check", "--python", sys.executable, "--output-format", "concise"),
}
SUPPRESSED = re.compile(r"  # (?:type|pyright): ignore\[[^\]]*\]")

pytestmark = pytest.mark.once


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A type checker that is installed, in an empty folder."""
    if not (SCRIPTS / request.param).exists():
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.chdir(tmp_path)
    # Without one it passes over files below a folder such as `.nox`.
    Path("pyrightconfig.json").write_text('{"include": ["*.py"], "exclude": []}')
    # With no configuration at all pyrefly looks for the worst mistakes only.
    Path("pyrefly.toml").write_text(f'python-interpreter-path = "{sys.executable}"\npreset = "default"\n')
    return str(request.param)


def errors(checker: str, *files: Path) -> dict[int, str]:
    """The lines with errors, and what is said of each."""
    command = [str(SCRIPTS / checker), *CHECKERS[checker]]
    if checker != "pyright":  # which has those of the folder
        command += map(str, files)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HUNG)
    found = re.findall(r"^(?=.*\berror\b)(.*\.py:(\d+)\b.*)$", done.stdout, re.MULTILINE | re.IGNORECASE)
    assert (done.returncode == 0) == (not found), done.stdout + done.stderr
    return {int(line): said for said, line in found}


def test_each_finds_every_mistake(checker: str, tmp_path: Path) -> None:
    """Each line of `typing_api.py` with a suppression is an error without it, and no other line is."""
    text = (ROOT / "tests" / "typing_api.py").read_text()
    mistakes = {number for number, line in enumerate(text.splitlines(), 1) if SUPPRESSED.search(line)}
    copy = tmp_path / "typing_api.py"
    copy.write_text(SUPPRESSED.sub("", text))
    assert len(mistakes) >= 19
    assert errors(checker, copy).keys() == mistakes


@pytest.mark.parametrize("checker", ["pyrefly", "ty"], indirect=True)
def test_the_examples_have_none(checker: str) -> None:
    """The examples of the documentation have no error, as they have none for mypy and pyright, which read all files;
    but for those whose packages have no types.
    """
    untyped = {"celery_worker.py", "django_view.py", "gateway_client.py"}
    files = sorted((ROOT / "docs" / "examples").glob("*.py"))
    assert len(files) > 8
    assert errors(checker, *(file for file in files if file.name not in untyped)) == {}
