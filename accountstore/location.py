"""Location: where a document is, checked when it is made; and the errors that are about one."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import force_setattr

from accountstore.errors import AccountStoreError, LocationError
from accountstore.validation import check_file_name, check_folder, check_path, check_storage_name, join

NO_LOCATION = "a document's place is a Location: Location('x.account', folder='mail'), or Location.parse(text)"
"""What is said to whoever gives something else."""


class _FileName(Struct, frozen=True, rename="camel"):
    """The one field of a location that may be given by position."""

    file_name: str


class Location(
    _FileName, frozen=True, kw_only=True, omit_defaults=True, rename={"file_name": "fileName", "folder": "folderPath"}
):
    """A document's place: file name, folder (`""` is the storage's root) and storage name (None: the default storage).

    A location that exists is valid: no segment is empty, `.` or `..`; none has a backslash, a colon, a control or
    wildcard character or `#`; names are in Unicode normal form C, at most 255 bytes a segment and 1,024 in all; no
    folder ends in `.account`. The rule is the same on every storage, so any document can move to any other. Locations
    can be compared and hashed. As JSON it is the `StorageFileLocation` of Aspose.Email Cloud's
    client-account API.

    Raises:
        LocationError: a name is not allowed.
    """

    storage: str | None = None
    if TYPE_CHECKING:
        folder: str = ""
    else:
        folder: str | None = ""  # null in JSON means the root, as leaving it out does

    def __post_init__(self) -> None:
        if not self.folder:
            force_setattr(self, "folder", "")
        if self.storage is not None and not self.storage:
            force_setattr(self, "storage", None)
        check_file_name(self.file_name)
        check_folder(self.folder)
        check_path(self.folder, self.file_name)
        if self.storage is not None:
            check_storage_name(self.storage)

    @property
    def path(self) -> str:
        """Folder and file name joined by `/`."""
        return join(self.folder, self.file_name)

    def __str__(self) -> str:
        return self.path if self.storage is None else f"{self.storage}:{self.path}"

    @classmethod
    def parse(cls, text: str, /) -> Location:
        """The location that `str()` shows as `text`: `storage:folder/file`, storage and folder left out at will.

        Raises:
            LocationError: a name is not allowed, or a colon stands after an empty storage name.
        """
        storage, colon, path = text.rpartition(":")
        if path.startswith("//"):
            raise LocationError("a URL is a storage's, in the configuration; a location is storage:folder/file")
        if colon:
            check_storage_name(storage)
        folder, slash, name = path.rpartition("/")
        if slash and not folder:
            check_folder("/")
        return cls(name, folder=folder, storage=storage or None)


class Located(Struct, frozen=True):
    """A `with` block whose errors are about one location. They carry no frame of its calls, which hold documents."""

    location: Location

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, AccountStoreError):
            locate(error, self.location)


def locate(error: AccountStoreError, location: Location, /) -> AccountStoreError:
    """The error, about a location, and without the frames that it has come through."""
    error.location = location
    error.__traceback__ = error.__context__ = None
    return error
