"""What a stage works on has changed, in twelve ways at six places: refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import pytest
from injection import command, in_child, snapshot
from tally import Tally, one_error
from world import World, link

from deepme.storage import hdf5
from deepme.storage.json import _digest, _serialise
from deepme.storage.tensors import read_tensors, write_tensors

TIER = "stale lineage"
EDGES = {
    "similarity.h5": "train-expert",
    "groups.json": "train-gate",
    "split.h5": "train-gate",
    "experts/01/training.json": "evaluate",
    "experts/01/weights.safetensors": "train-gate",
    "gate/training.json": "plot-accuracy",
}
"""A file, and a command that reads something made from it."""

Change = Callable[[dict[str, Any]], None]


def wrong_origin(header: dict[str, Any]) -> None:
    header["made_from"] = dict.fromkeys(header["made_from"] or ["x.h5"], "0" * 64)


HEADERS: dict[str, Change] = {
    "other settings": lambda h: h["settings"].update(seed=77),
    "other classes": lambda h: h.update(classes="0" * 64),
    "another kind": lambda h: h.update(kind="gate2"),
    "a newer layout": lambda h: h.update(schema_version=h["schema_version"] + 1),
    "an older layout": lambda h: h.update(schema_version=0),
    "made from other files": wrong_origin,
    "made from a missing file": lambda h: h["made_from"].update({"gone.h5": "0" * 64}),
    "a field too many": lambda h: h.update(more=1),
    "another version": lambda h: h.update(deepme="99.0"),
}


def rewrite(path: Path, change: Change) -> None:
    """Change the header and seal the file anew, as only another deepme would."""
    raw = path.read_bytes()
    path.unlink()  # the file is linked from elsewhere
    path.write_bytes(raw)
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            header = json.loads(file.attrs["deepme"])
            change(header)
            file.attrs["deepme"] = json.dumps(header, sort_keys=True)
        with path.open("r+b", buffering=0) as opened:
            hdf5._seal_file(opened)
    elif path.suffix == ".json":
        document = json.loads(raw)
        header = document["deepme"]
        header.pop("sha256")
        change(header)
        digest = _digest(header, document["content"])
        path.write_bytes(_serialise(header, document["content"], digest))
    else:
        header, tensors, _ = read_tensors(path, "weights", 1)
        values = asdict(header)
        change(values)
        write_tensors(path, Loose(values), tensors)  # type: ignore[arg-type]


class Loose:
    """A header with any values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def to_dict(self) -> dict[str, Any]:
        return self._values


def files(world: World, root: Path, other: Path) -> dict[str, Callable[[Path], None]]:
    """Whole files in the place of others."""

    def put(source: Path, path: Path) -> None:
        path.unlink()
        shutil.copy(source, path)

    def neighbour(path: Path) -> None:
        kin = [p for p in root.rglob(f"*{path.suffix}") if p.name != path.name]
        put(sorted(kin or [root / "gate" / path.name])[0], path)

    return {
        "gone": Path.unlink,
        "another file of this workspace": neighbour,
        "the file of another workspace": lambda path: put(
            other / path.relative_to(root), path
        ),
    }


@pytest.mark.timeout(3600)
def test_refused(world: World, tally: Tally, tmp_path: Path) -> None:
    other = tmp_path / "other"
    link(world.finished, other)
    for stage in ("cluster", "split", "train-expert", "train-gate", "evaluate"):
        seed = ["--seed", "5"] if stage != "evaluate" else []
        assert in_child(command(*world.arguments(stage), *seed, "-w", other)).code == 0
    rewrite(other / "similarity.h5", HEADERS["other settings"])
    root = tmp_path / "workspace"
    link(world.finished, root)
    changes: dict[str, Callable[[Path], None]] = {
        name: lambda path, change=change: rewrite(path, change)
        for name, change in HEADERS.items()
    } | files(world, root, other)
    for (name, reader), (what, change) in (
        (edge, item) for edge in EDGES.items() for item in changes.items()
    ):
        shutil.rmtree(root)
        link(world.finished, root)
        change(root / name)
        before = snapshot(root)
        end = in_child(command(*world.arguments(reader), "-w", root))
        untouched = {
            path: content
            for path, content in snapshot(root).items()
            if path in before and before[path] != content
        }
        tally.case(
            f"{name}, {what}, read by {reader}",
            one_error(end, 2),
            "" if "`deepme " in end.output or "the command" in end.output
            or "remove it" in end.output else "no remedy",
            f"written all the same: {sorted(untouched)}" if untouched else "",
            output=end.output,
        )  # fmt: skip
