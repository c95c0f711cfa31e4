"""Configuration: it cannot be changed, and a fault in an inline table is told where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from accountstore import AccountStore, ConfigError, StorageConfig, StoreConfig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "value"), [("url", "memory://"), ("options", {}), ("timeout", 1.0), ("attempts", 9), ("codec", "msgpack")]
)
def test_a_storages_configuration_cannot_be_changed(name: str, value: object) -> None:
    """No field can be assigned: stores that share a configuration do not change one another's."""
    config: Any = StorageConfig("s3://bucket/folder", options={"key": "k"})
    before = getattr(config, name)
    with pytest.raises(AttributeError):
        setattr(config, name, value)
    assert getattr(config, name) == before


def test_a_stores_configuration_cannot_be_changed() -> None:
    """Likewise of the whole."""
    config: Any = StoreConfig(storages={"main": StorageConfig("memory://")})
    with pytest.raises(AttributeError):
        config.default = "other"
    assert config.default_name() == "main"


FAULTS: dict[str, tuple[str, int]] = {
    "an inline table after another": (
        """\
[storages]
b = { url = "memory://", codec = "json" }
a = { url = "memory://", codec = "xml" }
""",
        3,
    ),
    "an inline table before another": (
        """\
[storages]
a = { url = "memory://", codec = "xml" }
b = { url = "memory://", codec = "json" }
""",
        2,
    ),
    "an inline table after one of its own": (
        """\
[storages.b]
url = "memory://"
codec = "json"

[storages]
a = { url = "memory://", codec = "xml" }
""",
        6,
    ),
    "a table after an inline one": (
        """\
[storages]
b = { url = "memory://", codec = "json" }

[storages.a]
url = "memory://"
codec = "xml"
""",
        6,
    ),
    "an inline table after a text that looks like its header": (
        """\
[storages.b]
url = "memory://"

[storages.b.options]
note = '''
[storages.a]
'''

[storages]
a = { url = "memory://", codec = "xml" }
""",
        10,
    ),
    "a table with a list over several lines": (
        """\
[storages.a]
url = "memory://"
options = { hosts = [
  "one",
  "two",
] }
codec = "xml"
""",
        7,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_told_where_it_is(name: str, tmp_path: Path) -> None:
    """Of several tables with the same key the one with the fault is told, whichever of them is inline."""
    text, line = FAULTS[name]
    path = tmp_path / "accountstore.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="codec 'xml'") as caught:
        await AccountStore.open(path)
    assert caught.value.message.startswith(f"{path}:{line}: storage 'a': ")
