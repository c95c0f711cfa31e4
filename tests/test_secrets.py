"""Secrets in the hands of printers and serializers: what a test of leaks in the store does not meet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("rich")

from rich.console import Console
from rich.pretty import pretty_repr

from accountstore import PasswordCredentials, Secret

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
