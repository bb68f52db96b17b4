"""HDF5 on a full disk and under signals: no crash, no output, no part of a file."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from injection import Calls, fail, in_child, interrupt, limit_file_size

from deepme.errors import EnvironmentFault
from deepme.storage.hdf5 import Block, open_hdf5, write_hdf5, write_hdf5_files
from deepme.storage.header import Header
from deepme.storage.sink import SignalsHeld, Sink

HEADER = Header(kind="try", schema_version=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "try.h5"


STREAM = """
import resource, sys
import h5py, numpy as np
from pathlib import Path
from deepme.errors import EnvironmentFault
from deepme.storage.hdf5 import write_hdf5
from deepme.storage.header import Header

path, limit, chunked = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "chunked"
options = dict(chunks=(4, 512), compression="gzip") if chunked else {}

def fill(file):
    for number in range(40):
        file[f"small{number}"] = np.arange(number)
    rows = file.create_dataset("rows", (64, 512), np.float32, **options)
    random = np.random.default_rng(0).random((4, 512))
    return ((rows, slice(at, at + 4), random) for at in range(0, 64, 4))

resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_hdf5(path, Header(kind="try", schema_version=1), fill)
except EnvironmentFault as error:
    sys.exit(error.exit_code)
"""


class TestDiskFull:
    """HDF5 itself would crash when the process ends: hence processes of their own."""

    @pytest.mark.parametrize("layout", ["chunked", "contiguous"])
    @pytest.mark.parametrize("limit", [600, 20_000, 60_000, 100_000])
    def test_ends_the_process_in_order(self, path: Path, layout: str, limit: int):
        done = subprocess.run(
            [sys.executable, "-c", STREAM, path, str(limit), layout],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
        assert list(path.parent.iterdir()) == []

    def test_ends_a_long_stream_at_the_next_block(self, path: Path):
        drawn = []

        def stream(file: h5py.File) -> Iterator[Block]:
            rows = file.create_dataset("rows", (1000, 10_000), np.uint8)
            for row in range(1000):
                drawn.append(row)
                yield rows, slice(row, row + 1), np.ones((1, 10_000), np.uint8)

        def work() -> None:
            limit_file_size(300_000, kill=False)
            with pytest.raises(EnvironmentFault, match="File too large"):
                write_hdf5(path, HEADER, stream)
            # 30 rows of 10,000 bytes fit; HDF5 itself holds back up to 64 KiB.
            assert 30 <= len(drawn) <= 40

        end = in_child(work)
        assert (end.code, end.output) == (0, "")

    def test_an_error_of_the_producer_is_not_taken_for_the_disk(self, path: Path):
        def stream(file: h5py.File) -> Iterator[Block]:
            rows = file.create_dataset("rows", (2, 10), np.uint8)
            yield rows, slice(0, 1), np.ones((1, 10), np.uint8)
            raise RuntimeError("DataLoader worker is lost")

        with pytest.raises(RuntimeError, match="worker is lost"):
            write_hdf5(path, HEADER, stream)
        assert list(path.parent.iterdir()) == []


class TestSink:
    @pytest.fixture
    def descriptor(self, tmp_path: Path) -> Iterator[int]:
        descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        yield descriptor
        os.close(descriptor)

    def test_reads_what_it_wrote(self, descriptor: int):
        sink = Sink(descriptor)
        assert sink.write(b"hello world") == 11
        assert (sink.tell(), sink.seek(6), sink.read(99)) == (11, 6, b"world")
        assert sink.seek(-5, os.SEEK_END) == 6
        assert sink.truncate(5) == 5
        assert sink.seek(0, os.SEEK_END) == 5
        sink.check()

    def test_knows_its_end_without_asking(self, descriptor: int):
        os.write(descriptor, b"there before")
        sink = Sink(descriptor)
        with Calls("fstat", at=(1,), action=fail(errno.EIO)):
            assert sink.seek(0, os.SEEK_END) == 12
            sink.write(b", more")
            sink.seek(3)
            sink.write(b"x")
            assert sink.seek(0, os.SEEK_END) == 18
            sink.truncate(7)
            assert sink.seek(-1, os.SEEK_END) == 6
        sink.check()
        assert os.fstat(descriptor).st_size == 7

    def test_writes_all_in_parts(
        self, descriptor: int, monkeypatch: pytest.MonkeyPatch
    ):
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
        sink = Sink(descriptor)
        sink.seek(2)
        assert sink.write(memoryview(np.arange(10, dtype=np.uint8))) == 10
        assert os.pread(descriptor, 99, 0) == bytes([0, 0, *range(10)])

    @pytest.mark.parametrize("name", ["pwrite", "ftruncate"])
    def test_keeps_the_first_error_and_stops_writing(self, descriptor: int, name: str):
        sink = Sink(descriptor)
        with Calls("pwrite", "ftruncate") as calls:
            sink.write(b"before")
            with Calls(name, at=(1,), action=fail(errno.EIO)):
                sink.truncate(3) if name == "ftruncate" else sink.write(b"lost")
            made = len(calls.made)
            assert sink.write(b"lost too") == 8
            assert sink.truncate(1) == 1
            assert len(calls.made) == made
        with pytest.raises(OSError, match="Input/output error"):
            sink.check()
        assert os.pread(descriptor, 99, 0) == b"before"


class TestSignalsHeld:
    @pytest.fixture(autouse=True)
    def received(self) -> Iterator[list[int]]:
        received: list[int] = []

        def note(number: int, _frame: object) -> None:
            received.append(number)

        before = signal.signal(signal.SIGTERM, note)
        yield received
        signal.signal(signal.SIGTERM, before)

    def test_delivers_at_the_end(self, received: list[int]):
        with SignalsHeld():
            signal.raise_signal(signal.SIGTERM)
            assert received == []
        assert received == [signal.SIGTERM]

    def test_delivers_where_released(self, received: list[int]):
        with SignalsHeld() as signals:
            signal.raise_signal(signal.SIGTERM)
            with signals.released():
                assert received == [signal.SIGTERM]
                signal.raise_signal(signal.SIGTERM)
                assert received == [signal.SIGTERM] * 2
            signal.raise_signal(signal.SIGTERM)
            assert received == [signal.SIGTERM] * 2
        assert received == [signal.SIGTERM] * 3

    def test_gives_back_the_handlers(self, received: list[int]):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), SignalsHeld():
            signal.raise_signal(signal.SIGINT)
        after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        assert after == before

    def test_leaves_an_ignored_signal_ignored(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with SignalsHeld():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN

    def test_a_second_one_acts_at_once(self):
        def work() -> None:
            with SignalsHeld():
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
                print("not reached")

        assert in_child(work) == (-signal.SIGTERM, "")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_writer_is_interrupted_between_blocks(self, path: Path, number: int):
        class Stop(Exception):
            pass

        def stop(_number: int, _frame: object) -> None:
            raise Stop

        def stream(file: h5py.File) -> Iterator[Block]:
            rows = file.create_dataset("rows", (1, 10), np.uint8, compression="gzip")
            yield rows, slice(0, 1), np.ones((1, 10), np.uint8)
            signal.raise_signal(number)
            pytest.fail("the signal did not act")

        before = signal.signal(number, stop)
        try:
            with pytest.raises(Stop):
                write_hdf5(path, HEADER, stream)
        finally:
            signal.signal(number, before)
        assert list(path.parent.iterdir()) == []

    @pytest.mark.parametrize("call", range(1, 12))
    def test_and_never_within_hdf5(self, path: Path, call: int):
        """A signal during any write of HDF5 waits; the process ends in order."""

        def work() -> None:
            with Calls("pwrite", at=(call,), action=interrupt(signal.SIGINT)):
                write_hdf5(path, HEADER, fill)

        def fill(file: h5py.File) -> None:
            for number in range(5):
                file[f"array{number}"] = np.arange(1000)

        end = in_child(work)
        assert "KeyboardInterrupt" in end.output.splitlines()[-1]
        assert "Exception ignored" not in end.output
        assert list(path.parent.iterdir()) == []


class TestSeveralFiles:
    """Files that are made together: each is whole or not there."""

    @pytest.fixture
    def paths(self, tmp_path: Path) -> list[Path]:
        return [tmp_path / name for name in ("a.h5", "b.h5", "c.h5")]

    def write(self, paths: list[Path], stop: BaseException | None = None) -> list[str]:
        def fill(files: list[h5py.File]) -> Iterator[Block]:
            targets = [file.create_dataset("x", (4,), np.int64) for file in files]
            return blocks(targets)

        def blocks(targets: list[h5py.Dataset]) -> Iterator[Block]:
            for row in range(4):
                for number, target in enumerate(targets):
                    yield target, slice(row, row + 1), np.array([10 * number + row])
                if stop and row == 2:
                    raise stop

        headers = [
            Header(kind="try", schema_version=1, settings={"number": number})
            for number in range(len(paths))
        ]
        return write_hdf5_files(list(zip(paths, headers, strict=True)), fill)

    def test_hold_their_own(self, paths: list[Path]):
        digests = self.write(paths)
        for number, path in enumerate(paths):
            with open_hdf5(path, "try", 1) as (header, file, digest):
                assert digest == digests[number]
                assert header.settings == {"number": number}
                assert file["x"][()].tolist() == [10 * number + row for row in range(4)]

    @pytest.mark.parametrize("stop", [RuntimeError("lost"), KeyboardInterrupt()])
    def test_leave_what_was_there(self, paths: list[Path], stop: BaseException):
        paths[1].write_text("old")
        with pytest.raises(type(stop)):
            self.write(paths, stop)
        assert list(paths[0].parent.iterdir()) == [paths[1]]
        assert paths[1].read_text() == "old"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_are_interrupted_between_blocks(self, paths: list[Path], number: int):
        class Stop(Exception):
            pass

        def stop(_number: int, _frame: object) -> None:
            raise Stop

        def fill(files: list[h5py.File]) -> Iterator[Block]:
            rows = files[1].create_dataset("x", (1,), np.uint8)
            yield rows, slice(0, 1), np.ones(1, np.uint8)
            signal.raise_signal(number)
            pytest.fail("the signal did not act")

        before = signal.signal(number, stop)
        try:
            with pytest.raises(Stop):
                write_hdf5_files([(path, HEADER) for path in paths], fill)
        finally:
            signal.signal(number, before)
        assert list(paths[0].parent.iterdir()) == []

    @pytest.mark.parametrize("name", ["pwrite", "fsync"])
    def test_the_one_that_cannot_be_written_is_named(
        self, paths: list[Path], name: str
    ):
        """Whichever call fails, what is left is whole."""

        def told() -> str:
            try:
                self.write(paths)
            except EnvironmentFault as error:
                return str(error)
            return ""

        def work() -> None:
            folder, named = paths[0].parent, set()
            for call in itertools.count(1):
                with Calls(name, at=(call,), action=fail(errno.EIO)):
                    failed = told()
                for path in paths:
                    if path.exists():
                        with open_hdf5(path, "try", 1):
                            path.unlink()
                assert list(folder.iterdir()) == []
                if not failed:
                    break
                named |= {
                    path.name for path in [*paths, folder] if f"{path}:" in failed
                }
            print(call, *sorted(named - {folder.name}))

        end = in_child(work)
        assert end.code == 0, end.output
        calls, *named = end.output.split()
        assert int(calls) > 2 * len(paths)
        assert named == ["a.h5", "b.h5", "c.h5"]
