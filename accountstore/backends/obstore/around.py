"""The options that fsspec's own configuration has, each of the kind that it is to be of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from accountstore.backends.kinds import PLACES, SCHEMES, Service
from accountstore.backends.options import configured

_FLAGS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def options_around(service: Service, /) -> dict[str, Any]:
    """The options in the environment and in fsspec's files. In its INI files all values are text; in a variable, what
    is JSON is not, a secret of digits neither. What cannot be of its kind is left as it is, to be refused by its name.
    """
    found: dict[str, Any] = {}
    for scheme in SCHEMES[service]:
        for name, value in configured(scheme).items():
            found[name] = _read(service, "options", name, value, _as_written(scheme, name, value))
    return found


def _read(service: Service, place: str, name: str, value: Any, written: str | None = None, /) -> Any:
    """A value as one of the kind that an option is of; `written` is its text, if that is known."""
    kind = PLACES[service].get(place, {}).get(name, ())
    if Mapping in kind:
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, Mapping):
            within = f"{place}.{name}"
            return {each: _read(service, within, each, one) for each, one in value.items()}
        return value
    if bool in kind and isinstance(value, str | int):
        flag = _FLAGS.get(str(value).strip().lower())
        if flag is not None:
            return flag
    if isinstance(value, str):
        return _number(value, kind)
    if str in kind and value is not None:
        as_text = str(value) if type(value) is int else value  # of other numbers the text is not certain
        return as_text if written is None else written
    return value


def _number(text: str, kind: tuple[type, ...], /) -> Any:
    """The number that a text says, where one is wanted; else the text."""
    for make in (int, float):
        if make in kind and str not in kind:
            with suppress(ValueError):
                return make(text)
    return text


def _as_written(scheme: str, name: str, value: Any, /) -> str | None:
    """The text of the variable that fsspec has a value from, if one says that now: 1e5 was a secret, not a number."""
    for variable, text in os.environ.items():
        if variable.startswith("FSSPEC_") and variable[len("FSSPEC_") :].lower() == f"{scheme}_{name}":
            with suppress(ValueError):
                if repr(json.loads(text)) == repr(value):  # which tells 1 from true, and NaN is itself
                    return text
    return None
