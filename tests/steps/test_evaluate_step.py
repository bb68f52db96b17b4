"""Every number of an evaluation beside its direct computation on hand-made outputs."""

# ruff: noqa: N803, N806
from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from deepme import calibrating, scoring
from deepme.artifacts import outputs as outputs_module
from deepme.artifacts.calibration import CalibrationContent, save_calibration
from deepme.artifacts.evaluation import EvaluationContent
from deepme.artifacts.expert import (
    KIND,
    NONE_OF_THESE,
    SCHEMA,
    Expert,
    Training,
    load_training,
    save_training,
)
from deepme.artifacts.outputs import NewOutputs, save_outputs
from deepme.config import (
    FUSIONS,
    ClusterSettings,
    EvaluateSettings,
    GateSettings,
    MachineSettings,
    SplitSettings,
)
from deepme.errors import ArtifactError, InputError
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.inference import load_network
from deepme.steps import cluster, evaluate
from deepme.steps import split as split_step
from deepme.storage.header import Header
from deepme.systems import NEEDS_GATE, WHOLE
from deepme.workspace import Workspace

MACHINE = MachineSettings(device="cpu", workers=0)
RANKS = (1, 2, 5)
N, T = 12, 3
TAU = 2.5
"""The temperature of every fusion that has one."""
WITH_NONE = 2
"""The expert that has an output for images of other groups."""

Floats = NDArray[np.float64]


class HandMade:
    """A workspace whose experts and gate say what the test wants them to say.

    Attributes:
        workspace: with groups that share classes.
        labels: (B,) of the readable test images.
        logits: T arrays (B, C_t).
        s: (B, T), the gate.
        tau: (T,), the temperatures that the gate has learned, if it has.
    """

    def __init__(self, workspace: Workspace, unreadable: int = 0) -> None:
        rng = np.random.default_rng(7)
        self.tau: Floats | None = None
        self.workspace = workspace
        groups = workspace.groups()
        split = workspace.split(groups.origin)
        self.members = groups.members
        self.rows = split.rows("test")
        readable = np.ones(len(self.rows), dtype=bool)
        readable[:unreadable] = False
        self.labels = split.images.label[self.rows][readable].astype(int)
        self.s = softmax(rng.normal(size=(len(self.labels), T)), axis=1)
        self.logits = []
        for number in range(1, T + 1):
            members = groups.members[number - 1]
            logits = rng.normal(size=(len(self.rows), len(members)))
            logits += 1.5 * (members == split.images.label[self.rows][:, None])
            if number == WITH_NONE:
                logits = np.column_stack([logits, rng.normal(size=len(logits))])
            logits = logits.astype(np.float32)
            self._save_expert(number, logits, readable)
            self.logits.append(logits[readable].astype(float))
        gate = GateSettings(backbone="vgg_small")
        self._save_training(workspace.gate_path, "gate", gate, 0, ("1", "2", "3"))
        self.whole = {}
        for name in ("flat", "attention"):
            whole = rng.normal(size=(len(self.rows), N)).astype(np.float32)
            whole += 2 * (np.arange(N) == split.images.label[self.rows][:, None])
            path = workspace.root / name / "training.json"
            self._save_training(path, name, None, 0, groups.content.classes)
            network = load_training(path, name)
            self._save_outputs(network, whole, readable)
            self.whole[name] = whole[readable].astype(float)
        for fusion in calibrating.CALIBRATED:
            self._save_temperature(fusion)

    def _save_temperature(self, fusion: str) -> None:
        content = CalibrationContent(
            temperature=TAU,
            temperature_slope=0.0,
            images=1,
            loss_before=1.0,
            loss_after=1.0,
            error_before=0.0,
            error_after=0.0,
        )
        path = self.workspace.calibration_path(fusion)
        way = calibrating.Way(fusion)
        save_calibration(path, calibrating._header(self.workspace, way), content)

    def _save_training(
        self,
        path: Path,
        kind: str,
        settings: Any,
        group: int,
        outputs: tuple[str, ...],
    ) -> None:
        groups = self.workspace.groups()
        split = self.workspace.split(groups.origin)
        header = Header(
            kind=kind,
            schema_version=SCHEMA,
            settings=settings.to_dict() if settings else {},
            classes=groups.origin.header.classes,
            made_from=self.workspace.made_from(groups.origin, split.origin),
        )
        training = Training(
            group=group,
            outputs=outputs,
            num_features=4,
            images=1,
            backbone="vgg_small",
            image_size=8,
            history=(),
            skipped=(),
            versions={},
        )
        save_training(path, header, training)

    def _save_expert(
        self, number: int, logits: NDArray[np.float32], readable: NDArray[np.bool_]
    ) -> None:
        workspace = self.workspace
        outputs = workspace.groups().group(number).classes
        if number == WITH_NONE:
            outputs = (*outputs, NONE_OF_THESE)
        self._save_training(workspace.expert_path(number), KIND, None, number, outputs)
        self._save_outputs(workspace.expert(number), logits, readable)

    def _save_outputs(
        self, expert: Expert, logits: NDArray[np.float32], readable: NDArray[np.bool_]
    ) -> None:
        workspace = self.workspace
        groups = workspace.groups()
        header = Header(
            kind=outputs_module.KIND,
            schema_version=outputs_module.SCHEMA,
            settings={"subset": "test", "features": False},
            classes=groups.origin.header.classes,
            made_from=workspace.made_from(
                expert.origin, workspace.split(groups.origin).origin
            ),
        )
        path = workspace.outputs_path("test", expert)
        new = NewOutputs(path=path, header=header, shape=logits.shape)
        answer = logits, np.empty((0, 4), np.float32)
        save_outputs([new], iter([(slice(0, len(logits)), [answer], readable)]))

    def class_logits(self, t: int) -> Floats:
        """Without the output for none of the classes."""
        return self.logits[t][:, : len(self.members[t])]

    def scores(self, fusion: str) -> Floats:
        """F_k(x) = Σ_t φ_t(x) f_t^(k)(x), class by class, or what stands for it."""
        if fusion in WHOLE:
            return softmax(self.whole[fusion], axis=1)
        weights_BT = self.weights(fusion)
        F = np.zeros((len(self.labels), N))
        if fusion == "stacking":
            for k in range(N):
                votes = [
                    softmax(self.logits[t], axis=1)[:, list(members).index(k)]
                    for t, members in enumerate(self.members)
                    if k in members
                ]
                F[:, k] = np.mean(votes, axis=0)
            return F
        for t, members in enumerate(self.members):
            tempered = self.tau is not None and fusion in NEEDS_GATE
            f = softmax(self.logits[t] / (self.tau[t] if tempered else 1), axis=1)
            for position, k in enumerate(members):
                F[:, k] += weights_BT[:, t] * f[:, position]
        return F

    def coarse(self, name: str) -> Floats:
        """A network's probability of each group; shared classes divide it."""
        P = softmax(self.whole[name], axis=1)
        weights = np.zeros((len(P), T))
        for k in range(N):
            holders = [t for t in range(T) if k in self.members[t]]
            for t in holders:
                weights[:, t] += P[:, k] / len(holders)
        return weights

    def weights(self, fusion: str) -> Floats:
        holds = np.array([[y in group for group in self.members] for y in self.labels])
        return {
            "gate": self.s,
            "hard": np.eye(T)[self.s.argmax(axis=1)],
            "equal": np.full((len(self.labels), T), 1 / T),
            "stacking": np.full((len(self.labels), T), 1 / T),
            "coarse": self.coarse("flat"),
            "flat": self.coarse("flat"),
            "attention": self.coarse("attention"),
            "max-logit": softmax(
                np.stack([self.class_logits(t).max(1) for t in range(T)], 1), axis=1
            ),
            "oracle": holds / holds.sum(axis=1, keepdims=True),
        }[fusion]


def hits(scores: Floats, labels: NDArray[np.int_], k: int) -> NDArray[np.bool_]:
    """Whether fewer than k other classes score at least as high as the true one."""
    true = scores[np.arange(len(labels)), labels]
    return (scores >= true[:, None]).sum(axis=1) - 1 < k


def expected_error(P: Floats, labels: NDArray[np.int_]) -> float:
    """How far from its confidence the accuracy of each of 15 bins is."""
    sure, right = P.max(axis=1), P.argmax(axis=1) == labels
    bins = np.minimum((sure * 15).astype(int), 14)
    return float(
        sum(
            (bins == b).mean() * abs(right[bins == b].mean() - sure[bins == b].mean())
            for b in np.unique(bins)
        )
    )


def macro(hit: NDArray[np.bool_], labels: NDArray[np.int_]) -> float:
    return float(np.mean([hit[labels == y].mean() for y in np.unique(labels)]))


@pytest.fixture(scope="module")
def start(
    finished_workspace: Path,
    tiny_images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Groups that share three classes, and a split with 36 test images."""
    root = tmp_path_factory.mktemp("start") / "workspace"
    root.mkdir()
    shutil.copy(finished_workspace / "similarity.h5", root)
    workspace = Workspace(root)
    cluster.run(ClusterSettings(num_groups=T, overlap=1.25), MACHINE, workspace)
    settings = SplitSettings(val=0.1, test=0.25)
    split_step.run(settings, MACHINE, workspace, data=tiny_images, scan=False)
    return root


@pytest.fixture
def copied(start: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(start, tmp_path / "workspace")))


@pytest.fixture
def made(copied: Workspace, monkeypatch: pytest.MonkeyPatch) -> HandMade:
    """In batches of 10, so that counters go over several."""
    made = HandMade(copied)
    monkeypatch.setattr(scoring, "BATCH_SIZE", 10)

    def batches(voters: scoring.Voters, positions: Any) -> Iterator[Any]:
        for start in range(0, len(positions), 10):
            some = torch.from_numpy(made.s[positions[start : start + 10]]).float()
            tau = None if made.tau is None else torch.from_numpy(made.tau).float()
            yield scoring.GateWord(*((some, tau) if voters.gate else (None, None)))

    monkeypatch.setattr(scoring.Voters, "_gate_batches", batches)
    return made


def run(workspace: Workspace, *fusions: str) -> dict[str, EvaluationContent]:
    settings = EvaluateSettings(topk=RANKS, fusion=fusions)
    return {r.fusion: r for r in evaluate.run(settings, MACHINE, workspace)}


@pytest.mark.parametrize("fusion", FUSIONS)
class TestNumbers:
    def test_macro_and_micro(self, made, fusion):
        result = run(made.workspace, fusion)[fusion]
        F = made.scores(fusion)
        for k in RANKS:
            hit = hits(F, made.labels, k)
            assert result.micro[str(k)] == pytest.approx(hit.mean())
            assert result.macro[str(k)] == pytest.approx(macro(hit, made.labels))
        assert result.images == len(made.labels) == 36
        assert result.classes == result.classes_tested == N
        assert result.unreadable == 0
        asked = {"flat": 0, "attention": T}
        weighed = (made.weights(fusion) > 0).sum(axis=1).mean()
        assert result.expert_passes == pytest.approx(asked.get(fusion, weighed))

    def test_the_groups(self, made, fusion):
        result = run(made.workspace, fusion)[fusion]
        weights = made.weights(fusion)
        F = made.scores(fusion)
        heaviest = weights == weights.max(axis=1, keepdims=True)
        share = heaviest / heaviest.sum(axis=1, keepdims=True)
        parts, log_T = weights / weights.sum(axis=1, keepdims=True), np.log(T)
        for t, group in enumerate(result.groups):
            members = made.members[t]
            inside = np.isin(made.labels, members)
            positions = np.searchsorted(members, made.labels[inside])
            assert group.classes == len(members)
            assert group.images == inside.sum()
            assert group.chosen == pytest.approx(share[:, t].mean())
            assert group.load == pytest.approx(parts[:, t].mean())
            assert group.entropy == pytest.approx(
                (share[:, t] * entropy(parts, axis=1)).sum() / share[:, t].sum() / log_T
            )
            for k in RANKS:
                alone = hits(made.class_logits(t)[inside], positions, k)
                expert = {} if fusion in WHOLE else group.expert
                if expert:
                    assert expert[str(k)] == pytest.approx(macro(alone, positions))
                assert bool(group.expert) == (fusion not in WHOLE)
                whole = hits(F, made.labels, k)[inside]
                expected = macro(whole, made.labels[inside])
                assert group.system[str(k)] == pytest.approx(expected)

    def test_how_often_the_heaviest_expert_holds_the_class(self, made, fusion):
        result = run(made.workspace, fusion)[fusion]
        weights = made.weights(fusion)
        heaviest = weights == weights.max(axis=1, keepdims=True)
        share = heaviest / heaviest.sum(axis=1, keepdims=True)
        holds = np.stack([np.isin(made.labels, group) for group in made.members], 1)
        assert result.right_group == pytest.approx((share * holds).sum(1).mean())

    def test_calibration(self, made, fusion):
        result = run(made.workspace, fusion)[fusion]
        F = made.scores(fusion)
        P = F / F.sum(axis=1, keepdims=True)
        expected = expected_error(P, made.labels)
        assert result.calibration_error == pytest.approx(expected, abs=1e-6)
        if fusion not in calibrating.CALIBRATED:
            assert result.temperature is result.calibrated_error is None
            return
        P = P ** (1 / TAU) / (P ** (1 / TAU)).sum(axis=1, keepdims=True)
        expected = expected_error(P, made.labels)
        assert result.temperature == TAU
        assert result.calibrated_error == pytest.approx(expected, abs=1e-6)

    def test_json_and_hdf5_agree(self, made, fusion):
        result = run(made.workspace, fusion)[fusion]
        path = made.workspace.evaluation_path(result.system)
        document = json.loads(path.read_text())
        with h5py.File(path.with_suffix(".h5")) as file:
            counts = {name: file[name][()] for name in file}
        assert counts["topk"].tolist() == list(RANKS)
        assert counts["images"].tolist() == np.bincount(made.labels).tolist()
        for hit, k in zip(counts["hits"], RANKS, strict=True):
            content = document["content"]
            assert content["micro"][str(k)] == hit.sum() / counts["images"].sum()
            accuracy = (hit / counts["images"]).mean()
            assert content["macro"][str(k)] == pytest.approx(accuracy)
        errors = counts["confusions"]
        images, hit, sure = (
            counts[f"bin_{x}"] for x in ("images", "hits", "confidence")
        )
        assert images.sum() == counts["images"].sum()
        assert hit.sum() == counts["hits"][0].sum()
        ece = np.abs(hit - sure).sum() / images.sum()
        assert ece == pytest.approx(content["calibration_error"])
        assert errors[:, 2].sum() == counts["images"].sum() - counts["hits"][0].sum()
        assert (errors[:, 0] != errors[:, 1]).all()


def test_the_oracle_is_always_in_the_right_group(made: HandMade) -> None:
    results = run(made.workspace, "oracle", "equal")
    assert results["oracle"].right_group == 1
    assert results["oracle"].macro["1"] > results["equal"].macro["1"]


def test_confusions_are_the_pairs_that_occurred(made: HandMade) -> None:
    result = run(made.workspace, "equal")["equal"]
    F = made.scores("equal")
    predicted = F.argmax(axis=1)
    wrong = predicted != made.labels
    pairs, counts = np.unique(
        np.stack([made.labels, predicted], 1)[wrong], axis=0, return_counts=True
    )
    path = made.workspace.evaluation_path(result.system).with_suffix(".h5")
    with h5py.File(path) as file:
        assert np.array_equal(file["confusions"], np.column_stack([pairs, counts]))


def test_systems_have_the_papers_names(made: HandMade) -> None:
    results = run(made.workspace, *FUSIONS)
    assert {fusion: result.system for fusion, result in results.items()} == {
        "gate": "deepme",
        "equal": "deepme-nogate",
        "hard": "ssc-hard",
        "max-logit": "ssc-max-logit",
        "oracle": "ssc-oracle",
        "stacking": "ssc-stacking",
        "coarse": "ssc-coarse",
        "attention": "deepme-attention",
        "flat": "vgg16-ext",
    }


def test_unreadable_images_are_left_out_and_counted(copied: Workspace) -> None:
    made = HandMade(copied, unreadable=4)
    result = run(copied, "equal")["equal"]
    assert (result.images, result.unreadable) == (32, 4)
    assert result.classes_tested == len(np.unique(made.labels)) == 11
    hit = hits(made.scores("equal"), made.labels, 1)
    assert result.macro["1"] == pytest.approx(macro(hit, made.labels))


def test_no_readable_test_image(copied: Workspace) -> None:
    HandMade(copied, unreadable=36)
    with pytest.raises(InputError, match="no test image that can be read"):
        run(copied, "equal")
    assert not (copied.root / "evaluation").exists()


def test_fusions_without_a_gate_need_none(made: HandMade) -> None:
    made.workspace.gate_path.unlink()
    run(made.workspace, "equal", "max-logit", "oracle")
    with pytest.raises(ArtifactError, match="run `deepme train-gate`"):
        run(made.workspace, "hard")


def test_fusions_without_the_flat_network_need_none(made: HandMade) -> None:
    made.workspace.flat_path.unlink()
    run(made.workspace, "equal", "gate")
    for fusion in ("flat", "coarse"):
        with pytest.raises(ArtifactError, match="run `deepme train-flat`"):
            run(made.workspace, fusion)


def test_the_flat_network_alone_needs_no_expert(made: HandMade) -> None:
    shutil.rmtree(made.workspace.root / "experts")
    result = run(made.workspace, "flat")["flat"]
    right = made.whole["flat"].argmax(axis=1) == made.labels
    assert result.micro["1"] == right.mean()
    with pytest.raises(ArtifactError, match="run `deepme train-expert --group 1`"):
        run(made.workspace, "flat", "equal")


def test_learned_temperatures_are_those_of_the_gate_alone(made: HandMade) -> None:
    fusions = ("gate", "hard", "equal", "oracle", "max-logit")
    before = run(made.workspace, *fusions)
    made.tau = np.array([0.05, 1.0, 20.0])
    for path in (made.workspace.root / "evaluation").iterdir():
        path.unlink()
    after = run(made.workspace, *fusions)
    for fusion in fusions:
        hit = hits(made.scores(fusion), made.labels, 1)
        assert after[fusion].micro["1"] == pytest.approx(hit.mean())
        assert (after[fusion] == before[fusion]) == (fusion not in NEEDS_GATE)


def test_attention_alone_needs_no_outputs_of_experts(made: HandMade) -> None:
    shutil.rmtree(made.workspace.root / "experts")
    result = run(made.workspace, "attention")["attention"]
    right = made.whole["attention"].argmax(axis=1) == made.labels
    assert result.micro["1"] == right.mean()
    made.workspace.attention_path.unlink()
    with pytest.raises(ArtifactError, match="run `deepme train-attention`"):
        run(made.workspace, "attention")


class TestRealGate:
    """A finished workspace, whose gate is a network."""

    def test_s_is_the_gates_softmax_of_the_centre_view(self, tiny_workspace):
        workspace = Workspace(tiny_workspace)
        groups = workspace.groups()
        split = workspace.split(groups.origin)
        dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
        network = load_network(workspace.gate(), workspace)
        right = []
        for batch in evaluation_batches(dataset, split.rows("test"), 5, 0):
            chosen = network(batch.inputs)[0].argmax(dim=1)
            for t, label in zip(chosen.tolist(), batch.labels.tolist(), strict=True):
                right.append(label in groups.members[t])
        assert run(workspace, "hard")["hard"].right_group == np.mean(right)

    def test_features_as_input(self, tiny_workspace, invoke, tiny_config):
        common = ("--config", tiny_config, "-w", tiny_workspace)
        ended = invoke("train-gate", "--input", "features", "--epochs", 30, *common)
        assert ended.code == 0, ended.stderr
        workspace = Workspace(tiny_workspace)
        val_top1 = workspace.gate().training.history[-1].val_top1
        result = run(workspace, "gate")["gate"]
        assert val_top1 > 0.6
        assert result.right_group > 0.6

    def test_again_it_is_up_to_date(self, tiny_workspace, invoke, tiny_config):
        paths = sorted((tiny_workspace / "evaluation").iterdir())
        before = [path.stat().st_mtime_ns for path in paths]
        ended = invoke("evaluate", "--config", tiny_config, "-w", tiny_workspace)
        assert "the evaluation is up to date" in ended.stderr
        assert [path.stat().st_mtime_ns for path in paths] == before

    def test_json_on_stdout_parses(self, tiny_workspace, invoke, tiny_config):
        common = ("--config", tiny_config, "-w", tiny_workspace)
        ended = invoke("evaluate", "--topk", "1,3", "--json", *common)
        documents = json.loads(ended.stdout)
        assert [document["fusion"] for document in documents] == [
            "gate",
            "equal",
            "oracle",
        ]
        assert documents[0]["macro"].keys() == {"1", "3"}

    def test_the_table_has_a_line_a_system_and_chance(
        self, tiny_workspace, invoke, tiny_config
    ):
        ended = invoke("evaluate", "--config", tiny_config, "-w", tiny_workspace)
        lines = [line.split() for line in ended.stdout.splitlines() if line.strip()]
        firsts = [line[0] for line in lines]
        for name in ("deepme", "deepme-nogate", "ssc-oracle", "chance"):
            assert name in firsts
        chance = lines[firsts.index("chance")]
        assert chance[1:] == ["8.3%", "25.0%", "8.3%", "25.0%"]
        assert lines[-1][:4] == ["36", "test", "images", "of"]
