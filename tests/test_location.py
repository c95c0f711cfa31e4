"""Locations: valid by construction, shown and parsed alike, compared and hashed, and written as the seed's JSON."""

from __future__ import annotations

import copy
import pickle
from unicodedata import normalize

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountstore import Location, LocationError

SEGMENTS = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:*?[]{}#\u2028\u2029"), min_size=1)
    .map(lambda text: normalize("NFC", text))
    .filter(lambda text: text not in {".", ".."} and len(text.encode()) <= 255)
    .filter(lambda text: not text.startswith(".accountstore-"))
)
FOLDERS = st.lists(SEGMENTS.filter(lambda text: not text.endswith(".account")), max_size=3).map("/".join)
LOCATIONS = st.builds(Location, SEGMENTS, folder=FOLDERS, storage=st.none() | SEGMENTS)


@given(location=LOCATIONS)
def test_parse_is_the_inverse_of_str(location: Location) -> None:
    """What `str` shows of any location, `parse` reads as the same location."""
    assert Location.parse(str(location)) == location
    assert str(Location.parse(str(location))) == str(location)


@given(text=st.text(max_size=30) | st.from_regex(r"([a-b.]{0,2}:)?([a-b./]{0,2}/)?[a-b.:]{0,3}", fullmatch=True))
def test_str_is_the_inverse_of_parse(text: str) -> None:
    """Any text is refused or is what `str` shows of the location parsed from it."""
    try:
        location = Location.parse(text)
    except LocationError:
        return
    assert str(location) == text


@pytest.mark.parametrize(
    ("text", "storage", "folder", "name"),
    [
        ("email.account", None, "", "email.account"),
        ("mail/email.account", None, "mail", "email.account"),
        ("First Storage:email.account", "First Storage", "", "email.account"),
        ("First Storage:mail/team-a/email.account", "First Storage", "mail/team-a", "email.account"),
        ("\u00e9:\u6771\u4eac/\U0001f4e7.multi.account", "\u00e9", "\u6771\u4eac", "\U0001f4e7.multi.account"),
        ("a.account:b", "a.account", "", "b"),
    ],
)
def test_parse_takes_a_location_apart(text: str, storage: str | None, folder: str, name: str) -> None:
    """The storage ends at the colon, the file name begins after the last slash."""
    location = Location.parse(text)
    assert (location.storage, location.folder, location.file_name) == (storage, folder, name)
    assert location == Location(name, folder=folder, storage=storage)
    assert str(location) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":a",
        "a:",
        "a:/",
        "/",
        "/a",
        "a/",
        "a//b",
        "s:/a",
        "s:a/",
        "a:b:c",
        "s:a/../b",
        "C:\\a",
        "./a",
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
    """No folder, an empty one and none are the root; no storage and an empty one are the default storage."""
    location = Location("x.account")
    assert (location.folder, location.storage) == ("", None)
    assert Location("x.account", folder="", storage="") == location
    assert Location("x.account", folder=None) == location  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # as null in JSON
    assert hash(Location("x.account", storage="")) == hash(location)


def test_path_joins_folder_and_file_name() -> None:
    """`path` is the place in the storage."""
    assert Location("x.account").path == "x.account"
    assert Location("x.account", folder="a/b", storage="s").path == "a/b/x.account"


@given(first=LOCATIONS, second=LOCATIONS)
def test_equal_locations_have_equal_hashes(first: Location, second: Location) -> None:
    """Locations are values: equal by their parts, usable in sets and as keys."""
    twin = Location(first.file_name, folder=first.folder, storage=first.storage)
    assert twin == first
    assert hash(twin) == hash(first)
    assert (first == second) == (str(first) == str(second))
    assert len({first, twin, second}) == 1 + (first != second)


def test_locations_with_and_without_a_storage_differ() -> None:
    """The default storage by name and by its absence are two locations: only the store knows that they meet."""
    assert Location("x.account", storage="main") != Location("x.account")


def test_a_location_cannot_be_changed() -> None:
    """Assigning to a part is an AttributeError."""
    location = Location("x.account")
    with pytest.raises(AttributeError):
        location.file_name = "y.account"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # what must fail
    assert location.file_name == "x.account"


def test_only_the_file_name_is_positional() -> None:
    """A folder or storage by position is a TypeError: their order differs between the seed's calls."""
    with pytest.raises(TypeError):
        Location("x.account", "folder")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # what must fail


def test_a_location_is_copied_and_pickled() -> None:
    """A location survives copying and pickling: it holds no secret."""
    location = Location("x.account", folder="a", storage="s")
    assert copy.copy(location) == copy.deepcopy(location) == location
    assert pickle.loads(pickle.dumps(location)) == location


# --- as a cache file -----------------------------------------------------------------------------------------------


def decode(text: str) -> Location:
    """A location from JSON."""
    return msgspec.json.decode(text, type=Location)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ('{"fileName": "x"}', Location("x")),
        ('{"fileName": "x", "folderPath": null, "storage": null}', Location("x")),
        ('{"fileName": "x", "folderPath": "", "storage": ""}', Location("x")),
        (
            '{"storage": "s", "folderPath": "a/b", "fileName": "x.cache"}',
            Location("x.cache", folder="a/b", storage="s"),
        ),
        ('{"fileName": "x", "unknown": 1}', Location("x")),
    ],
)
def test_json_is_the_seeds_storage_file_location(text: str, location: Location) -> None:
    """A cache file's JSON is read with null, empty or missing folder and storage alike."""
    assert decode(text) == location


def test_json_leaves_defaults_out() -> None:
    """The JSON of a location has the seed's names and nothing for the root or the default storage."""
    assert msgspec.json.decode(msgspec.json.encode(Location("x"))) == {"fileName": "x"}
    assert msgspec.json.decode(msgspec.json.encode(Location("x", folder="a", storage="s"))) == {
        "fileName": "x",
        "folderPath": "a",
        "storage": "s",
    }


@given(location=LOCATIONS)
def test_json_round_trip(location: Location) -> None:
    """Any location survives its JSON."""
    assert msgspec.json.decode(msgspec.json.encode(location), type=Location) == location


@pytest.mark.parametrize(
    "text",
    ['{"fileName": "a/b"}', '{"fileName": ""}', '{"fileName": "x", "folderPath": "../a"}', "{}", '{"fileName": null}'],
)
def test_json_is_checked(text: str) -> None:
    """A cache file with a name that is not allowed, or without one, is refused."""
    with pytest.raises(msgspec.ValidationError):
        decode(text)
