"""The writer: old or new, permissions, the wording of errors, and what it leaves."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from injection import Calls, fail

from deepme.errors import EnvironmentFault
from deepme.storage.atomic import atomic_path, atomic_write, sweep

OLD, NEW = 1, 2


def write_bytes(path: Path, value: int) -> None:
    with atomic_write(path) as file:
        file.write(bytes([value]) * 4096)


def read_bytes(path: Path) -> int:
    content = path.read_bytes()
    assert content == content[:1] * 4096
    return content[0]


class TestAtomicWrite:
    def test_makes_folder_and_file(self, tmp_path: Path):
        path = tmp_path / "new" / "folder" / "file"
        write_bytes(path, NEW)
        assert read_bytes(path) == NEW
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_gives_the_permissions_of_the_umask(self, tmp_path: Path, umask: int):
        path = tmp_path / "file"
        before = os.umask(umask)
        try:
            write_bytes(path, NEW)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_keeps_the_old_file_when_the_block_raises(self, tmp_path: Path, error: Any):
        path = tmp_path / "file"
        write_bytes(path, OLD)

        def write() -> None:
            with atomic_write(path) as file:
                file.write(b"half")
                raise error

        with pytest.raises(error):
            write()
        assert list(tmp_path.iterdir()) == [path]
        assert read_bytes(path) == OLD

    def test_syncs_file_then_renames_then_syncs_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = tmp_path / "file"
        events: list[tuple[str, int]] = []
        fsync, replace = os.fsync, os.replace

        def noted_fsync(descriptor: int) -> None:
            events.append(("fsync", os.fstat(descriptor).st_ino))
            fsync(descriptor)

        def noted_replace(source: Path, target: Path) -> None:
            events.append(("replace", source.stat().st_ino))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
        write_bytes(path, NEW)
        file, folder = path.stat().st_ino, tmp_path.stat().st_ino
        assert events == [("fsync", file), ("replace", file), ("fsync", folder)]

    def test_syncs_only_what_has_been_flushed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        sizes = []
        fsync = os.fsync
        monkeypatch.setattr(
            os,
            "fsync",
            lambda fd: (sizes.append(os.fstat(fd).st_size), fsync(fd)),
        )
        write_bytes(tmp_path / "file", NEW)
        assert sizes[0] == 4096

    def test_temporary_names_differ(self, tmp_path: Path):
        path = tmp_path / "file"
        with atomic_path(path) as first, atomic_path(path) as second:
            assert first != second
            assert first.parent == second.parent == tmp_path

    def test_replaces_a_link_and_not_what_it_points_to(self, tmp_path: Path):
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_text("mine")
        link.symlink_to(target)
        write_bytes(link, NEW)
        assert target.read_text() == "mine"
        assert not link.is_symlink()


class TestRefusal:
    def test_is_worded_for_people(self, tmp_path: Path):
        path = tmp_path / "file"
        path.mkdir()
        with pytest.raises(EnvironmentFault) as caught:
            write_bytes(path, NEW)
        assert str(caught.value) == (
            f"cannot write {path}: Is a directory; free space or correct the "
            "permissions, then run the same command again"
        )
        assert caught.value.exit_code == 3
        assert list(tmp_path.iterdir()) == [path]

    def test_covers_the_making_of_the_folder(self, tmp_path: Path):
        (tmp_path / "file").touch()
        with pytest.raises(EnvironmentFault, match="Not a directory"):
            write_bytes(tmp_path / "file" / "inner" / "file", NEW)
        with (
            Calls("mkdir", at=(1,), action=fail(errno.EROFS)),
            pytest.raises(EnvironmentFault, match="Read-only file system"),
        ):
            write_bytes(tmp_path / "folder" / "file", NEW)

    def test_of_a_long_name(self, tmp_path: Path):
        with pytest.raises(EnvironmentFault, match="File name too long"):
            write_bytes(tmp_path / ("n" * 255), NEW)

    def test_shows_no_control_characters(self, tmp_path: Path):
        path = tmp_path / "a\x1b[2Jb\nc"
        path.mkdir()
        with pytest.raises(EnvironmentFault) as caught:
            write_bytes(path, NEW)
        assert str(caught.value).isprintable()

    def test_names_the_first_error_when_the_clean_up_fails_too(self, tmp_path: Path):
        with (
            Calls("fsync", at=(1,), action=fail(errno.ENOSPC)),
            Calls("unlink", at=(1,), action=fail(errno.EIO)),
            pytest.raises(EnvironmentFault, match="No space left"),
        ):
            write_bytes(tmp_path / "file", NEW)
        assert [path.name[:5] for path in tmp_path.iterdir()] == [".tmp-"]

    def test_does_not_hide_an_interruption(self, tmp_path: Path):
        with (
            Calls("unlink", at=(1,), action=fail(errno.EIO)),
            pytest.raises(KeyboardInterrupt),
            atomic_write(tmp_path / "file"),
        ):
            raise KeyboardInterrupt


class TestSweep:
    def test_deletes_temporary_files_only(self, tmp_path: Path):
        kept = [tmp_path / name for name in ("a.json", "tmp-a", ".deepme.lock")]
        for path in [*kept, tmp_path / ".tmp-a.json-0a1b2c3d", tmp_path / ".tmp-"]:
            path.touch()
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted(kept)

    def test_of_a_missing_folder_does_nothing(self, tmp_path: Path):
        sweep(tmp_path / "missing")

    def test_refused_is_an_environment_fault(self, tmp_path: Path):
        (tmp_path / ".tmp-a").mkdir()
        with pytest.raises(EnvironmentFault, match=r"cannot write .*\.tmp-a: "):
            sweep(tmp_path)

    def test_a_folder_that_cannot_be_listed(self, tmp_path: Path):
        with (
            Calls("scandir", at=(1,), action=fail(errno.EIO)),
            pytest.raises(EnvironmentFault, match=r"cannot write .*: Input/output"),
        ):
            sweep(tmp_path)
