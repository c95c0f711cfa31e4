"""How tests start programs: on the package that they test themselves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from running import HUNG, PYTHON

import accountstore

HERE = Path(__file__).parent


@pytest.mark.parametrize("control", [False, True], ids=["as the tests", "control"])
def test_programs_import_the_package_under_test(control: bool, tmp_path: Path) -> None:
    """A program that a test starts imports the very package that the test imports, also in a folder that has another of
    that name. The control: one that is started plainly imports the folder's.
    """
    (tmp_path / "accountstore.py").write_text("")
    command = [*(PYTHON[:1] if control else PYTHON), "-c", "import accountstore; print(accountstore.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=HUNG)
    assert done.stdout.strip() == (str(tmp_path / "accountstore.py") if control else accountstore.__file__)


def test_tests_start_programs_in_no_other_way() -> None:
    """No test starts the interpreter but through `PYTHON`, or isolated."""
    started = re.compile(r'\[sys\.executable, (?!"-I")')
    assert [path.name for path in sorted(HERE.rglob("test_*.py")) if started.search(path.read_text("utf-8"))] == []
