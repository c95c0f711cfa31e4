"""What a migration is told and what it says: places, options, outcomes, reports. Values, and no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Literal, TypeAlias, cast, get_args
from zlib import crc32

from msgspec import Struct, field, json

from accountstore.copies import Proof
from accountstore.errors import LocationError
from accountstore.leased import Terms
from accountstore.location import Location
from accountstore.validation import check_folder, check_storage_name, join

Word: TypeAlias = Literal[
    "copied", "changed", "same", "newer", "removed", "moved", "gone", "deleted", "missing", "differs", "conflict",
    "refused", "foreign", "failed",
]  # fmt: skip
"""What became of a document, or of a `plan`, what would.

- `copied`: it was not at the target. `changed`: an older copy was, and was replaced.
- `moved`: copied, verified, and then removed at the source (`delete_source`).
- `same`: both ends have it. `newer`: it was copied before, and has since changed at the target alone.
- `removed`: it was copied before, and has since been deleted at the target: it is not put back, but by
  `on_conflict="overwrite"`. To `verify` it is `missing`.
- `gone`: it is no longer at the source, also where it was deleted while the run went on. `deleted`: so it was removed
  at the target (`mirror_deletes`).
- `missing`: it was asked for by its name (`names`), and is at neither end; or what `verify` says where the target has
  none. `differs`: where it has another one.
- `conflict`: the target has another document than the one that was copied, or than the source: it was left as it is.
- `refused`: no account document, too large, with values that the target's codec has not, or under a name that no
  location has.
- `foreign`: at the target alone, and no migration of this journal has put it there; or no document at all.
- `failed`: a storage failed; the next run tries it again.
"""
PROBLEMS: frozenset[str] = frozenset({"conflict", "refused", "failed", "missing", "differs"})
"""What is not at the target as it is at the source."""


_MOST = 10_000
"""What is asked for by number and is more was hardly meant."""
_FASTEST = 1_000_000_000
_WORDS: Mapping[str, tuple[str, ...]] = {
    "verify": get_args(Proof),
    "on_conflict": ("report", "overwrite"),
    "writes": ("conditional", "blind"),
    "listing": ("stream", "spool"),
}
_COMMAND_LINE: Mapping[str, str] = {"writes": "blind", "listing": "spool"}
"""What options are called on the command line that have another name there."""


class Place(Struct, frozen=True):
    """A folder of a storage, with all that is below it. Storage None is the default storage, `""` the storage's root.

    Raises:
        LocationError: a name is not allowed.
    """

    folder: str = ""
    storage: str | None = None

    def __post_init__(self) -> None:
        check_folder(self.folder)
        if self.storage is not None:
            check_storage_name(self.storage)

    @classmethod
    def parse(cls, text: str, /) -> Place:
        """The place that `str()` shows as `text`: `STORAGE:FOLDER`, either left out at will."""
        storage, colon, folder = text.rpartition(":")
        if colon and not storage:
            raise LocationError("storage: a segment is empty")
        return cls(folder.removesuffix("/"), storage or None)

    def at(self, name: str, /) -> Location:
        """The location of a document by its name, which is its path below the folder."""
        folder, _, file_name = name.rpartition("/")
        return Location(file_name, folder=join(self.folder, folder), storage=self.storage)

    def name_of(self, path: str, /) -> str:
        """The name of what has this path in the storage."""
        return path[len(self.folder) + 1 :] if self.folder else path

    def path_of(self, name: str, /) -> str:
        """How a name in this place is shown, also one that no location has."""
        place = str(self)
        return f"{place}{'' if place[-1:] in {'', ':'} else '/'}{name}"

    def __str__(self) -> str:
        return self.folder if self.storage is None else f"{self.storage}:{self.folder}"


class Options(Struct, frozen=True, kw_only=True):
    """What to migrate and how. All but the last four are the meaning of a journal: it is not resumed with others.

    `include` and `exclude` are patterns (`*`, `?`, `[...]`; `*` matches `/` too) for a document's path below the
    folder. `names` migrates these alone, without a listing. `shard` is which part of the names, and of how many.

    Raises:
        ValueError: an option cannot be meant; the message begins with its name.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    shard: tuple[int, int] = (1, 1)
    verify: Proof = "read"
    on_conflict: Literal["report", "overwrite"] = "report"
    """`"overwrite"`: a conflict is replaced by the source's document, also one that is no document; what was deleted at
    the target is put back. What has changed at the target alone is no conflict: it is `newer`, and stays.
    """
    delete_source: bool = False
    mirror_deletes: bool = False
    """What this journal's runs have copied, and is gone at the source, is removed at the target, if it is still what
    was copied; what they only found to be the same is `gone`, and left. A source without any document of those that are
    migrated is refused, as it may be one that is not mounted: remove the last ones at the target yourself. Nothing is
    removed at a target that ignores the case of names, where the source does not: it may be there under another name.
    It excludes `delete_source`, also in an earlier run of the journal: what such a run has moved is gone at the source,
    and the target has the only copy.
    """
    writes: Literal["conditional", "blind"] = "conditional"
    """`"blind"`: on a target that honours no conditions, SFTP for one, each document is looked at just before its batch
    is written, which costs a request more. What another writer does between the look and the write, at most a batch of
    500 documents later, is lost, and nobody can tell. A target that honours conditions is written on them all the same.
    """
    listing: Literal["stream", "spool"] = "stream"
    """`"spool"`: a listing is sorted on the disk first, also where the storage is said to sort."""
    concurrency: int = 64
    """How many documents are under way at most; less where a storage is busy."""
    requests_per_second: float | None = None
    lease: float | None = None
    """Seconds: a document with OAuth tokens is copied while no `refresh` exchanges them, which others wait for at most
    so long. It costs two requests for such a document.
    """

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "names"):
            _check_texts(name, getattr(self, name))
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{named(name)} must be one of {', '.join(known)}")
        _check_flags(self)
        _check_numbers(self)
        if self.delete_source and self.verify == "none":
            needs = "verify='read' or 'write' (--verify read or write)"
            raise ValueError(f"{named('delete_source')} needs a verified target: {needs}")
        if self.delete_source and self.mirror_deletes:
            raise ValueError(
                f"{named('delete_source')} excludes {named('mirror_deletes')}: what was moved is gone at the source,"
                " and has to stay at the target"
            )

    def wants(self, name: str, /) -> bool:
        """Whether a document is to be migrated by these options."""
        part, parts = self.shard
        if parts > 1 and crc32(name.encode("utf-8", "surrogatepass")) % parts != part - 1:
            return False
        return self.matches(name)

    def matches(self, name: str, /) -> bool:
        """Whether the patterns of these options choose a document, whichever shard it is of."""
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return False
        return not any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def meaning(self) -> dict[str, str]:
        """The options that a journal keeps to, as text; of a list of names its digest."""
        kept = {name: repr(getattr(self, name)) for name in self.__struct_fields__[:-4]}
        if self.names is not None:
            kept["names"] = blake2b(json.encode(sorted(self.names)), digest_size=16).hexdigest()
        return kept


def named(option: str, /) -> str:
    """An option with what it is called on the command line, for errors that are read in both worlds."""
    return f"{option} (--{_COMMAND_LINE.get(option, option).replace('_', '-')})"


def _is_number(value: object, kind: type | tuple[type, ...], most: int, /) -> bool:
    """Whether it is a number of a kind, more than 0. A bool is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < cast("float", value) <= most


def _is_shard(shard: object, /) -> bool:
    if not isinstance(shard, tuple) or len(cast("tuple[object, ...]", shard)) != 2:
        return False
    part, parts = cast("tuple[int, int]", shard)
    return _is_number(part, int, _MOST) and _is_number(parts, int, _MOST) and part <= parts


def _check_flags(options: Options, /) -> None:
    for name in ("delete_source", "mirror_deletes"):
        if not isinstance(getattr(options, name), bool):
            raise ValueError(f"{named(name)} must be True or False")  # noqa: TRY004 -- as all of them


def _check_numbers(options: Options, /) -> None:
    if not _is_shard(options.shard):
        raise ValueError(f"shard must be (1, n) to (n, n) (--shard 1/n to n/n), with n at most {_MOST:,}")
    if not _is_number(options.concurrency, int, _MOST):
        raise ValueError(f"{named('concurrency')} must be 1 to {_MOST:,}")
    if options.requests_per_second is not None and not _is_number(options.requests_per_second, (int, float), _FASTEST):
        name = named("requests_per_second")
        raise ValueError(f"{name} must be a number that is more than 0, and at most {_FASTEST:,}")
    if options.lease is not None:
        try:
            Terms(0, options.lease, 0)
        except (TypeError, ValueError) as error:
            raise ValueError(str(error).replace("lease", named("lease"), 1)) from None


def _check_texts(option: str, texts: object, /) -> None:
    """Refuse what is no tuple of texts, such as a text alone, which is one of letters; and what UTF-8 does not have."""
    if texts is None:
        return
    if isinstance(texts, (str, Mapping)) or not isinstance(texts, Collection):
        raise ValueError(f"{named(option)} must be a tuple of texts")  # noqa: TRY004 -- as all of them
    for place, text in enumerate(cast("Collection[object]", texts), 1):
        if not isinstance(text, str) or text != text.encode("utf-8", "replace").decode():
            raise ValueError(f"{named(option)} must be a tuple of texts: entry {place} is none")


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a migration or a plan: a document, both its locations, and what became of it.

    As JSON it is a line of `--json`. It holds no version and nothing of the document.
    """

    outcome: Word
    name: str
    """The path below both folders."""
    source: str
    target: str
    bytes: int = 0
    source_time: datetime | None = None
    target_time: datetime | None = None
    error: str = ""
    """The class of the error."""
    reason: str = ""


class Total(Struct, array_like=True):
    """How many documents, and their bytes."""

    documents: int = 0
    bytes: int = 0

    def add(self, size: int, /) -> None:
        """One document more."""
        self.documents += 1
        self.bytes += size


class Report(Struct, frozen=True, kw_only=True):
    """What a run came to: totals by outcome. `complete` says whether it came to its end.

    The counts are those of the journal, where there is one.
    """

    action: Literal["migrate", "plan", "verify"]
    source: str
    target: str
    complete: bool
    seconds: float
    totals: Mapping[str, Total] = field(default_factory=dict[str, Total])
    absent: tuple[int, ...] = ()
    """The shards whose journals `read_report` was not given."""
    outcomes: tuple[Outcome, ...] = ()
    """Each document's, of a plan or a verification that was awaited."""

    @property
    def documents(self) -> int:
        """How many documents it met."""
        return sum(total.documents for total in self.totals.values())

    @property
    def problems(self) -> int:
        """How many documents are not at the target as they are at the source."""
        return sum(total.documents for word, total in self.totals.items() if word in PROBLEMS)

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is at the target."""
        return self.complete and not self.problems

    @property
    def exit_code(self) -> int:
        """0: `ok`; 3: but for conflicts; 1: else."""
        if self.ok:
            return 0
        others = self.problems - self.totals.get("conflict", Total()).documents
        return 3 if self.complete and not others else 1
