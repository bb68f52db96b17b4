"""What users get wrong: an exit code, one `error:` line with the remedy, no damage."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deepme import outputs
from deepme.artifacts.expert import load_training
from deepme.training import expert as expert_module
from deepme.training.expert import ExpertTask
from deepme.training.gate import GateTask
from deepme.workspace import Workspace

DOG, CAT = "n02084071", "n02121620"
USAGE, ENVIRONMENT, TRAINING = 2, 3, 4

Refuse = Callable[..., str]


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file but locks and the like."""
    return {
        path.relative_to(root).as_posix(): (
            path.stat().st_size,
            path.stat().st_mtime_ns,
        )
        for path in root.rglob("*")
        if path.is_file() and path.name not in (".deepme.lock", ".deepme.holder")
    }


@pytest.fixture
def workspace(tiny_workspace: Path, tiny_config: Path, monkeypatch) -> Path:
    """A finished workspace, taken by every command that names no other."""
    monkeypatch.setenv("DEEPME_WORKSPACE", str(tiny_workspace))
    return tiny_workspace


@pytest.fixture
def images(tiny_images: Path, tmp_path: Path) -> Path:
    """A copy of the pictures to damage."""
    return Path(shutil.copytree(tiny_images, tmp_path / "images"))


@pytest.fixture
def refuse(workspace: Path, invoke) -> Refuse:
    """Run a command that must fail; return its error line."""

    def run(*arguments: object, code: int = USAGE, may_write: bool = False) -> str:
        before = contents(workspace)
        ended = invoke(*arguments)
        assert ended.code == code, ended.stderr
        lines = ended.stderr.splitlines()
        errors = [line for line in lines if line.lower().startswith("error")]
        assert len(errors) == 1, ended.stderr
        assert lines[-1] == errors[0]
        assert errors[0].startswith("error: ")
        output = ended.stdout + ended.stderr
        for sign in ("Traceback", "bug of deepme", "\x1b"):
            assert sign not in output
        if not may_write:
            assert contents(workspace) == before
        assert not list(workspace.rglob(".tmp-*"))
        return errors[0]

    return run


LONG = "x" * 4096

OPTIONS: dict[str, tuple[str, str]] = {
    # cluster
    "T of 0": ("cluster --T 0", "--T is 0, expected ≥ 1 and ≤ 10,000"),
    "T below 0": ("cluster --T -1", "--T is -1, expected ≥ 1"),
    "T above N": ("cluster --T 13", "--T is 13, expected at most the 12 classes of"),
    "T of words": ("cluster --T many", "Invalid value for '--T'"),
    "T of 10^30": (f"cluster --T {10**30}", "--T"),
    "delta below 0": ("cluster --delta -0.1", "--delta is -0.1, expected ≥ 0 and ≤ 1"),
    "delta above 1": ("cluster --delta 1.5", "--delta is 1.5, expected ≥ 0 and ≤ 1"),
    "delta NaN": ("cluster --delta nan", "--delta is nan, expected ≥ 0 and ≤ 1"),
    "fuzzifier 1": ("cluster --fuzzifier 1", "--fuzzifier is 1.0, expected > 1"),
    "overlap below 1": (
        "cluster --T 3 --overlap 0.5",
        "--overlap is 0.5, expected ≥ 1",
    ),
    "overlap above T": (
        "cluster --T 3 --overlap 4",
        "--overlap is 4, expected at most",
    ),
    "an unknown method": ("cluster --method magic", "--method is magic, expected one"),
    # split
    "no data": ("split", "Missing option '--data'; see `"),
    "data nowhere": ("split --data nowhere", "nowhere, expected a folder of class"),
    "data of a long name": (f"split --data {LONG}", "cannot list"),
    "shares of 1": ("split --data x --val 0.5 --test 0.5", "leave nothing to train on"),
    "share NaN": ("split --data x --val nan", "--val is nan, expected ≥ 0 and ≤ 0.9"),
    "seed of 2^63": (f"split --data x --seed {2**63}", "--seed is 9223372036854775808"),
    # train-expert
    "no group": ("train-expert", "Missing option '--group'"),
    "group 0": ("train-expert --group 0", "--group names group 0, expected 1 to 3"),
    "group above T": ("train-expert --group 1-4", "names group 4, expected 1 to 3"),
    "group of words": (
        "train-expert --group most",
        "--group is most, expected numbers",
    ),
    "no numbers": ("train-expert --group ,", "--group is ,, expected numbers and"),
    "a range backwards": (
        "train-expert --group 3-1",
        "--group is 3-1, expected numbers",
    ),
    "a huge range": ("train-expert --group 1-999999999", "expected numbers and ranges"),
    "batch of 0": (
        "train-expert --group 1 --batch-size 0",
        "--batch-size is 0, expected",
    ),
    "lr of 0": ("train-expert --group 1 --lr 0", "--lr is 0.0, expected > 0"),
    "lr infinite": ("train-expert --group 1 --lr inf", "--lr is inf, expected > 0"),
    "lr of 1e999": ("train-expert --group 1 --lr 1e999", "--lr is inf, expected > 0"),
    "epochs below 0": (
        "train-expert --group 1 --epochs -1",
        "--epochs is -1, expected",
    ),
    "lambda NaN": (
        "train-expert --group 1 --lambda2 nan",
        "--lambda2 is nan, expected",
    ),
    "an unknown backbone": (
        "train-expert --group 1 --backbone vgg61",
        "--backbone is vgg61, expected a timm model; did you mean",
    ),
    "an image size too small": (
        "train-expert --group 1 --backbone test_vit --weights none --image-size 10",
        "test_vit does not work at --image-size 10: ",
    ),
    "weights nowhere": (
        "train-expert --group 1 --weights nowhere.pth",
        "cannot read --weights nowhere.pth: No such file",
    ),
    "weights of a long name": (
        f"train-expert --group 1 --weights {LONG}",
        "File name too long; expected hub, none, or a .safetensors or .pth file",
    ),
    "no such device": (
        "train-expert --group 1 --device cuda:99",
        "--device is cuda:99, expected auto or one of cpu",
    ),
    # train-gate
    "an unknown input": (
        "train-gate --input sound",
        "--input is sound, expected one of",
    ),
    "kappa below 0": ("train-gate --kappa -1", "--kappa is -1.0, expected ≥ 0"),
    # evaluate
    "rank 0": ("evaluate --topk 0", "--topk is 0, expected"),
    "rank of words": ("evaluate --topk five", "--topk is five, expected numbers and"),
    "an unknown fusion": (
        "evaluate --fusion vote",
        "--fusion is vote, expected one or",
    ),
    # plot-accuracy
    "a rank not evaluated": (
        "plot-accuracy --topk 7",
        "--topk is 7, expected a rank that was evaluated: 1, 3; or run `deepme",
    ),
    # all
    "no such command": ("clutser", "No such command 'clutser'"),
    "no such option": ("cluster --dleta 0.3", "No such option: --dleta"),
    "an argument too many": ("cluster again", "unexpected extra argument"),
    "no settings file": ("cluster --config nowhere.toml", "cannot read --config"),
    "settings of a long name": (f"cluster --config {LONG}", "cannot read --config"),
    "run without images": (
        "run --data nowhere",
        "nowhere is no folder of class folders",
    ),
    "classes nowhere": (
        "similarity --classes nowhere",
        "--classes is nowhere, expected a",
    ),
    "classes of a long name": (f"similarity --classes {LONG}", "--classes is xxxx"),
    "matrix of a long name": (f"similarity --matrix {LONG}.npy", "has no labels"),
    "a matrix of another kind": (
        "similarity --matrix a.xls",
        "expected a .csv, .npy or",
    ),
    "no classes": (
        "similarity",
        "none of --classes, --hierarchy and --matrix is given, expected one",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_outside_its_range(refuse: Refuse, name: str) -> None:
    line, message = OPTIONS[name]
    assert message in refuse(*line.split())


class TestClasses:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (f"{DOG}\nn00000000\n", "n00000000"),
            (f"{DOG}\nN02121620\n", "N02121620"),
            (f"{DOG}\nwolf\n", "wolf"),
            (
                f"{DOG}\n{CAT}\n{DOG}\n",
                f"names 1 class more than once: {DOG}; name each",
            ),
            (f"{DOG}\n", "names 1 class, expected at least 2"),
            ("", "names 0 classes, expected at least 2"),
            (f"{DOG}\nn\x1b[31m1\n", "x1b[31m1"),
        ],
        ids=["unknown", "upper case", "a name", "twice", "one", "none", "an escape"],
    )
    def test_a_list_that_cannot_be_used(self, refuse, tmp_path, text, message):
        path = tmp_path / "classes.txt"
        path.write_text(text)
        assert message in refuse("similarity", "--classes", path)

    # k-means says it too; what counts here is how the command ends.
    @pytest.mark.filterwarnings("ignore:Number of distinct clusters")
    @pytest.mark.parametrize(
        "matrix", [np.ones((3, 3)), np.eye(3), np.zeros((3, 3))], ids=["1", "I", "0"]
    )
    @pytest.mark.parametrize("num_groups", [1, 2, 3])
    def test_a_matrix_without_structure_clusters_or_is_refused(
        self, tmp_path, invoke, matrix, num_groups
    ):
        np.save(tmp_path / "own.npy", matrix)
        (tmp_path / "classes.txt").write_text("a\nb\nc\n")
        given = (
            "--matrix",
            tmp_path / "own.npy",
            "--classes",
            tmp_path / "classes.txt",
        )
        root = tmp_path / "w"
        assert invoke("similarity", *given, "-w", root).code == 0
        ended = invoke("cluster", "--T", num_groups, "-w", root)
        assert ended.code in (0, USAGE), ended.stderr
        if ended.code:
            assert "use --T " in ended.stderr
        else:
            assert Workspace(root).groups().num_groups == num_groups


class TestImages:
    def test_a_compressed_tar(self, refuse, images, tmp_path):
        with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
            archive.add(images / DOG, DOG)
        line = refuse("split", "--data", tmp_path / "images.tar.gz")
        assert "unpack it with gunzip first" in line

    def test_a_file_that_is_no_tar(self, refuse, images):
        line = refuse("split", "--data", images / DOG / "00.png")
        assert "as a tar file" in line

    def test_a_gzip_that_is_no_tar(self, refuse, tmp_path):
        path = tmp_path / "images.tar"
        path.write_bytes(gzip.compress(b"text"))
        assert "as a tar file" in refuse("split", "--data", path)

    def test_run_on_a_tar_needs_the_classes(self, refuse, images, tmp_path):
        tar = shutil.make_archive(str(tmp_path / "all"), "tar", images)
        assert "name the classes with --classes" in refuse("run", "--data", tar)

    def test_an_empty_class_folder_is_reported_and_its_expert_refused(
        self, refuse, images, invoke, tiny_config
    ):
        for path in (images / DOG).iterdir():
            path.unlink()
        ended = invoke("split", "--data", images)
        assert ended.code == 0
        assert f"1 class without images: {DOG}" in ended.stdout
        line = refuse(
            *("train-expert", "--group", "all", "--config", tiny_config), may_write=True
        )
        assert f"have no training image, first {DOG} (dog)" in line
        assert "add images and rerun `deepme split`" in line

    def test_images_that_are_gone(self, refuse, images, invoke, tiny_config):
        assert invoke("split", "--data", images).code == 0
        shutil.rmtree(images)
        line = refuse("train-expert", "--group", 1, "--config", tiny_config)
        assert f"cannot read image {images}/" in line
        assert "there is no regular file of this name" in line


class TestUnreadableImages:
    """One training picture of each of two classes is damaged."""

    @pytest.fixture
    def damaged(self, workspace: Path, images: Path, invoke) -> list[Path]:
        assert invoke("split", "--data", images, "--test", 0.25).code == 0
        space = Workspace(workspace)
        groups = space.groups()
        split = space.split(groups.origin)
        first, second = groups.members[0][:2]
        paths = []
        for label in (first, second):
            row = split.rows("train", np.array([label]))[0]
            paths.append(images / split.images.paths[int(row)])
        paths[0].write_bytes(paths[0].read_bytes()[:-40])
        paths[1].write_text("<html>not found</html>")
        return paths

    def train(self, *options: object) -> tuple[object, ...]:
        return ("train-expert", "--group", 1, "--epochs", 2, *options)

    def test_stop_the_training_with_path_and_reason(self, refuse, damaged, tiny_config):
        line = refuse(*self.train("--config", tiny_config))
        reasons = ("OSError: ", "not a JPEG, PNG, WEBP, BMP or GIF file")
        named = [
            f"cannot read image {path}: {reason}" in line
            for path, reason in zip(damaged, reasons, strict=True)
        ]
        assert any(named)
        assert "--on-bad skip" in line

    def test_are_skipped_counted_and_listed(
        self, workspace, damaged, images, invoke, tiny_config
    ):
        skip = ("--on-bad", "skip", "--max-bad", 0.1, "--config", tiny_config)
        ended = invoke(*self.train(*skip))
        assert ended.code == 0, ended.stderr
        assert ended.stderr.count("warning: skipped ") == 2
        training = load_training(workspace / "experts/01/training.json").training
        listed = {path for path, _ in training.skipped}
        assert listed == {path.relative_to(images).as_posix() for path in damaged}

    def test_more_of_them_than_allowed(self, refuse, damaged, tiny_config):
        skip = ("--on-bad", "skip", "--max-bad", 0.02, "--config", tiny_config)
        line = refuse(*self.train(*skip))
        assert "images cannot be read, expected at most --max-bad 0.02 of them" in line
        assert "list them all with `deepme split --scan`" in line

    def test_every_stage_goes_on_without_them(
        self, workspace, damaged, invoke, tiny_config
    ):
        skip = ("--on-bad", "skip", "--max-bad", 0.1, "--config", tiny_config)
        split = Workspace(workspace).split(Workspace(workspace).groups().origin)
        victim = split.images.root / split.images.paths[int(split.rows("test")[0])]
        victim.write_bytes(b"")
        for command in (
            ("train-expert", "--group", "all"),
            ("train-gate",),
            ("evaluate", "--json"),
        ):
            ended = invoke(*command, *skip)
            assert ended.code == 0, ended.stderr
        result = json.loads(ended.stdout)[0]
        assert result["unreadable"] == 1
        assert result["images"] == len(split.rows("test")) - 1
        gate = Workspace(workspace).gate().training
        assert gate.images == len(split.rows("train")) - 2


class TestArtifacts:
    @pytest.mark.parametrize(
        ("missing", "command", "remedy"),
        [
            ("similarity.h5", "cluster", "run `deepme similarity"),
            ("similarity.h5", "split --data x", "run `deepme similarity"),
            ("similarity.h5", "train-flat", "run `deepme similarity"),
            ("split.h5", "train-flat", "run `deepme split"),
            ("split.h5", "cluster --method confusion --T 3", "run `deepme train-flat`"),
            (
                "gate",
                "train-expert --group 1 --weights flat",
                "run `deepme train-flat`",
            ),
            ("gate", "train-gate --weights flat", "run `deepme train-flat`"),
            ("gate", "evaluate --fusion coarse", "run `deepme train-flat`"),
            ("groups.json", "train-expert --group 1", "run `deepme cluster`"),
            ("split.h5", "train-expert --group 1", "run `deepme split"),
            ("split.h5", "train-gate", "run `deepme split"),
            (
                "experts/02/training.json",
                "train-gate",
                "run `deepme train-expert --group 2`",
            ),
            ("gate/training.json", "evaluate", "run `deepme train-gate`"),
            ("evaluation", "plot-accuracy", "run `deepme evaluate`"),
        ],
    )
    def test_missing_names_the_command_that_makes_it(
        self, refuse, workspace, missing, command, remedy
    ):
        path = workspace / missing
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert remedy in refuse(*command.split())

    def test_stale_names_what_changed_and_the_command(
        self, refuse, workspace, images, invoke, tiny_config
    ):
        shutil.rmtree(images / DOG)
        assert invoke("similarity", "--classes", images).code == 0
        stale = "groups.json is stale: similarity.h5 has changed since it was made"
        for command in (
            ("train-expert", "--group", 1),
            ("train-gate",),
            ("evaluate",),
            ("plot-accuracy",),
        ):
            line = refuse(*command)
            assert stale in line
            assert "rerun `deepme cluster`" in line
        assert invoke("cluster", "--config", tiny_config).code == 0
        line = refuse("train-expert", "--group", 1)
        assert "split.h5 was made for another class list than groups.json" in line
        assert "rerun `deepme split" in line

    def test_an_evaluation_of_an_older_gate(self, refuse, invoke, tiny_config):
        trained = invoke("train-gate", "--config", tiny_config, "--seed", 5)
        assert trained.code == 0, trained.stderr
        line = refuse("plot-accuracy", "--topk", 1)
        assert "is stale: gate/training.json has changed since it was made" in line
        assert "rerun `deepme evaluate" in line

    def test_corrupt_says_remove_and_rerun(self, refuse, workspace):
        path = workspace / "split.h5"
        raw = bytearray(path.read_bytes())
        raw[-9] ^= 4
        path.write_bytes(raw)
        line = refuse("train-expert", "--group", 1)
        assert "split.h5 is corrupt: its content does not match its sha256" in line

    def test_weights_of_another_expert(self, refuse, workspace):
        shutil.copy(
            workspace / "experts/01/weights.safetensors",
            workspace / "experts/02/weights.safetensors",
        )
        line = refuse("train-gate")
        assert "experts/02/training.json is stale" in line
        assert "rerun `deepme train-expert --group 2`" in line


class TestSettingsFile:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[cluster\n", "cannot read --config"),
            ("T = 3\n", "has a table or key [T], expected tables named similarity"),
            ("[cluster]\nt = 3\n", "sets unknown t in [cluster]; the settings of"),
            ("[cluster]\nT = 'three'\n", "is 'three': Input should be a valid integer"),
            ("[cluster]\nT = 0\n", "--T is 0, expected ≥ 1"),
            ("[cluster]\ndelta = nan\n", "--delta is nan, expected"),
            ("[evaluate]\ntopk = 'all'\n", "[evaluate] topk is 'all'"),
        ],
    )
    def test_is_refused(self, refuse, tmp_path, text, message):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        command = "evaluate" if "evaluate" in text else "cluster"
        assert message in refuse(command, "--config", path)


class TestPlace:
    def test_a_workspace_that_is_a_file(self, refuse, tmp_path):
        (tmp_path / "file").write_text("")
        classes = tmp_path / "classes.txt"
        classes.write_text(f"{DOG}\n{CAT}\n")
        line = refuse("similarity", "--classes", classes, "-w", tmp_path / "file")
        assert "a file; expected a folder" in line

    def test_a_workspace_that_is_not_there(self, refuse, tmp_path):
        line = refuse("cluster", "-w", tmp_path / "nowhere")
        assert "similarity.h5 is missing; run `deepme similarity" in line
        assert not (tmp_path / "nowhere").exists()


def at_step(monkeypatch, task: type, step: int, act: Callable[[], None]) -> None:
    loss, calls = task.loss, iter(range(1_000))

    def counted(self: object, batch: object) -> object:
        if next(calls) == step:
            act()
        return loss(self, batch)

    monkeypatch.setattr(task, "loss", counted)


class TestTrainingFails:
    """The checkpoint is kept, and the same command then goes on to the end."""

    @pytest.fixture
    def train(self, tiny_config: Path) -> tuple[object, ...]:
        options = ("--config", tiny_config, "--seed", 4, "--checkpoint-minutes", 1e-9)
        return ("train-expert", "--group", 1, *options)

    def assert_goes_on(self, workspace: Path, invoke, train) -> None:
        checkpoint = workspace / "experts/01/checkpoint.safetensors"
        assert checkpoint.exists()
        ended = invoke(*train)
        assert ended.code == 0, ended.stderr
        assert "continues in " in ended.stderr
        assert not checkpoint.exists()

    def test_out_of_memory_names_the_batch_size(
        self, refuse, workspace, invoke, train, monkeypatch
    ):
        def out_of_memory() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

        at_step(monkeypatch, ExpertTask, 3, out_of_memory)
        line = refuse(*train, code=ENVIRONMENT, may_write=True)
        assert "out of memory with --batch-size 8 on cpu" in line
        assert "use a smaller --batch-size or --image-size" in line
        self.assert_goes_on(workspace, invoke, train)

    def test_a_loss_that_is_not_finite(
        self, refuse, workspace, invoke, train, monkeypatch
    ):
        def broken(**arguments: torch.Tensor) -> tuple[torch.Tensor, dict[str, object]]:
            return arguments["logits_BC"].sum() * float("nan"), {}

        with monkeypatch.context() as patched:
            at_step(
                patched,
                ExpertTask,
                3,
                lambda: patched.setattr(expert_module, "expert_objective", broken),
            )
            line = refuse(*train, code=TRAINING, may_write=True)
        assert "loss nan and gradient norm nan in warmup epoch 1 step 4" in line
        assert "lower the learning rate; the last checkpoint is kept" in line
        self.assert_goes_on(workspace, invoke, train)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_with_a_checkpoint(
        self, refuse, workspace, invoke, train, monkeypatch, number
    ):
        at_step(monkeypatch, ExpertTask, 3, lambda: os.kill(os.getpid(), number))
        line = refuse(*train, code=128 + number, may_write=True)
        assert "interrupted; its checkpoint is written" in line
        self.assert_goes_on(workspace, invoke, train)

    def test_a_batch_of_one_on_batch_normalisation(self, refuse, tiny_config):
        """At 8 pixels the last layer of vgg_small is one value wide."""
        line = refuse(
            *("train-expert", "--group", 1, "--batch-size", 1, "--warmup-epochs", 0),
            *("--config", tiny_config),
        )
        assert "a batch of one image is too small" in line
        assert "use a larger --batch-size or --image-size" in line

    def test_ctrl_c_in_the_gate(self, refuse, invoke, tiny_config, monkeypatch):
        command = ("train-gate", "--config", tiny_config, "--seed", 4)
        interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        at_step(monkeypatch, GateTask, 3, interrupt)
        refuse(*command, code=130, may_write=True)
        ended = invoke(*command)
        assert ended.code == 0
        assert "gate: continues in gate epoch 1 step 5" in ended.stderr


class TestOutsideTheLoop:
    @pytest.fixture
    def stop_forward(self, monkeypatch) -> Callable[[BaseException], None]:
        def stop(error: BaseException) -> None:
            def load(*_: object) -> None:
                raise error

            monkeypatch.setattr(outputs, "load_network", load)

        return stop

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (
                torch.OutOfMemoryError("CUDA out of memory."),
                3,
                "out of memory: CUDA out",
            ),
            (RuntimeError("can't allocate memory: 9 GB"), 3, "out of memory: can't"),
            (MemoryError(), 3, "out of memory; free memory"),
            (
                RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
                4,
                "a process that decodes images was lost: DataLoader worker (pid 7)",
            ),
            (
                RuntimeError("DataLoader timed out after 120 seconds"),
                4,
                "was lost: Data",
            ),
            (
                OSError(5, "Input/output error", "a\x1bb"),
                3,
                "error: a\\x1bb: Input/out",
            ),
            (KeyboardInterrupt(), 130, "error: interrupted"),
        ],
        ids=str,
    )
    def test_is_told_in_one_line(
        self, refuse, workspace, stop_forward, tiny_config, error, code, message
    ):
        shutil.rmtree(workspace / "outputs/test")
        stop_forward(error)
        line = refuse("evaluate", "--config", tiny_config, code=code)
        assert message in line

    def test_a_bug_keeps_its_traceback_in_a_file(
        self, workspace, invoke, stop_forward, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        shutil.rmtree(workspace / "outputs/test")
        stop_forward(ZeroDivisionError("a\x1bb"))
        ended = invoke("evaluate")
        assert ended.code == 1
        (line,) = ended.stderr.splitlines()
        assert "error: ZeroDivisionError: a\\x1bb; this is a bug of deepme" in line
        log = Path(line.rpartition(" ")[2])
        assert "Traceback" in log.read_text()


class TestEdges:
    """At the rim of what is allowed: these must work."""

    def test_two_classes_in_two_groups_without_validation(
        self, tmp_path, images, tiny_config, invoke
    ):
        for folder in images.iterdir():
            if folder.name not in (DOG, CAT):
                shutil.rmtree(folder)
        ended = invoke(
            *("run", "--data", images, "-w", tmp_path / "w", "--config", tiny_config),
            *("--T", 2, "--val", 0, "--batch-size", 1000, "--topk", "1,5", "--json"),
        )
        assert ended.code == 0, ended.stderr
        results = json.loads(ended.stdout)["results"]
        assert all(result["macro"]["5"] == 1 for result in results)

    def test_a_subset_of_which_nothing_can_be_read(
        self, workspace, images, tiny_config, invoke
    ):
        common = ("--config", tiny_config, "--on-bad", "skip", "--max-bad", 1)
        assert invoke("split", "--data", images, "--config", tiny_config).code == 0
        split = Workspace(workspace).split(Workspace(workspace).groups().origin)
        for row in split.rows("val"):
            (images / split.images.paths[int(row)]).write_bytes(b"")
        for command in (("train-expert", "--group", "all"), ("train-gate",)):
            ended = invoke(*command, *common)
            assert ended.code == 0, ended.stderr
        history = Workspace(workspace).gate().training.history
        assert [epoch.val_top1 for epoch in history] == [None, None]

    def test_a_class_with_one_image(self, workspace, images, tiny_config, invoke):
        for path in sorted((images / DOG).iterdir())[1:]:
            path.unlink()
        common = ("--config", tiny_config)
        assert invoke("split", "--data", images, *common).code == 0
        for command in (("train-expert", "--group", "all"), ("train-gate",)):
            ended = invoke(*command, *common)
            assert ended.code == 0, ended.stderr
        ended = invoke("evaluate", "--json", *common)
        result = json.loads(ended.stdout)[0]
        assert (result["classes"], result["classes_tested"]) == (12, 11)
