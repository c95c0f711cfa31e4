"""The shared checks: names, folders, extensions, sizes, nesting, duplicate keys."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountstore import DecodeError, ExtensionError, Location, LocationError, TooLargeError
from accountstore.validation import (
    MAX_DEPTH,
    MAX_PATH,
    MAX_SEGMENT,
    RESERVED_PREFIX,
    check_file_name,
    check_folder,
    check_json,
    check_kind,
    check_msgpack,
    check_path,
    check_size,
    check_storage,
    did_you_mean,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _last(text: str) -> None:
    check_folder(f"before/{text}")


def _first(text: str) -> None:
    check_folder(f"{text}/after")


def _as_file(text: str) -> None:
    Location(text)


def _as_folder(text: str) -> None:
    Location("x.account", folder=text)


def _as_storage(text: str) -> None:
    Location("x.account", storage=text)


SEGMENT_CHECKS = pytest.mark.parametrize(
    "check",
    [check_file_name, check_folder, check_storage, _last, _first, _as_file, _as_folder, _as_storage],
    ids=["file", "folder", "storage", "last", "first", "as file", "as folder", "as storage"],
)


@SEGMENT_CHECKS
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "First Storage",
        "team-a_1.old",
        "...",
        ".hidden",
        "a.",
        " a ",
        "~",
        "~root",
        "%2e%2e",
        "$HOME",
        "a'b\"c`d",
        "a@b",
        "a&b=c+d,e;f!g^h|i<j>k",
        "(a)",
        "NUL",
        "CON.account.old",
        "\u00e9",
        "\u6771\u4eac",
        "\U0001f4e7",
        "\u0915\u094d\u0937",
        "\u200d",
        "\ufeff",
        "\u202e",
        "a" * MAX_SEGMENT,
        "\u00e9" * 127,
        "\U0001f4e7" * 63,
        "accountstore-1",
    ],
)
def test_names_that_are_allowed(check: Callable[[str], object], text: str) -> None:
    """The same names are allowed for files, folders and storages."""
    check(text)
    assert Location(text, folder=text, storage=text).path == f"{text}/{text}"


@SEGMENT_CHECKS
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


@pytest.mark.parametrize("check", [check_file_name, check_storage])
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
    check_storage(segment)
    check_file_name(segment)


def test_folder_and_file_name_are_bounded_together() -> None:
    """Folder, slash and file name have at most 1,024 bytes of UTF-8."""
    segment = "a" * 200
    folder = "/".join([segment] * 5)
    room = MAX_PATH - len(folder) - 1
    assert len(Location("n" * room, folder=folder).path) == MAX_PATH
    with pytest.raises(LocationError, match="1024 bytes"):
        Location("n" * (room + 1), folder=folder)
    wide = "\u00e9" * 100
    folder = "/".join([wide] * 5)
    Location("n" * (MAX_PATH - len(folder.encode()) - 1), folder=folder)
    with pytest.raises(LocationError, match="1024 bytes"):
        check_path(folder, "n" * (MAX_PATH - len(folder.encode())))
    tall = "/".join(["\U0001f4e7" * 63] * 4)
    with pytest.raises(LocationError, match="1024 bytes"):
        check_path(tall, "nnnnnnnnnnnnnnnnn")


@given(text=st.text(max_size=20))
def test_the_rule_is_one_for_files_folders_and_storages(text: str) -> None:
    """What is refused for one is refused for all, but for slashes, emptiness and `.account` of folders."""

    def allowed(check: Callable[[str], object]) -> bool:
        try:
            check(text)
        except LocationError:
            return False
        return True

    file, folder, storage = map(allowed, (check_file_name, check_folder, check_storage))
    assert file == storage
    if text and "/" not in text and not text.endswith(".account"):
        assert folder == file
    if file:
        assert normalize("NFC", text) == text
        assert text.isprintable() or not any(ord(character) < 0x20 for character in text)


# --- extensions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.account", "account"),
        ("x.multi.account", "multi"),
        ("x.y.account", "account"),
        ("multi.account", "account"),
        ("xmulti.account", "account"),
        ("x.multi.multi.account", "multi"),
        ("x.account.account", "account"),
        ("x.account.multi.account", "multi"),
        ("..account", "account"),
        ("..multi.account", "multi"),
        ("x.Multi.account", "account"),
        ("\u00e9.account", "account"),
        (".account", None),
        (".multi.account", None),
        ("x.Account", None),
        ("x.ACCOUNT", None),
        ("x.multi.Account", None),
        ("x.account.txt", None),
        ("x.account ", None),
        ("x.account.", None),
        ("x", None),
        ("account", None),
        ("xaccount", None),
        ("x.multi", None),
        ("x.accounts", None),
        ("", None),
    ],
)
def test_kinds_by_file_name(name: str, kind: str | None) -> None:
    """The extension, in this letter case and with a name before it, says which document a file holds."""
    if kind is None:
        for call in (lambda: kind_of(name), lambda: check_kind(name, "account"), lambda: check_kind(name, "multi")):
            with pytest.raises(ExtensionError):
                call()
        return
    assert kind_of(name) == kind
    check_kind(name, kind_of(name))
    with pytest.raises(ExtensionError):
        check_kind(name, "multi" if kind == "account" else "account")


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
        ("zzz", ["json", "msgpack"], "; known: json, msgpack"),
        ("zzz", [], ""),
    ],
)
def test_near_misses(word: str, known: list[str], said: str) -> None:
    """A message about an unknown word ends with the nearest known one, or with all."""
    assert did_you_mean(word, known) == said


# --- documents as bytes --------------------------------------------------------------------------------------------


def nested(depth: int, kind: str) -> Any:
    """A tree of so many containers inside one another."""
    tree: Any = 1
    for level in range(depth):
        tree = [tree] if kind == "lists" or (kind == "both" and level % 2) else {"a": tree}
    return tree


@pytest.mark.parametrize("kind", ["lists", "objects", "both"])
def test_nesting_is_bounded(kind: str) -> None:
    """32 containers inside one another are allowed, 33 are not, in either format."""
    check_json(json.dumps(nested(MAX_DEPTH, kind)).encode())
    check_msgpack(msgspec.msgpack.encode(nested(MAX_DEPTH, kind)))
    with pytest.raises(DecodeError, match="deeper than 32"):
        check_json(json.dumps(nested(MAX_DEPTH + 1, kind)).encode())
    with pytest.raises(DecodeError, match="deeper than 32"):
        check_msgpack(msgspec.msgpack.encode(nested(MAX_DEPTH + 1, kind)))


def test_nesting_is_counted_not_brackets() -> None:
    """Many containers beside one another, and brackets in strings, are no nesting."""
    check_json(json.dumps([[] for _ in range(1000)]).encode())
    check_json(json.dumps({"a": "[{" * 1000, "b": '\\"[[[' * 100, "c\\": "]]" * 50}).encode())
    check_msgpack(msgspec.msgpack.encode([[{}] for _ in range(1000)]))
    check_json(json.dumps([["[" * 40]] * 40 + [{'"\\': "\\"}] * 40).encode())


@pytest.mark.parametrize("size", [1000, 100_000])
def test_hostile_nesting_ends_in_an_error(size: int) -> None:
    """Nesting as deep as a document may be large is a DecodeError: no RecursionError, no crash."""
    for data in (b"[" * size, b'{"a":' * size, b"[" * size + b"]" * size):
        with pytest.raises(DecodeError):
            check_json(data)
    for data in (b"\x91" * size, b"\x81\xa1a" * size, b"\xdd\xff\xff\xff\xff" * size, b"\xdf\xff\xff\xff\xff" * size):
        with pytest.raises(DecodeError):
            check_msgpack(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": 1, "b": 2, "a": 3}',
        '{"a": 1, "\\u0061": 2}',
        '{"\\u0061": 1, "\\u0061": 2}',
        '{"x": {"a": 1, "a": 2}}',
        '[[{"x": [{"a": 1, "a": 2}]}]]',
        '{"": 1, "": 2}',
        '{"\\ud83d\\udce7": 1, "\U0001f4e7": 2}',
        '{"a": {}, "a": {}}',
        '{"a\\/": 1, "a/": 2}',
    ],
)
def test_json_with_a_key_twice_is_refused(text: str) -> None:
    """A key that stands twice in one object, however it is spelled and however deep, is refused."""
    with pytest.raises(DecodeError, match="same key twice"):
        check_json(text.encode())


@pytest.mark.parametrize(
    "text", ['{"a": {"a": {"a": 1}}}', '[{"a": 1}, {"a": 1}]', '{"a": 1, "A": 2, "\\u00e1": 3, "a\\u0301": 4, "a ": 5}']
)
def test_json_with_different_keys_is_accepted(text: str) -> None:
    """The same key in two objects, and keys that only look alike, are no duplicates."""
    check_json(text.encode())
    assert isinstance(json.loads(text), (dict, list))


A, AA, B8, B16, B32 = b"\xa1a", b"\xd9\x01a", b"\xd9\x01b", b"\xda\x00\x01b", b"\xdb\x00\x00\x00\x01b"


@pytest.mark.parametrize(
    "data",
    [
        b"\x82" + A + b"\x01" + A + b"\x02",
        b"\x82" + A + b"\x01" + AA + b"\x02",
        b"\x82" + B8 + b"\x01" + B16 + b"\x02",
        b"\x82" + B16 + b"\x01" + B32 + b"\x02",
        b"\xde\x00\x02" + A + b"\x01" + A + b"\x02",
        b"\xdf\x00\x00\x00\x02" + A + b"\x01" + A + b"\x02",
        b"\x81" + A + b"\x82" + A + b"\x01" + A + b"\x02",
        b"\x92\x01\x91\x82" + A + b"\x80" + A + b"\x90",
        b"\x83" + A + b"\x82\xa1x\x01\xa1y\x02" + b"\xa1b\x01" + A + b"\x02",
        b"\x82\xa0\x01\xa0\x02",
        b"\x82\x01\xa1a\x01\xa1b",
    ],
)
def test_msgpack_with_a_key_twice_is_refused(data: bytes) -> None:
    """A key that stands twice in one map, in whichever of the format's spellings and however deep, is refused."""
    with pytest.raises(DecodeError, match="same key twice"):
        check_msgpack(data)


def test_control_msgspec_takes_duplicate_keys() -> None:
    """Without the checks, the last of two equal keys would win in silence."""
    assert msgspec.json.decode(b'{"a": 1, "\\u0061": 2}') == {"a": 2}
    assert msgspec.msgpack.decode(b"\x82" + A + b"\x01" + AA + b"\x02") == {"a": 2}


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=70)
    | st.binary(max_size=70)
    | st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=20))
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=30,
)


@settings(max_examples=200)
@given(tree=TREES, depth=st.integers(0, 8))
def test_any_msgpack_that_msgspec_writes_passes(tree: Any, depth: int) -> None:
    """The walker follows every form that an encoder writes to its end: it refuses none and finds what comes after."""
    for _ in range(depth):
        tree = {"a": [tree]}
    data = msgspec.msgpack.encode(tree)
    check_msgpack(data)
    # That it found the end shows in what it says of a duplicate key that follows.
    with pytest.raises(DecodeError, match="same key twice"):
        check_msgpack(b"\x83\xa1x" + data + b"\xa1y\x01\xa1x\x02")


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_long_strings_and_containers_are_walked(size: int) -> None:
    """The walker reads every width of a length."""
    for tree in ("s" * size, b"b" * size, [1] * size, {str(number): None for number in range(size)}):
        data = msgspec.msgpack.encode(tree)
        check_msgpack(data)
        with pytest.raises(DecodeError, match="same key twice"):
            check_msgpack(b"\x82\xa1x" + data + b"\xa1x\x02")


@settings(max_examples=200)
@given(data=st.binary(max_size=40))
def test_any_bytes_pass_or_are_a_decode_error(data: bytes) -> None:
    """No bytes make a check raise anything else."""
    for check in (check_json, check_msgpack):
        try:
            check(data)
        except DecodeError as error:
            assert error.field == "$"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{}{}", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'"\n"', "not valid JSON"),
    ],
)
def test_json_that_is_none(data: bytes, said: str) -> None:
    """Bytes that are not UTF-8, or text that is not JSON, are told apart."""
    with pytest.raises(DecodeError, match=said):
        check_json(data)


class _CountingBytes(bytes):
    """Bytes that count how often they are read from."""

    reads = 0

    def __getitem__(self, at: Any, /) -> Any:
        type(self).reads += 1
        return super().__getitem__(at)


@pytest.mark.parametrize(
    "piece",
    [
        b"\x90",
        b"\x80",
        b"\xc0",
        b"\xa0",
        b"\xdc\xff\xff",
        b"\xdd\x00\x00\x00\x01",
        b"\xdf\x7f\xff\xff\xff",
        b"\x91",
        b"\x81\xa1a",
        b"\xd9\x01a",
    ],
)
def test_the_walk_is_linear(piece: bytes) -> None:
    """Ten times the bytes cost at most about ten times the reads, whatever counts the bytes claim."""

    def reads(size: int) -> int:
        _CountingBytes.reads = 0
        data = _CountingBytes(b"\xdd\xff\xff\xff\xff" + piece * size)
        with suppress(DecodeError):
            check_msgpack(data)
        return _CountingBytes.reads

    assert 0 < reads(10_000) <= 11 * reads(1000)
