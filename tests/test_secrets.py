"""Secrets in the hands of printers and serializers: what a test of leaks in the store does not meet."""

from __future__ import annotations

import re
import subprocess
from types import SimpleNamespace

import pytest

pytest.importorskip("rich")

from rich.console import Console
from rich.pretty import pretty_repr
from running import PYTHON

from accountstore import PasswordCredentials, Secret, Version

TEXT = "canary-0b7e"
MASKED = "Secret('**********')"


def test_rich_shows_the_mask_and_nothing_else() -> None:
    """A secret that rich prints, by itself or inside something, is its mask, as in `repr`."""
    secret = Secret(TEXT)
    assert [*secret.__rich_repr__()] == ["**********"]
    assert pretty_repr(secret) == MASKED == repr(secret)
    assert pretty_repr({"password": [secret]}) == f"{{'password': [{MASKED}]}}"
    assert MASKED in pretty_repr(PasswordCredentials(login="me", password=TEXT))
    console = Console(width=80)
    with console.capture() as shown:
        console.print([secret])
    assert shown.get() == f"[{MASKED}]\n"
    # The control: rich shows what a class that does not hide it holds.
    assert TEXT in pretty_repr(SimpleNamespace(password=TEXT))


def test_a_secret_gives_its_state_to_nobody() -> None:
    """A serializer beside pickle asks an object for its state by itself: it is refused."""
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        Secret(TEXT).__getstate__()
    assert TEXT not in str(caught.value)


def test_a_version_shows_as_a_text_of_its_own() -> None:
    """`str(version)` tells versions apart, is the same for equal ones, and is no token; nor does it show one."""
    versions = [Version(f"sha256:{number}") for number in range(100)]
    shown = {str(version) for version in versions}
    assert len(shown) == 100
    assert f"{Version('sha256:5')}" == str(versions[5]) in shown
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in shown)
    assert Version(str(versions[5])) != versions[5]
    assert repr(versions[5]) == "Version(...)"
    assert str(Version("\ud800"))  # whatever a backend's token is


def test_another_process_shows_another_text() -> None:
    """The text is keyed by the process, so that nobody can test guesses of a document against it. Control: the token of
    a local version is the same everywhere.
    """
    code = "from accountstore.backends.base import digest; v = digest(b'x'); print(v, v.token)"
    shown = [
        subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split() for _ in "ab"
    ]
    assert shown[0][0] != shown[1][0]
    assert shown[0][1] == shown[1][1]
