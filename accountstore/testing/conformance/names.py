"""Names: each that a location allows is kept, and none is another."""

from __future__ import annotations

from accountstore.backends.base import Backend
from accountstore.location import Location
from accountstore.testing.conformance.harness import Harness, Suite, get, keys_of
from accountstore.validation import MAX_PATH, MAX_SEGMENT

__all__ = ("UnicodeTests",)

_STEMS = (
    "email",
    "Email",
    "with space",
    " space before",
    "space after ",
    "two  spaces",
    "per%cent",
    "%2F",
    "%2e%2e",
    "%25",
    "a+b",
    "a&b=c;d,e",
    "a@b!$^(1)",
    'it\'s "quoted" `here`',
    "a<b>c|d",
    ".hidden",
    "..two dots",
    "...",
    "~",
    "~root",
    "-rf",
    "--",
    "_",
    "\u00e9\u00e8",
    "stra\u00dfe",
    "\u65e5\u672c\u8a9e",
    "\u043f\u043e\u0447\u0442\u0430",
    "\U0001f510 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05d3\u05d5\u05d0\u05e8",
    "no\u00a0break",
    "NUL",
    "a" * (MAX_SEGMENT - len(".account")),
    "\u00e9" * ((MAX_SEGMENT - len(".account")) // 2),
    "\U0001f511" * ((MAX_SEGMENT - len(".account")) // 4),
)

_ALIKE = (
    "a.account",
    "A.account",
    "a .account",
    " a.account",
    "a%20.account",
    "a+.account",
    "a..account",
    ".a.account",
    "\u0430.account",  # Cyrillic
    "\uff41.account",  # full width
    "\u00e5.account",
    "a\u200b.account",  # with a space of no width
    "a.multi.account",
    "a/b.account",
    "a%2Fb.account",
    "a-b.account",
    "a/b/c.account",
    "ab/c.account",
    "a/bc.account",
)


class UnicodeTests(Suite):
    """The group `unicode`."""

    async def test_unicode_names_are_kept(self, harness: Harness, backend: Backend) -> None:
        """Every allowed name serves as folder and as file name: written, found under it in the storage, read, listed,
        deleted.
        """
        keys = [Location(f"{stem}.account", folder=stem).path for stem in _STEMS]
        wrong: dict[str, str] = {}
        for key in keys:
            await backend.write(key, key.encode(), mode="overwrite")
        for key, folder in zip(keys, _STEMS, strict=True):
            if await get(harness, key) != key.encode():
                wrong[key] = "not under its name in the storage"
            elif (await backend.read(key, limit=self.limit)).data != key.encode():
                wrong[key] = "read otherwise"
            elif await keys_of(backend, folder, recursive=False) != [key]:
                wrong[key] = "listed otherwise"
        assert not wrong
        assert await keys_of(backend, "", recursive=True) == sorted(keys)
        for key in keys:
            await backend.delete(key)
            if await get(harness, key) is not None:
                wrong[key] = "still there after delete"
        assert not wrong
        assert await keys_of(backend, "", recursive=True) == []

    async def test_unicode_names_that_look_alike_are_different(self, harness: Harness, backend: Backend) -> None:
        """Keys that differ only in case, spaces, escapes or script are different documents."""
        for key in _ALIKE:
            await backend.write(key, key.encode(), mode="overwrite")
        assert {key: await get(harness, key) for key in _ALIKE} == {key: key.encode() for key in _ALIKE}
        assert {key: (await backend.read(key, limit=self.limit)).data for key in _ALIKE} == {
            key: key.encode() for key in _ALIKE
        }
        await backend.delete(_ALIKE[0])
        assert await keys_of(backend, "", recursive=True) == sorted(_ALIKE[1:])

    async def test_unicode_longest_paths(self, harness: Harness, backend: Backend) -> None:
        """Paths of the greatest length that a location may have can be used, in letters of any width."""
        keys: list[str] = []
        for letter in ("a", "\u00e9", "\U0001f511"):
            width = len(letter.encode())
            folder = "/".join([letter * (MAX_SEGMENT // width)] * 3)
            left = min(MAX_SEGMENT, MAX_PATH - len(folder.encode()) - 1) - len(".account")
            location = Location(f"{letter * (left // width)}.account", folder=folder)
            keys.append(location.path)
            await backend.write(location.path, folder.encode(), mode="overwrite")
            assert await get(harness, location.path) == folder.encode()
            assert (await backend.read(location.path, limit=self.limit)).data == folder.encode()
            assert await keys_of(backend, folder, recursive=False) == [location.path]
        assert await keys_of(backend, "", recursive=True) == sorted(keys)
