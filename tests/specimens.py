"""One file of every kind of artifact, each with the product's own way to load it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from injection import Calls, command, in_child, interrupt

KINDS = {
    "similarity": "similarity.h5",
    "memberships": "memberships.h5",
    "groups": "groups.json",
    "split": "split.h5",
    "expert": "experts/01/training.json",
    "expert weights": "experts/01/weights.safetensors",
    "visual similarity": "experts/01/visual_similarity.h5",
    "checkpoint": "experts/02/checkpoint.safetensors",
    "outputs": "outputs/test/01.h5",
    "gate": "gate/training.json",
    "gate weights": "gate/weights.safetensors",
    "calibration": "calibration/gate.json",
    "evaluation": "evaluation/deepme.json",
    "evaluation counts": "evaluation/deepme.h5",
}


class Specimen(NamedTuple):
    """A file and how it is loaded.

    Attributes:
        path: the file, in a workspace of its own.
        load: load it; raises `ArtifactError` if it is bad.
    """

    path: Path
    load: Callable[[], object]


def small_workspace(finished: Path, root: Path, network: str, config: Path) -> Path:
    """Finish a workspace whose networks are tiny, and leave a checkpoint in it."""
    shutil.copytree(finished, root)
    for name in ("experts", "gate", "outputs", "calibration", "evaluation", "figures"):
        shutil.rmtree(root / name)
    settings = ["--config", config, "--workspace", root]
    train = ["train-expert", "--group", "all", "--backbone", network, *settings]
    for work in (train, ["train-gate", *settings], ["evaluate", *settings]):
        end = in_child(command(*work))
        assert end.code == 0, end.output
    again = command(*train, "--group", "2", "--seed", "1")

    def stop() -> None:
        with Calls("replace", at=(2,), action=interrupt(signal.SIGINT)):
            again()

    assert in_child(stop).code == 130
    return root


def specimen(root: Path, kind: str) -> Specimen:
    """The file of a kind in a small workspace."""
    path = root / KINDS[kind]
    return Specimen(path, _LOADERS[kind](root, path))


def _loader(load: Callable[[Path], object]) -> Callable[[Path, Path], Any]:
    return lambda _root, path: lambda: load(path)


def _similarity(path: Path) -> object:
    from deepme.artifacts.similarity import load_similarity

    return load_similarity(path).theta()


def _groups(path: Path) -> object:
    from deepme.artifacts.groups import load_groups

    return load_groups(path)


def _memberships(path: Path) -> object:
    from deepme.artifacts.groups import load_memberships

    return load_memberships(path, 12, 3)


def _split(path: Path) -> object:
    from deepme.artifacts.split import load_split

    return load_split(path)


def _training(path: Path, kind: str) -> object:
    from deepme.artifacts.expert import load_training

    return load_training(path, kind)


def _omega(path: Path) -> object:
    from deepme.artifacts.expert import load_omega

    return load_omega(path, 4)


def _outputs(path: Path) -> object:
    from deepme.artifacts.outputs import load_outputs

    return load_outputs(path, 36, 4)


def _evaluation(path: Path) -> object:
    from deepme.artifacts.evaluation import load_evaluation

    return load_evaluation(path.with_suffix(".json"))


def _calibration(path: Path) -> object:
    from deepme.artifacts.calibration import load_calibration

    return load_calibration(path)


def _checkpoint(path: Path) -> object:
    from deepme.training.checkpoint import resume

    # A bad file is refused before anything of the run is looked at.
    return resume(SimpleNamespace(checkpoint=path))  # type: ignore[arg-type]


def _weights(_root: Path, path: Path) -> Callable[[], object]:
    from deepme.artifacts.expert import load_training
    from deepme.inference import load_weights
    from deepme.storage.tensors import read_tensors

    kind = "gate" if path.parent.name == "gate" else "expert"
    expert = load_training(path.with_name("training.json"), kind)
    wanted = read_tensors(path, "weights", 1)[1]
    return lambda: load_weights(expert, path, wanted)


_LOADERS: dict[str, Callable[[Path, Path], Any]] = {
    "similarity": _loader(_similarity),
    "memberships": _loader(_memberships),
    "groups": _loader(_groups),
    "split": _loader(_split),
    "expert": _loader(lambda path: _training(path, "expert")),
    "expert weights": _weights,
    "visual similarity": _loader(_omega),
    "checkpoint": _loader(_checkpoint),
    "outputs": _loader(_outputs),
    "gate": _loader(lambda path: _training(path, "gate")),
    "gate weights": _weights,
    "calibration": _loader(_calibration),
    "evaluation": _loader(_evaluation),
    "evaluation counts": _loader(_evaluation),
}
