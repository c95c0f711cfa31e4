"""Locations: valid by construction, shown and parsed alike, compared and hashed, and written as the seed's JSON."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import LOCATIONS

from accountstore import Location, LocationError


@given(location=LOCATIONS)
def test_a_location_survives_text_json_copies_and_pickling(location: Location) -> None:
    """What `str` shows of any location, `parse` reads as the same; so do JSON and, as it holds no secret, pickle."""
    assert Location.parse(str(location)) == location
    assert str(Location.parse(str(location))) == str(location)
    assert msgspec.json.decode(msgspec.json.encode(location), type=Location) == location
    assert copy.copy(location) == copy.deepcopy(location) == pickle.loads(pickle.dumps(location)) == location


@given(text=st.text(max_size=30) | st.from_regex(r"([a-b.]{0,2}:)?([a-b./]{0,2}/)?[a-b.:]{0,3}", fullmatch=True))
def test_str_is_the_inverse_of_parse(text: str) -> None:
    """Any text is refused or is what `str` shows of the location parsed from it."""
    try:
        location = Location.parse(text)
    except LocationError:
        return
    assert str(location) == text


@pytest.mark.parametrize(
    ("storage", "folder", "name"),
    [
        (None, "", "email.account"),
        (None, "mail", "email.account"),
        ("First Storage", "", "email.account"),
        ("First Storage", "mail/team-a", "email.account"),
        ("\u00e9", "\u6771\u4eac", "\U0001f4e7.multi.account"),
        ("a.account", "", "b"),
    ],
)
def test_parse_takes_a_location_apart(storage: str | None, folder: str, name: str) -> None:
    """The storage ends at the colon, the file name begins after the last slash; `path` is the place in the storage."""
    path = f"{folder}/{name}" if folder else name
    text = f"{storage}:{path}" if storage else path
    location = Location.parse(text)
    assert (location.storage, location.folder, location.file_name, location.path) == (storage, folder, name, path)
    assert location == Location(name, folder=folder, storage=storage)
    assert str(location) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":a", "a:", "a:/", "/", "/a", "a/", "a//b", "s:/a", "s:a/", "a:b:c", "s:a/../b", "C:\\a", "./a"),
        "s:~/../a",
    ],
)
def test_parse_refuses_what_str_never_shows(text: str) -> None:
    """An empty storage name, segment or file name, a second colon and a path upwards are refused."""
    with pytest.raises(LocationError):
        Location.parse(text)


@pytest.mark.parametrize("arguments", [{"folder": ".."}, {"folder": "a/"}, {"folder": "/a"}, {"storage": "a/b"}])
def test_construction_checks(arguments: dict[str, str]) -> None:
    """A location with a name that is not allowed cannot be made, nor got by changing another."""
    with pytest.raises(LocationError):
        Location("x.account", **arguments)
    with pytest.raises(LocationError):
        msgspec.structs.replace(Location("x.account"), **arguments)


def test_an_error_is_also_a_value_error_and_quotes_nothing() -> None:
    """The error names what is wrong with which part, but not the text."""
    with pytest.raises(ValueError, match="folder") as raised:
        Location("x.account", folder="hunter2/../hunter2")
    assert isinstance(raised.value, LocationError)
    assert "hunter2" not in f"{raised.value}{raised.value!r}"


def test_defaults_and_empty_names_mean_the_default_storage_and_its_root() -> None:
    """None and empty mean the root and the default storage, which by its name is another location."""
    location = Location("x.account")
    assert (location.folder, location.storage) == ("", None)
    assert Location("x.account", folder="", storage="") == location
    assert Location("x.account", folder=None) == location  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # as null in JSON
    assert hash(Location("x.account", storage="")) == hash(location)
    assert Location("x.account", storage="main") != location


@given(first=LOCATIONS, second=LOCATIONS)
def test_equal_locations_have_equal_hashes(first: Location, second: Location) -> None:
    """Locations are values: equal by their parts, usable in sets and as keys."""
    twin = Location(first.file_name, folder=first.folder, storage=first.storage)
    assert twin == first
    assert hash(twin) == hash(first)
    assert (first == second) == (str(first) == str(second))
    assert len({first, twin, second}) == 1 + (first != second)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ('{"fileName": "x"}', Location("x")),
        ('{"fileName": "x", "folderPath": null, "storage": null}', Location("x")),
        ('{"fileName": "x", "folderPath": "", "storage": ""}', Location("x")),
        ('{"storage": "s", "folderPath": "a/b", "fileName": "x"}', Location("x", folder="a/b", storage="s")),
        ('{"fileName": "x", "unknown": 1}', Location("x")),
    ],
)
def test_json_is_the_seeds_storage_file_location(text: str, location: Location) -> None:
    """A cache file's JSON is read with null, empty or missing folder and storage alike."""
    assert msgspec.json.decode(text, type=Location) == location


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: Location("mail/a.account"), "file name: has a slash: its folder is an argument of its own, `folder`"),
        (lambda: Location("a.account", folder="mail/"), r"folder: .*no slash at its ends"),
        (lambda: Location("a.account", folder="/mail"), r"folder: .*no slash at its ends.*begins without a slash$"),
        (lambda: Location.parse("/srv/mail/a.account"), r"folder: .*no path of the file system"),
        (
            lambda: Location("a.account", storage="Mail:"),
            r"storage: has .:. at its end; here give the name without its colon$",
        ),
        (lambda: Location.parse("Mail:"), r"file name: is missing: a location is \[storage:\]\[folder/\]file"),
        (lambda: Location.parse("mail/"), "file name: is missing"),
        (lambda: Location("a.account", folder="Mail:mail"), "folder: has ':': .* argument of its own, `storage`"),
        (lambda: Location("Mail:a.account"), "file name: has ':': .* argument of its own, `storage`"),
        (lambda: Location("a.account", storage="a:b"), "storage: has ':': .* is allowed$"),
        (lambda: Location.parse("s3://bucket/a.account"), "a URL is a storage's, in the configuration"),
        (lambda: Location("u\u0308.account"), r'unicodedata.normalize\("NFC", name\)'),
    ],
)
def test_what_is_wrong_with_a_name_is_told(make: Callable[[], Location], hint: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(LocationError, match=hint):
        make()
