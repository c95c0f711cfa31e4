"""What the machine says of a file system."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from accountstore.backends.local.syscalls import filesystem_type, mount_of

MOUNTS = """\
21 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
28 1 {device} / /mnt/a rw,relatime shared:1 master:2 - {type} server:/export rw,vers=4.2
29 1 {device} /below /mnt/b\\040c rw - {type} server:/export rw
bad line
"""


@pytest.mark.parametrize("kind", ["ext4", "nfs4", "fuse.sshfs", "-"])
def test_filesystem_type_is_read_from_the_mounts(tmp_path: Path, kind: str) -> None:
    """The file system of a path is the one that is mounted from its device."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(device=f"{os.major(device)}:{os.minor(device)}", type=kind))
    assert filesystem_type(str(tmp_path), mounts=str(mounts)) == kind


def test_filesystem_type_is_none_where_it_is_not_known(tmp_path: Path) -> None:
    """A system without the list of mounts, or a list without the device, says nothing."""
    mounts = tmp_path / "mountinfo"
    assert filesystem_type(str(tmp_path), mounts=str(mounts)) is None
    mounts.write_text(MOUNTS.format(device="999:999", type="nfs"))
    assert filesystem_type(str(tmp_path), mounts=str(mounts)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists its mounts")
def test_filesystem_type_of_this_system_is_known() -> None:
    """Linux names the type of its file systems."""
    assert filesystem_type("/proc") == "proc"


def test_mount_is_told_by_an_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders of one mount have its number, and one of another has another; without Linux's proc the device's."""
    (tmp_path / "below").mkdir()
    numbers: list[int] = []
    for path in (tmp_path, tmp_path / "below", Path("/dev")):
        fd = os.open(path, os.O_RDONLY)
        numbers.append(mount_of(fd))
        monkeypatch.setattr("builtins.open", Mock(side_effect=FileNotFoundError))
        assert mount_of(fd) == path.stat().st_dev
        monkeypatch.undo()
        os.close(fd)
    assert numbers[0] == numbers[1] != numbers[2]
