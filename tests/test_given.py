"""Files that the user names: regular and of a sane size, or refused in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Command
from injection import Calls, fail
from safetensors.torch import save_file

from deepme.errors import DeepmeError, EnvironmentFault, InputError
from deepme.images.index import find_images
from deepme.networks import create_network
from deepme.storage.given import MAX_BYTES, open_given, read_given
from deepme.training.record import identifying_settings

SETTINGS = "--config", "toml", ("cluster",)
TEXTS = {
    "settings": SETTINGS,
    "class list": ("--classes", "txt", ("similarity",)),
    "class index": ("--classes", "json", ("similarity",)),
    "hierarchy": ("--hierarchy", "csv", ("similarity",)),
}
"""Option, suffix and command."""
OTHERS = {
    "matrix as text": ("--matrix", "csv", ("similarity",)),
    "matrix of numpy": ("--matrix", "npy", ("similarity", "--classes", "imagenet1k")),
    "matrix in HDF5": ("--matrix", "h5", ("similarity",)),
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


CASES = [
    (name, make)
    for names, makes in ((TEXTS, (pipe, device, large)), (OTHERS, (pipe, device)))
    for name in names
    for make in makes
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "make"), CASES, ids=[f"{name}, {make.__name__}" for name, make in CASES]
)
def test_is_refused_in_one_line(
    invoke: Command,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], None],
) -> None:
    option, suffix, command = (TEXTS | OTHERS)[name]
    path = tmp_path / f"given.{suffix}"
    make(path)
    ended = invoke(*command, option, path, "-w", tmp_path / "w")
    assert ended.code == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line
    what = {pipe: "it is a pipe, expected", device: "it is a device, expected"}
    assert what.get(make, "16,777,217 bytes, expected at most 16,777,216") in line
    assert not list((tmp_path / "w").glob("[!.]*"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [pipe, device, folder])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_are_no_file(
    tmp_path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    make(path)
    for read in (
        lambda: create_network("vgg_small", 2, weights=str(path), image_size=8),
        lambda: identifying_settings(
            SimpleNamespace(weights=str(path), to_dict=lambda: {})
        ),
    ):
        with pytest.raises(InputError, match=r"cannot read --weights .* it is a "):
            read()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [pipe, device])
def test_archives_that_are_no_file(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "n02084071.tar")
    message = f"it is a {make.__name__}, expected a regular file"
    with pytest.raises(InputError, match=message):
        find_images(tmp_path, {"n02084071": 0}, lambda _: None)


def test_a_file_without_a_size_is_read_no_further_than_the_limit() -> None:
    """Of those in /proc the size is 0 whatever is in them."""
    assert read_given(Path("/proc/self/status"))
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_given(Path("/proc/self/status"), 10)


@pytest.mark.parametrize("call", ["stat", "open"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENFILE])
def test_an_error_of_the_machine_is_no_bad_input(
    tmp_path: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "given.txt"
    path.write_text("a")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, call, refuse)
        with pytest.raises(EnvironmentFault, match=os.strerror(code)) as caught:
            read_given(path)
    assert isinstance(caught.value, DeepmeError)
    assert caught.value.exit_code == 3


def test_weights_of_a_failing_disk(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with (
        Calls("fstat", at=(1,), action=fail(errno.EIO)),
        pytest.raises(EnvironmentFault, match="Input/output error"),
        open_given(path) as file,
    ):
        os.fstat(file.fileno())
