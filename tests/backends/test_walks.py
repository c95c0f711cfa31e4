"""A walk through folders on a server that does not tell links: those to a folder above do not make it endless."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from accountstore.backends.base import BackendError
from accountstore.backends.fsspec import FsspecBackend

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


class _Folders(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Has in each folder what a function of its path says; and counts what it is asked for."""

    cachable = False

    def __init__(self, shown: Callable[[str], list[str]], unique: bool) -> None:
        super().__init__()
        self.asked = list[str]()
        self._shown = shown
        self._unique = unique

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[dict[str, Any]]:
        self.asked.append(path.strip("/"))
        return [self._entry(f"{path.rstrip('/')}/{name}") for name in self._shown(path.strip("/"))]

    def _entry(self, path: str) -> dict[str, Any]:
        kind = "directory" if path.endswith("/") else "file"
        return {"name": path, "type": kind, "size": 1} | ({"unique": path} if self._unique else {})


async def _walk(shown: Callable[[str], list[str]], *, unique: bool = False) -> tuple[list[str], list[str], list[str]]:
    """The files that a walk finds, the folders that it tells of, and those that it asks for."""
    backend = FsspecBackend(partial(_Folders, shown, unique), "/", parallel=False)
    fs: Any = (await backend.filesystem())[0]
    try:
        found = [stat async for page in backend.scan("", recursive=True) for stat in page]
    finally:
        await backend.aclose()
    return [stat.key for stat in found if not stat.instead], [stat.key for stat in found if stat.instead], fs.asked


@pytest.mark.parametrize("links", [["up/", "up2/"], ["self/", "mail/"], [f"{'long' * 12}{n}/" for n in range(3)]])
async def test_a_walk_that_goes_round_in_a_circle_is_an_error(links: list[str]) -> None:
    """Where several folders of a folder show the folder itself, there are more paths than can be walked."""
    with pytest.raises(BackendError, match="goes round in a circle"):
        await _walk(lambda _: [*links, "a.account"])


async def test_a_link_to_its_own_folder_is_followed_as_far_as_a_location_may_be_long() -> None:
    """The walk ends, and tells of the folder that it does not enter: no document in it has a location."""
    found, told, asked = await _walk(lambda _: ["self/", "a.account"])
    assert len(found) == len(asked) == len({*found})
    assert [len(key.encode()) for key in told] == [1025]
    assert max(len(folder) for folder in asked) == 1019


def _nested(path: str) -> list[str]:
    return ["d/", "e/", "f/"] if path.count("d") < 400 and not path.endswith(("e", "f")) else ["a.account"]


def _spread(path: str) -> list[str]:
    return ["a.account"] if path.count("/") == 2 else [f"{n:x}/" for n in range(12)]


def _same(path: str) -> list[str]:
    return ["a.account"] if path.count("/") == 99 else ["m/"]


def _deep(path: str) -> list[str]:
    """Many deep trees whose folders all have two in them, but for those at the end."""
    if path.count("d") < 30 and not path.endswith("e"):
        return ["d/", "e/"] if path else [f"{n}/" for n in range(52)]
    return ["a.account"]


@pytest.mark.parametrize(
    ("shown", "unique", "files"),
    [(_nested, False, 801), (_spread, False, 12**3), (_same, False, 1), (_deep, True, 52 * 31)],
    ids=["nested", "spread", "a single folder in each", "told apart by the server"],
)
async def test_control_many_folders_that_look_alike_are_walked(
    shown: Callable[[str], list[str]], unique: bool, files: int
) -> None:
    """Folders that show the same as those above them are no circle, however deep or many they are."""
    found, told, _ = await _walk(shown, unique=unique)
    assert (len(found), told) == (files, [])
