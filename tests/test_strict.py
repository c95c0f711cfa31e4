"""Strictness: duplicate keys, text that is not UTF-8, and nesting, in JSON and MessagePack."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from doubles import raises
from hypothesis import given, settings
from hypothesis import strategies as st

from accountstore import Account, ConfigError, DecodeError
from accountstore.codecs import CODECS, JSON, find_codec
from accountstore.strict import MAX_DEPTH, check_json, check_msgpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHECKS = {"json": check_json, "msgpack": check_msgpack}


def nested(depth: int, kind: str) -> Any:
    """A tree of so many containers inside one another."""
    tree: Any = 1
    for level in range(depth):
        tree = [tree] if kind == "lists" or (kind == "both" and level % 2) else {"a": tree}
    return tree


@pytest.mark.parametrize("kind", ["lists", "objects", "both"])
def test_nesting_is_bounded(kind: str) -> None:
    """32 containers inside one another are allowed, 33 are not, in either format."""
    for check, encode in ((check_json, msgspec.json.encode), (check_msgpack, msgspec.msgpack.encode)):
        check(encode(nested(MAX_DEPTH, kind)))
        with pytest.raises(DecodeError, match="deeper than 32"):
            check(encode(nested(MAX_DEPTH + 1, kind)))


def test_nesting_is_counted_not_brackets() -> None:
    """Many containers beside one another, and brackets in strings, are no nesting."""
    check_json(json.dumps([[] for _ in range(1000)]).encode())
    check_json(json.dumps({"a": "[{" * 1000, "b": '\\"[[[' * 100, "c\\": "]]" * 50}).encode())
    check_msgpack(msgspec.msgpack.encode([[{}] for _ in range(1000)]))
    check_json(json.dumps([["[" * 40]] * 40 + [{'"\\': "\\"}] * 40).encode())


@pytest.mark.parametrize("size", [1000, 100_000])
def test_hostile_nesting_ends_in_an_error(size: int) -> None:
    """Nesting as deep as a document may be large is a DecodeError: no RecursionError, no crash."""
    for check, *texts in (
        (check_json, b"[" * size, b'{"a":' * size, b"[" * size + b"]" * size),
        (check_msgpack, b"\x91" * size, b"\x81\xa1a" * size, b"\xdd\xff\xff\xff\xff" * size),
        (check_msgpack, b"\xdf\xff\xff\xff\xff" * size),
    ):
        for data in texts:
            with pytest.raises(DecodeError):
                check(data)


A, AA, B8, B16, B32 = b"\xa1a", b"\xd9\x01a", b"\xd9\x01b", b"\xda\x00\x01b", b"\xdb\x00\x00\x00\x01b"

REFUSED: Mapping[tuple[str, str], Sequence[bytes]] = {
    ("json", "is not UTF-8"): [b"\xff", b'"\xed\xa0\x80"', '{"a": 1}'.encode("utf-16-le") + b"\xff"],
    ("json", "is UTF-16 with a byte order mark: save it as UTF-8"): [
        *(mark + '{"a": 1}'.encode(name) for mark, name in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")))
    ],
    ("json", "is not valid JSON"): [b"", b"{", b"{}{}", b"{'a': 1}", b'{"a": 1,}', b'"\n"'],
    ("json", "an object has the same key twice"): [
        *(b'{"a": 1, "a": 1}', b'{"a": 1, "b": 2, "a": 3}', b'{"a": 1, "\\u0061": 2}', b'{"\\u0061": 1, "\\u0061": 2}'),
        *(b'{"x": {"a": 1, "a": 2}}', b'[[{"x": [{"a": 1, "a": 2}]}]]', b'{"": 1, "": 2}', b'{"a": {}, "a": {}}'),
        *('{"\\ud83d\\udce7": 1, "\U0001f4e7": 2}'.encode(), b'{"a\\/": 1, "a/": 2}'),
    ],
    # Cut short or going on, text that is not UTF-8, keys that are containers.
    ("msgpack", "is not valid MessagePack"): [
        *(b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\xa1\xff", b"\x81\x90\x01", b"\x81\x80\x01", b"\xc7\x05\x01x")
    ],
    # In whichever of the format's spellings and however deep; so are 1, true and 1.0, one key in Python and in JSON.
    ("msgpack", "an object has the same key twice"): [
        *(b"\x82" + first + b"\x01" + second + b"\x02" for first, second in ((A, A), (A, AA), (B8, B16), (B16, B32))),
        *(start + A + b"\x01" + A + b"\x02" for start in (b"\xde\x00\x02", b"\xdf\x00\x00\x00\x02")),
        b"\x81" + A + b"\x82" + A + b"\x01" + A + b"\x02",
        b"\x92\x01\x91\x82" + A + b"\x80" + A + b"\x90",
        b"\x83" + A + b"\x82\xa1x\x01\xa1y\x02" + b"\xa1b\x01" + A + b"\x02",
        *(b"\x82\xa0\x01\xa0\x02", b"\x82\x01\xa1a\x01\xa1b", b"\x82\x01\xa1a\xc3\xa1b"),
        b"\x82\x01\xa1a\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xa1b",
        # Times that differ by a nanosecond, which become one time.
        b"\x82" + b"".join(b"\xd7\xff" + (nanoseconds << 34).to_bytes(8) + b"\x01" for nanoseconds in (1, 2)),
    ],
}


@pytest.mark.parametrize(
    ("codec", "said", "data"), [(*case, data) for case, texts in REFUSED.items() for data in texts]
)
def test_what_would_lose_data_is_refused(codec: str, said: str, data: bytes) -> None:
    """Bytes that are not quite the format, or have a key twice, are refused by check and codec in the same words."""
    with raises(DecodeError, field="$", message=said):
        CHECKS[codec](data)
    with raises(DecodeError, field="$", message=said, __cause__=None):
        CODECS[codec].decode(data, Account)


@pytest.mark.parametrize(
    "text", ['{"a": {"a": {"a": 1}}}', '[{"a": 1}, {"a": 1}]', '{"a": 1, "A": 2, "\\u00e1": 3, "a\\u0301": 4, "a ": 5}']
)
def test_json_with_different_keys_is_accepted(text: str) -> None:
    """The same key in two objects, and keys that only look alike, are no duplicates."""
    check_json(text.encode())
    assert isinstance(json.loads(text), (dict, list))


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


@settings(max_examples=100)
@given(tree=TREES, depth=st.integers(0, 8))
def test_any_msgpack_that_msgspec_writes_passes(tree: Any, depth: int) -> None:
    """No form that an encoder writes is refused, and a duplicate key that follows is found."""
    for _ in range(depth):
        tree = {"a": [tree]}
    data = msgspec.msgpack.encode(tree)
    check_msgpack(data)
    with pytest.raises(DecodeError, match="same key twice"):
        check_msgpack(b"\x83\xa1x" + data + b"\xa1y\x01\xa1x\x02")


@settings(max_examples=200)
@given(data=st.binary(max_size=40))
def test_any_bytes_pass_or_are_a_decode_error(data: bytes) -> None:
    """No bytes make a check raise anything else."""
    for check in (check_json, check_msgpack):
        try:
            check(data)
        except DecodeError as error:
            assert error.field == "$"


def test_without_the_package_the_codec_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec `msgpack` needs the package msgpack: without it, opening names the extra; JSON does not need it."""
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ConfigError, match=r"accountstore\[msgpack\]"):
        find_codec("msgpack")
    assert find_codec("json") is JSON
