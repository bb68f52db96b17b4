"""The settings of each stage: one definition of default, range, help and option.

The command line (options.py), TOML files and Python callers all build these frozen
dataclasses; a value outside its range never gets further than their construction.
Defaults are the paper's where the paper gives one (docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from deepme.errors import UsageError
from deepme.settings import Settings, setting
from deepme.text import listing, suggestion

MAX_SEED = 2**63 - 1

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "best": {},
    "paper": {
        "train-gate": {
            "selection": 1.0,
            "relevance": 1.0,
            "consistency": 0.1,
            "margin": 1.0,
            "likelihood": 0.0,
        },
    },
}
"""Defaults by name: what does best on validation images, or what the paper says.

Table of the TOML file -> key -> value, where it is not the default below.
"""


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings(Settings):
    """Semantic similarity of the classes (method section 1)."""

    section: ClassVar[str] = "similarity"

    formula: str = setting(
        "standard",
        "Leacock–Chodorow as NLTK computes it, or as the paper prints it",
        choices=("standard", "paper"),
    )
    wordnet: str = setting(
        "", "folder of another WordNet, read through NLTK (default: built-in 3.0)"
    )


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Settings):
    """Groups of classes, by soft spectral clustering or else (method section 2)."""

    section: ClassVar[str] = "cluster"
    windows_overlap: ClassVar[float] = 1.1

    method: str = setting(
        "ssc",
        "what groups are: clusters of Θ, the same sizes by chance, windows over the "
        "taxonomy, clusters of the flat network's confusions, or all classes",
        choices=("ssc", "random", "windows", "confusion", "single"),
    )
    num_groups: int = setting(
        15, "number of groups = experts", option="T", at_least=1, at_most=10_000
    )
    delta: float = setting(
        0.3, "a class joins every group with p ≥ δ", at_least=0, at_most=1
    )
    fuzzifier: float = setting(
        1.3, "fuzzifier m of fuzzy c-means: more is softer", above=1, at_most=10
    )
    overlap: float | None = setting(
        None,
        "wanted mean number of groups a class; finds δ itself (windows: "
        f"{windows_overlap:g} if not given)",
        at_least=1,
    )
    max_classes: int = setting(
        1000, "a larger group loses its weakest shared classes", at_least=1
    )
    seed: int = setting(
        0, "seed of starting centres and chance", at_least=0, at_most=2**32 - 1
    )


@dataclass(frozen=True, kw_only=True)
class SelectSettings(Settings):
    """The grid of ``cluster --select`` (the paper: T and δ by cross-validation)."""

    section: ClassVar[str] = "select"

    grid_groups: tuple[int, ...] = setting(
        (2, 5, 10, 15, 20, 30),
        "with --select: numbers of groups to try",
        option="grid-T",
    )
    grid_delta: tuple[float, ...] = setting(
        (0.05, 0.1, 0.2, 0.3), "with --select: values of δ to try"
    )

    def __post_init__(self) -> None:
        """Check each number.

        Raises:
            UsageError: an empty grid, a T below 2 or a δ outside [0, 1].
        """
        super().__post_init__()
        if not self.grid_groups or min(self.grid_groups) < 2:
            raise UsageError(
                f"--grid-T is {','.join(map(str, self.grid_groups))}, expected numbers "
                "of at least 2, as in 5,10,15"
            )
        if not self.grid_delta or not all(0 <= x <= 1 for x in self.grid_delta):
            raise UsageError(
                f"--grid-delta is {','.join(map(str, self.grid_delta))}, expected "
                "numbers from 0 to 1, as in 0.1,0.3"
            )


@dataclass(frozen=True, kw_only=True)
class SplitSettings(Settings):
    """Train, validation and test images (85/5/10 in the paper)."""

    section: ClassVar[str] = "split"

    val: float = setting(
        0.05, "share of a class for validation", at_least=0, at_most=0.9
    )
    test: float = setting(0.10, "share of a class for testing", at_least=0, at_most=0.9)
    seed: int = setting(0, "seed of the split", at_least=0, at_most=MAX_SEED)

    def __post_init__(self) -> None:
        """Also refuse shares that leave no image to train on.

        Raises:
            UsageError: a value outside its range, or val + test of 1 and more.
        """
        super().__post_init__()
        if self.val + self.test >= 1:
            raise UsageError(
                f"--val {self.val:g} and --test {self.test:g} leave nothing to train "
                "on, expected val + test < 1"
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Settings):
    """Two stages of SGD: the head alone, then all layers (method section 3)."""

    augment: str = setting(
        "crop",
        "training views: crop (random crop, flip) or none",
        choices=("crop", "none"),
    )
    warmup_epochs: int = setting(
        5, "epochs of the head alone, the trunk frozen", at_least=0, at_most=100_000
    )
    epochs: int = setting(
        20, "epochs of fine-tuning all layers", at_least=0, at_most=100_000
    )
    batch_size: int = setting(256, "images a step", at_least=1, at_most=1_000_000)
    warmup_lr: float = setting(0.01, "learning rate at the start of warm-up", above=0)
    warmup_lr_end: float = setting(0.001, "and at its end", above=0)
    lr: float = setting(0.001, "learning rate at the start of fine-tuning", above=0)
    lr_end: float = setting(0.00001, "and at its end (exponential decay)", above=0)
    momentum: float = setting(0.9, "momentum of SGD", at_least=0, at_most=0.9999)
    weight_decay: float = setting(0.0005, "L2 of all layers but the head", at_least=0)
    lambda1: float = setting(
        0.0005, "λ1: weight of tr(WWᵀ), the head's own weight decay", at_least=0
    )
    precision: str = setting(
        "auto",
        "arithmetic: bfloat16 on CUDA and float32 on CPU when auto",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = setting(
        0, "seed of initial weights, order and views", at_least=0, at_most=MAX_SEED
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(ScheduleSettings):
    """A classifier: its network and its schedule (method section 3)."""

    backbone: str = setting(
        "vgg16", "any timm model, or vgg_small, vgg_medium, vgg_tiny for the CPU"
    )
    weights: str = setting(
        "hub", "hub (timm's pre-trained), none, or a local .safetensors or .pth file"
    )
    image_size: int = setting(224, "pixels a side", at_least=8, at_most=4096)
    ema: float | None = setting(
        None,
        "validate and write the moving average of the weights; this share of it is "
        "kept at each step (0.999 looks back a thousand steps)",
        above=0,
        at_most=0.999999,
    )
    warmup: str = setting(
        "views",
        "warm-up learns from new views in every epoch, or from a cache of the frozen "
        "trunk's features that all experts share",
        choices=("views", "cache"),
    )


@dataclass(frozen=True, kw_only=True)
class FlatSettings(NetworkSettings):
    """One network over all classes, the paper's VGG16-Ext (method section 5).

    In a TOML file it follows ``[train-expert]`` where ``[train-flat]`` says nothing, so
    that both get one budget.
    """

    section: ClassVar[str] = "train-flat"
    falls_back_on: ClassVar[str] = "train-expert"

    weights: str = setting(
        "hub",
        "hub (timm's pre-trained), before (what it was before extend), none, or a "
        "local .safetensors or .pth file",
    )

    def __post_init__(self) -> None:
        """Also refuse to start from itself.

        Raises:
            UsageError: a value outside its range, or weights ``flat``.
        """
        super().__post_init__()
        if self.weights == "flat":
            raise UsageError(
                "--weights is flat, but it is the flat network that is trained; "
                "expected hub, before, none, or a .safetensors or .pth file",
                "set weights in the [train-flat] table",
            )


@dataclass(frozen=True, kw_only=True)
class ExpertSettings(NetworkSettings):
    """One expert: its network, Eq. 1 and the two-stage schedule (method section 3)."""

    section: ClassVar[str] = "train-expert"

    weights: str = setting(
        "hub",
        "hub (timm's pre-trained), flat (trunk and head of what train-flat trained), "
        "before (what it was before extend), none, or a local .safetensors or .pth "
        "file",
    )
    lambda2: float = setting(
        0.001, "λ2: weight of the visual regulariser Ω", at_least=0
    )
    lambda3: float = setting(
        0.001, "λ3: weight of the semantic regulariser Θ", at_least=0
    )
    omega_momentum: float = setting(
        0.5, "share of the old Ω kept at each epoch's update", at_least=0, at_most=0.999
    )
    others: float = setting(
        0.0,
        "images of other groups, as a share of the group's own, that teach an extra "
        "output: none of these",
        at_least=0,
        at_most=100,
    )


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings):
    """The gate: its network, loss and schedule (method section 4)."""

    section: ClassVar[str] = "train-gate"

    input: str = setting(
        "images",
        "what it sees: images through a network of its own; flat: the flat network's "
        "features and its probability of each group; the experts' features; or those "
        "and how sure each expert is (confidences)",
        choices=("images", "flat", "features", "confidences"),
    )
    learn_from: str = setting(
        "train",
        "images it learns from: train, or val, which no expert has seen",
        choices=("train", "val"),
    )
    temperature: str = setting(
        "one",
        "what divides an expert's logits: one, or a number an expert, learned",
        choices=("one", "learned"),
    )
    backbone: str = setting(
        "same", "its network on images: a timm model, or the experts' own"
    )
    shrink: int = setting(
        1,
        "on images: each side is divided by this, by averaging pixels; 2 costs a "
        "quarter",
        at_least=1,
        at_most=64,
    )
    weights: str = setting(
        "hub",
        "hub (timm's pre-trained), flat (the trunk that train-flat trained), before "
        "(what it was before extend), none, or a local .safetensors or .pth file",
    )
    augment: str = setting(
        "crop",
        "training views: crop (random crop, flip) or none",
        choices=("crop", "none"),
    )
    warmup: str = setting(
        "cache",
        "on images: warm-up learns from the frozen trunk's features of the centre "
        "view, computed once, or from new views in every epoch",
        choices=("cache", "views"),
    )
    warmup_epochs: int = setting(
        0, "epochs of all but the trunk of a gate on images, which is frozen",
        at_least=0, at_most=100_000,
    )  # fmt: skip
    epochs: int = setting(20, "epochs of all layers", at_least=0, at_most=100_000)
    batch_size: int = setting(256, "images a step", at_least=1, at_most=1_000_000)
    warmup_lr: float = setting(0.01, "learning rate at the start of warm-up", above=0)
    warmup_lr_end: float = setting(0.001, "and at its end", above=0)
    lr: float = setting(0.001, "learning rate when all layers learn", above=0)
    lr_end: float = setting(0.0001, "and at the end (exponential decay)", above=0)
    momentum: float = setting(0.9, "momentum of SGD", at_least=0, at_most=0.9999)
    weight_decay: float = setting(0.0005, "L2 of all layers", at_least=0)
    selection: float = setting(
        0.0, "weight of Eq. 4 part 1: loss of the experts it trusts", at_least=0
    )
    relevance: float = setting(
        0.0, "weight of −Σ q log s: promote the relevant experts", at_least=0
    )
    consistency: float = setting(
        0.0, "weight of Eq. 4 part 2: equal trust for shared classes", at_least=0
    )
    margin: float = setting(
        0.0, "weight α of Eq. 4 part 3: the true class ahead by β", at_least=0
    )
    likelihood: float = setting(
        1.0, "weight of −log P(y), the likelihood of the mixture", at_least=0
    )
    beta: float = setting(0.1, "β: the margin", at_least=0, at_most=1)
    kappa: float = setting(
        1.0, "κ: loss of an expert without the class is log C + κ", at_least=0
    )
    precision: str = setting(
        "auto",
        "arithmetic: bfloat16 on CUDA and float32 on CPU when auto",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = setting(
        0, "seed of initial weights, order and views", at_least=0, at_most=MAX_SEED
    )


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(ScheduleSettings):
    """Attention over the experts' features, trained with them (method section 4)."""

    section: ClassVar[str] = "train-attention"

    warmup: str = setting(
        "cache",
        "warm-up learns from the experts' features of the centre view, computed once, "
        "or from new views in every epoch",
        choices=("cache", "views"),
    )
    warmup_epochs: int = setting(
        30, "epochs of attention and head, the experts frozen", at_least=0,
        at_most=100_000,
    )  # fmt: skip
    epochs: int = setting(
        5, "epochs of joint training, the experts with them; 0 keeps them as they are",
        at_least=0, at_most=100_000,
    )  # fmt: skip
    batch_size: int = setting(64, "images a step", at_least=1, at_most=1_000_000)
    warmup_lr: float = setting(0.1, "learning rate at the start of warm-up", above=0)
    warmup_lr_end: float = setting(0.001, "and at its end", above=0)
    lr: float = setting(0.001, "learning rate at the start of joint training", above=0)
    lambda1: float = setting(
        0.0001, "λ1: weight of tr(WWᵀ), the head's own weight decay", at_least=0
    )
    attention: str = setting(
        "equal",
        "weights of the experts' features: all equal, or learned from them",
        choices=("equal", "learned"),
    )


@dataclass(frozen=True, kw_only=True)
class RoutedSettings(Settings):
    """To which experts an image is shown (method section 4)."""

    route_top: int | None = setting(
        None,
        "ask only the N experts that the gate trusts most (default: all)",
        at_least=1,
    )
    route_least: float = setting(
        0.0,
        "ask only experts whose weight reaches this, or the first",
        at_least=0,
        at_most=1,
    )


def require_gate(route_top: int | None, route_least: float, asked: str) -> None:
    """Refuse a route where no gate answers, which is who chooses experts.

    Args:
        route_top: experts asked at most; None for all.
        route_least: smallest weight that asks an expert.
        asked: what answers, as options.

    Raises:
        UsageError: a route was asked for.
    """
    if route_top is None and not route_least:
        return
    top = "" if route_top is None else f"--route-top {route_top}"
    raise UsageError(
        f"{top or f'--route-least {route_least:g}'} has the gate choose among the "
        f"experts, but with {asked} no gate is asked",
        "leave one of the two out",
    )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(RoutedSettings):
    """What is said of a user's images, and by whom."""

    section: ClassVar[str] = "predict"

    guesses: int = setting(5, "guesses an image", option="topk", at_least=1)
    answer_by: str = setting(
        "gate",
        "who answers",
        option="fusion",
        choices=("gate", "attention", "flat"),
    )
    backoff: float | None = setting(
        None,
        "answer with the nearest ancestor in the taxonomy whose probability reaches "
        "this",
        at_least=0,
        at_most=1,
    )

    def __post_init__(self) -> None:
        """Also refuse a route without a gate.

        Raises:
            UsageError: a value outside its range, or such a route.
        """
        super().__post_init__()
        if self.answer_by != "gate":
            asked = f"--fusion {self.answer_by}"
            require_gate(self.route_top, self.route_least, asked)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(RoutedSettings):
    """What leaves the workspace, and in which form."""

    section: ClassVar[str] = "export"

    format: str = setting(
        "onnx",
        "one ONNX graph, or a folder for a model hub (safetensors, labels, model card)",
        choices=("onnx", "hub"),
    )
    answer_by: str = setting(
        "gate",
        "who answers",
        option="fusion",
        choices=("gate", "attention", "flat"),
    )
    only: int | None = setting(
        None,
        "export the expert of this group alone, for the group's classes",
        option="group",
        at_least=1,
    )
    check: int = setting(
        16, "images of the split on which the export must agree with PyTorch",
        at_least=2, at_most=100_000,
    )  # fmt: skip
    license: str = setting(
        "unknown", "licence named in the model card, as hubs name it (apache-2.0)"
    )

    def __post_init__(self) -> None:
        """Also refuse a route without a gate, and a fusion of one expert.

        Raises:
            UsageError: a value outside its range, or such a route or fusion.
        """
        super().__post_init__()
        whose = f"--fusion {self.answer_by}"
        if self.only is not None:
            if self.answer_by != "gate":
                raise UsageError(
                    f"--group {self.only} asks one expert, but {whose} was given",
                    "leave one of the two out",
                )
            whose = f"--group {self.only}"
        if self.only is not None or self.answer_by != "gate":
            require_gate(self.route_top, self.route_least, whose)


@dataclass(frozen=True, kw_only=True)
class RouteSettings(Settings):
    """How few experts an image needs to be shown to."""

    section: ClassVar[str] = "route"

    tolerance: float = setting(
        0.002,
        "largest loss of macro top-1 on validation images against asking all experts",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True)
class ExtendSettings(Settings):
    """How much is learned anew when classes are added."""

    section: ClassVar[str] = "extend"

    share: float = setting(
        0.35,
        "epochs of what goes on learning, as a share of those it has had",
        above=0,
        at_most=10,
    )


@dataclass(frozen=True, kw_only=True)
class MachineSettings(Settings):
    """How a run uses the machine; no setting here makes another model.

    Device and threads change the order of additions, so the last bits differ. Compact
    outputs round what a gate's margin and an evaluation are computed from.
    """

    section: ClassVar[str] = "machine"

    device: str = setting("auto", "auto (CUDA if there is one), cpu, cuda or cuda:1")
    workers: int = setting(
        2, "processes that decode images; 0 decodes in the main one", at_least=0,
        at_most=256,
    )  # fmt: skip
    keep_images: float = setting(
        1.0,
        "GB for decoded images kept in memory between epochs, if all of a network's "
        "fit; 0 decodes anew",
        at_least=0,
        at_most=100_000,
    )
    outputs: str = setting(
        "auto",
        "networks' answers on disk: exact, or compact (the 32 largest, the sum, the "
        "true class's), or compact where a file would exceed 4 GB",
        choices=("auto", "exact", "compact"),
    )
    threads: int = setting(
        0,
        "threads of the CPU's arithmetic; 0 takes all cores",
        at_least=0,
        at_most=1024,
    )
    jobs: int = setting(
        0,
        "experts trained at the same time, each in its process; 0 takes one a GPU",
        at_least=0,
        at_most=1024,
    )
    on_bad: str = setting(
        "stop", "an unreadable image: stop, or skip it and list it",
        choices=("stop", "skip"),
    )  # fmt: skip
    max_bad: float = setting(
        0.001, "with --on-bad skip: largest share of bad images", at_least=0, at_most=1
    )
    checkpoint_minutes: float = setting(
        10.0, "longest time between two checkpoints", above=0
    )
    accumulate: int = setting(
        1,
        "micro-batches that a batch is computed in where memory is short; batch "
        "normalisation takes its statistics in each",
        at_least=1,
        at_most=1_000_000,
    )
    compile: bool | None = setting(
        None,
        "compile networks that are trained (default: on CUDA if there is a C compiler, "
        "not on a CPU)",
    )
    deterministic: bool = setting(
        False,
        "on CUDA take slower algorithms that give the same bits every time; on a CPU "
        "training does so anyway",
    )
    timeout: float = setting(
        60.0,
        "under torchrun: seconds without a sign of life after which a process is lost",
        above=0,
        at_most=86_400,
    )
    tensorboard: bool = setting(
        False, "also write each epoch's loss, accuracy and rate for TensorBoard"
    )


FUSIONS = (
    "gate",
    "equal",
    "stacking",
    "max-logit",
    "coarse",
    "hard",
    "oracle",
    "attention",
    "flat",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(RoutedSettings):
    """What is measured on the test images."""

    section: ClassVar[str] = "evaluate"

    topk: tuple[int, ...] = setting((1, 3, 5), "ranks of the top-k accuracies")
    fusion: tuple[str, ...] = setting(
        ("gate",), f"how the experts are weighed: {', '.join(FUSIONS)}"
    )

    def __post_init__(self) -> None:
        """Check each rank and each fusion.

        Raises:
            UsageError: an empty list, a rank below 1 or an unknown fusion.
        """
        super().__post_init__()
        if not self.topk or min(self.topk) < 1 or len(set(self.topk)) < len(self.topk):
            raise UsageError(
                f"--topk is {','.join(map(str, self.topk))}, expected different ranks "
                "of at least 1, as in 1,3,5"
            )
        named = set(self.fusion)
        if not named or named - set(FUSIONS) or len(named) < len(self.fusion):
            unknown = [name for name in self.fusion if name not in FUSIONS]
            raise UsageError(
                f"--fusion is {listing(list(self.fusion))}, "
                f"expected one or more of {', '.join(FUSIONS)}, each once",
                suggestion(unknown[0], FUSIONS).strip() if unknown else "",
            )
        if "gate" not in self.fusion:
            asked = f"--fusion {','.join(self.fusion)}"
            require_gate(self.route_top, self.route_least, asked)
