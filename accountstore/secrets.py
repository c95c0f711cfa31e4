"""Secret: a string that does not show itself; SecretBytes: the same for a whole document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, wraps
from operator import attrgetter
from typing import Any, NoReturn, ParamSpec, TypeVar, final

P = ParamSpec("P")
T = TypeVar("T")

_MASK = "**********"


@cache
def _compare_digest() -> Callable[[bytes, bytes], bool]:
    from hmac import compare_digest  # on first use: it takes a millisecond

    return compare_digest


@final
class Secret:
    """A string that shows as asterisks wherever it is printed, formatted, logged or inspected.

    `reveal()` is the only way to the text. Two secrets compare in constant time; a secret never equals a plain string.
    Secrets cannot be changed or pickled; copying one returns the same object. Text of a subclass of `str`, as templates
    and forms hand over, is kept as plain text.
    """

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str | Secret, /) -> None:
        if type(text) is not str:
            if isinstance(text, Secret):
                text = text.reveal()
            elif isinstance(text, str):
                text = str.__str__(text)  # whatever the subclass makes of `str()`
            else:
                del text  # which no frame is to show
                raise TypeError("a Secret holds text: a str, or another Secret")
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """The text itself. Keep it out of variables that outlive its use."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str, /) -> str:
        return format(_MASK, spec)

    def __rich_repr__(self) -> Iterator[str]:
        yield _MASK

    def __eq__(self, other: object, /) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        theirs = other._text.encode("utf-8", "surrogatepass")
        return _compare_digest()(self._text.encode("utf-8", "surrogatepass"), theirs)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __bool__(self) -> bool:
        return bool(self._text)

    def __setattr__(self, name: str, value: object, /) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str, /) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any], /) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


reveal: Callable[[Secret], str] = attrgetter("_text")
"""What `Secret.reveal` returns, without a call of it: for encoders."""


@final
class SecretBytes(bytes):
    """A document's bytes on their way: whole for whoever uses them, asterisks in any print, log or traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"SecretBytes({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str, /) -> str:
        return format(_MASK, spec)

    def __getitem__(self, at: Any, /) -> Any:
        part = super().__getitem__(at)
        return SecretBytes(part) if isinstance(part, bytes) else part

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        raise TypeError("secret bytes cannot be pickled")


def instead_of(given: object, /) -> Any:
    """What stands for a thing that was given for a document and is none, in frames that a traceback may show: its class
    has the name of the other's.
    """
    return type(type(given).__name__, (), {})()


def without_frames(call: Callable[P, T], /) -> Callable[P, T]:
    """A function that is given secrets as they are: its errors have no frame of it nor from below, which hold them."""

    @wraps(call)
    def hidden(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 -- raised below
            failure = error.with_traceback(None)
        failure.__context__ = failure.__cause__ = None
        del args, kwargs
        raise failure

    return hidden
