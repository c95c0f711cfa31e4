"""The shared checks: names, folders, sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountstore import Location, LocationError, TooLargeError
from accountstore.validation import (
    MAX_PATH,
    MAX_SEGMENT,
    RESERVED_PREFIX,
    check_file_name,
    check_folder,
    check_size,
    check_storage_name,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


CHECKS: Mapping[str, Callable[[str], object]] = {
    "file": check_file_name,
    "folder": check_folder,
    "storage": check_storage_name,
    "last": lambda text: check_folder(f"before/{text}"),
    "first": lambda text: check_folder(f"{text}/after"),
    "as file": Location,
    "as folder": lambda text: Location("x.account", folder=text),
    "as storage": lambda text: Location("x.account", storage=text),
}
each_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


@each_check
@pytest.mark.parametrize(
    "text",
    [
        *("a", "First Storage", "team-a_1.old", "...", ".hidden", "a.", " a ", "~", "~root", "%2e%2e", "$HOME"),
        *("a'b\"c`d", "a@b", "a&b=c+d,e;f!g^h|i<j>k", "(a)", "NUL", "CON.account.old", "accountstore-1"),
        *("\u00e9", "\u6771\u4eac", "\U0001f4e7", "\u0915\u094d\u0937", "\u200d", "\ufeff", "\u202e"),
        *("a" * MAX_SEGMENT, "\u00e9" * 127, "\U0001f4e7" * 63),
    ],
)
def test_names_that_are_allowed(check: Callable[[str], object], text: str) -> None:
    """The same names are allowed for files, folders and storages."""
    check(text)
    assert Location(text, folder=text, storage=text).path == f"{text}/{text}"


@each_check
@pytest.mark.parametrize(
    "text",
    [
        *(".", ".."),
        *("a\\b", "\\", "C:", "C:\\a", "a:b", "file:", "a\0b", "a\nb", "\t", "\x1b[0m", "\x7f", "\x80", "\x9f", "\x85"),
        *("*", "a?", "[a", "a]", "{a", "a}", "a#1", "a#", "\u2028", "\u2029", "\ud800", "a\udfffb"),
        *("e\u0301", "\u212b", "\u1100\u1161", "\u0344"),
        *("a" * (MAX_SEGMENT + 1), "\u00e9" * 128, "\U0001f4e7" * 64),
        *(RESERVED_PREFIX, f"{RESERVED_PREFIX}0123.tmp", f"{RESERVED_PREFIX}x.account"),
    ],
)
def test_names_that_are_refused(check: Callable[[str], object], text: str) -> None:
    """The same names are refused for files, folders and storages, and no message quotes them."""
    with pytest.raises(LocationError) as raised:
        check(text)
    own = text.removeprefix(RESERVED_PREFIX)
    assert len(own) < 4 or own not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [("a:b", "':'"), ("a\\b", "'\\'"), ("a#1", "'#'"), ("a\nb", "U+000A"), ("a\u2028", "U+2028"), ("\ud800", "U+D800")],
)
def test_the_character_that_no_name_has_is_told(text: str, named: str) -> None:
    """A name is refused for a character by that one, or by its code where it does not show."""
    with pytest.raises(LocationError) as raised:
        check_file_name(text)
    assert str(raised.value).startswith(f"file name: has {named}: no separator, ")


@pytest.mark.parametrize("check", [check_file_name, check_storage_name])
@pytest.mark.parametrize("text", ["", "/", "a/b", "/a", "a/"])
def test_names_of_files_and_storages_are_one_segment(check: Callable[[str], object], text: str) -> None:
    """A file or storage name is neither empty nor has a slash."""
    with pytest.raises(LocationError):
        check(text)


@pytest.mark.parametrize("folder", ["", "a", "a/b", "a/b/c/d/e"])
def test_folders_that_are_allowed(folder: str) -> None:
    """A folder is empty, the root, or segments joined by slashes."""
    check_folder(folder)
    assert Location("x.account", folder=folder).folder == folder


@pytest.mark.parametrize("folder", ["/", "/a", "a/", "a//b", "//", "./a", "a/.", "a/../b", "..", "../..", "a/b:c"])
def test_folders_that_are_refused(folder: str) -> None:
    """No folder begins or ends with a slash, has an empty segment, or leads upwards."""
    with pytest.raises(LocationError):
        check_folder(folder)


@pytest.mark.parametrize("segment", ["x.account", ".account", "x.multi.account", ".multi.account"])
def test_no_folder_stands_in_a_documents_place(segment: str) -> None:
    """A folder name that ends as a document's does is refused; a storage or file of that name is not."""
    for folder in (segment, f"a/{segment}", f"{segment}/a"):
        with pytest.raises(LocationError):
            check_folder(folder)
    check_folder(segment + ".d")
    check_storage_name(segment)
    check_file_name(segment)


@pytest.mark.parametrize(
    "segments", [["a" * 200] * 5, ["\u00e9" * 100] * 5, ["\U0001f4e7" * 63] * 4], ids=["ASCII", "wide", "wider"]
)
def test_folder_and_file_name_are_bounded_together(segments: list[str]) -> None:
    """Folder, slash and file name have at most 1,024 bytes of UTF-8."""
    folder = "/".join(segments)
    room = MAX_PATH - len(folder.encode()) - 1
    assert len(Location("n" * room, folder=folder).path.encode()) == MAX_PATH
    with pytest.raises(LocationError, match="1024 bytes"):
        Location("n" * (room + 1), folder=folder)


@given(text=st.text(max_size=20))
def test_the_rule_is_one_for_files_folders_and_storages(text: str) -> None:
    """What is refused for one is refused for all, but for slashes, emptiness and `.account` of folders."""

    def allowed(check: Callable[[str], object]) -> bool:
        try:
            check(text)
        except LocationError:
            return False
        return True

    file, folder, storage = map(allowed, (check_file_name, check_folder, check_storage_name))
    assert file == storage
    if text and "/" not in text and not text.endswith(".account"):
        assert folder == file
    if file:
        assert normalize("NFC", text) == text
        assert text.isprintable() or not any(ord(character) < 0x20 for character in text)


def test_sizes() -> None:
    """A document may have as many bytes as the limit says, and not one more."""
    check_size(10, 10)
    check_size(0, 0)
    with pytest.raises(TooLargeError, match="11 bytes, more than the 10"):
        check_size(11, 10)


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("jsn", ["json", "msgpack"], "; did you mean 'json'?"),
        ("zzz", ["json", "ab"], "; known: ab, json"),
        ("z", [], ""),
    ],
)
def test_near_misses(word: str, known: list[str], said: str) -> None:
    """A message about an unknown word ends with the nearest known one, or with all."""
    assert did_you_mean(word, known) == said
