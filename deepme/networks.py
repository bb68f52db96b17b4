"""The networks: a timm trunk with a linear head, and a gate on experts' features.

With `small_vgg` the only module that imports timm. Letters: B images, C outputs, d
features, S pixels.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import timm
import timm.layers
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import deepme.small_vgg  # noqa: F401 - timm then knows vgg_small and others
from deepme.errors import EnvironmentFault, InputError, UsageError
from deepme.storage.given import open_given
from deepme.storage.tensors import read_plain
from deepme.text import clean, listing

M = TypeVar("M", bound=nn.Module)

FEATURE_LENGTH = 16.0
"""Of all experts' features together, on average, as the head sees them.

Attention sees them with length 1: with more it learns too fast and takes the head with
it.
"""

PASSES_A_STEP = 3
"""Forward passes that a training step costs: the backward pass is worth two."""


class Network(nn.Module):
    """A trunk and a linear head; takes pixels as bytes.

    Args:
        trunk: a timm model without classifier, giving (B, d) features.
        num_outputs: C.
        mean: of each channel, in [0, 1], subtracted from the pixels.
        std: of each channel.
        shrink: pixels a side that are averaged into one before the trunk.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        num_outputs: int,
        *,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        shrink: int = 1,
    ) -> None:
        """Draw the head's first weights after Glorot, as the paper does."""
        super().__init__()
        self.trunk, self.shrink = trunk, shrink
        self.num_features = int(trunk.head_hidden_size)  # type: ignore[arg-type]
        self.head = nn.Linear(self.num_features, num_outputs)
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, S, S) uint8 to logits (B, C) and features (B, d)."""
        return self.of_features(self.features(images))

    def of_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map the trunk's features (B, d) to logits (B, C) and features (B, d)."""
        return self.head(features), features

    def features(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) uint8 to features (B, d)."""
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        # A batch of unreadable images is empty, and transformers cannot reshape it.
        if images.shape[0] == 0:
            return pixels.new_empty(0, self.num_features)
        if self.shrink > 1:
            pixels = nn.functional.avg_pool2d(pixels, self.shrink)
        return self.trunk(pixels)  # type: ignore[no-any-return]


class FeatureGate(nn.Module):
    """A gate on the experts' concatenated features, perhaps with their confidences.

    Args:
        num_features: summed width of all of that.
        num_outputs: T.
        width: of the hidden layer.
    """

    def __init__(self, num_features: int, num_outputs: int, width: int = 256) -> None:
        """Normalise first: experts' features differ in scale."""
        super().__init__()
        self.normalize = nn.LayerNorm(num_features)
        self.hidden = nn.Linear(num_features, width)
        self.head = nn.Linear(width, num_outputs)
        for layer in (self.hidden, self.head):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, Σd) features to logits (B, T) and the hidden layer (B, width)."""
        hidden = torch.relu(self.hidden(self.normalize(features)))
        return self.head(hidden), hidden


class FlatGate(FeatureGate):
    """A gate on the flat network: its probability of each group, corrected.

    Its logits are log φ + FeatureGate(h), with φ the flat network's probability of the
    T groups and h its features. The correction starts at 0, so the gate starts as the
    coarse classifier of HD-CNN (Yan et al., 2015) and learns where that is wrong.
    """

    def __init__(self, num_features: int, num_outputs: int, width: int = 256) -> None:
        """Begin without a correction."""
        super().__init__(num_features, num_outputs, width)
        nn.init.zeros_(self.head.weight)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, d + T), features and φ, to logits (B, T) and the hidden layer."""
        (num_features,) = self.normalize.normalized_shape
        corrections, hidden = super().forward(seen[:, :num_features])
        shares = seen[:, num_features:].clamp(min=torch.finfo(seen.dtype).tiny)
        return shares.log() + corrections, hidden


class AttentionNetwork(nn.Module):
    """All experts side by side, attention over their features, one head for all.

    The logits of all N classes are Σ_t a_t(x) W_t h_t(x) + b, with h_t the features of
    expert t, standardised, and a = T · softmax(U [h_1 … h_T] + c). At the start U and c
    are 0: every expert counts alike, and attention grows only where it pays. All
    features together are scaled to a length that does not depend on the number and
    width of the experts, so that one learning rate serves any of them.

    Args:
        experts: T trained networks; they lose their own heads.
        num_outputs: N.
        learned: whether there is attention; else every a_t stays 1.
    """

    def __init__(
        self, experts: Sequence[Network], num_outputs: int, *, learned: bool
    ) -> None:
        """Take over the experts' trunks, and draw the new head."""
        super().__init__()
        widths = [expert.num_features for expert in experts]
        for expert in experts:
            del expert.head
        self.trunk = nn.ModuleList(experts)
        self.widths = widths
        self.normalize = nn.BatchNorm1d(sum(widths), affine=False)
        self.attention = nn.Linear(sum(widths), len(experts)) if learned else None
        if self.attention:
            nn.init.zeros_(self.attention.weight)
            nn.init.zeros_(self.attention.bias)
        self.head = nn.Linear(sum(widths), num_outputs)
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, S, S) uint8 to logits (B, N) and weighed features (B, Σd)."""
        parts = [expert.features(images) for expert in self.trunk]  # type: ignore[operator]
        return self.of_features(torch.cat(parts, dim=1))

    def of_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map the experts' features (B, Σd), as they are, to the same."""
        scaled = self.normalize(features) / sum(self.widths) ** 0.5
        if self.attention:
            weights = len(self.widths) * self.attention(scaled).softmax(dim=1)
            each = scaled.split(self.widths, dim=1)
            scaled = torch.cat(
                [weights[:, [t]] * part for t, part in enumerate(each)], dim=1
            )
        scaled = FEATURE_LENGTH * scaled
        return self.head(scaled), scaled


def create_network(
    backbone: str, num_outputs: int, *, weights: str, image_size: int, shrink: int = 1
) -> Network:
    """Build a network; the head is always new.

    Args:
        backbone: a timm model's name.
        num_outputs: C.
        weights: hub, none, or a local file with the trunk's weights.
        image_size: S, of the images that it is given.
        shrink: a divisor of S: the trunk sees images of S / shrink pixels a side.

    Raises:
        UsageError: no such timm model, one that does not fit the image size, or no
            such divisor.
        EnvironmentFault: the hub could not be reached.
        InputError: the local file does not fit the network.
    """
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=3, cutoff=0.5)
        raise UsageError(
            f"--backbone is {clean(backbone)}, expected a timm model",
            f"did you mean {listing(near)}?" if near else "see timm.list_models()",
        )
    if image_size % shrink:
        raise UsageError(
            f"--shrink is {shrink}, expected a divisor of the {image_size} pixels a "
            "side that the experts see"
        )
    seen = image_size // shrink
    trunk = _create_trunk(backbone, weights == "hub", seen)
    if weights not in ("hub", "none"):
        _load_trunk(trunk, Path(weights))
    _require_fit(trunk, backbone, seen)
    config = getattr(trunk, "pretrained_cfg", None) or {}
    statistics = {key: tuple(config[key]) for key in ("mean", "std") if key in config}
    network = Network(trunk, num_outputs, **statistics, shrink=shrink)
    # Convolutions are faster with the channels innermost, on GPUs and CPUs alike.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def with_shared_statistics(network: M, group: Any) -> M:
    """Have batch normalisation take its statistics over all of a group's GPUs.

    Args:
        network: any.
        group: the process group.
    """
    converted = timm.layers.convert_sync_batchnorm(network, group)  # type: ignore
    return cast(M, converted)


@torch.no_grad()
def take_over_head(
    network: Network, path: Path, rows: Sequence[int] | None = None
) -> None:
    """Begin with outputs that another network has learned.

    Args:
        network: its first outputs are set, the others stay as they were drawn.
        path: weights of a deepme network with the same backbone.
        rows: outputs of that network, in the order in which they are taken over; None
            for all of them.
    """
    state = _read_state(path)
    index = (
        torch.arange(len(state["head.bias"])) if rows is None else torch.tensor(rows)
    )
    network.head.weight[: len(index)] = state["head.weight"][index]
    network.head.bias[: len(index)] = state["head.bias"][index]


def take_over(network: nn.Module, path: Path) -> None:
    """Begin with all that another network has learned.

    Args:
        network: to begin with it.
        path: weights of a deepme network of the same form.

    Raises:
        InputError: it has another form.
    """
    state, wanted = _read_state(path), network.state_dict()
    shapes = {name: value.shape for name, value in state.items()}
    if shapes != {name: value.shape for name, value in wanted.items()}:
        raise InputError(
            f"--weights {clean(str(path))} are of another kind of network",
            "use --weights none",
        )
    network.load_state_dict(state)


def forward_flops(network: nn.Module, image_size: int) -> int:
    """Count the floating-point operations of one image (a multiply-add is two).

    Args:
        network: on images.
        image_size: S.
    """
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    was_training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image.to(next(network.parameters()).device))
    network.train(was_training)
    return int(counter.get_total_flops())


def _create_trunk(backbone: str, pretrained: bool, image_size: int) -> nn.Module:
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    fixed = bool(config and config.fixed_input_size)
    options: dict[str, Any] = {"img_size": image_size} if fixed else {}
    try:
        return timm.create_model(
            backbone, pretrained=pretrained, num_classes=0, **options
        )
    except (AssertionError, ValueError) as error:
        raise _misfit(backbone, image_size, error) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        first_line = str(error).splitlines()[0]
        raise EnvironmentFault(
            f"cannot get the pre-trained weights of {clean(backbone)}: "
            f"{clean(first_line)}",
            "give a local file with --weights FILE, or --weights none",
        ) from error


@torch.no_grad()
def _require_fit(trunk: nn.Module, backbone: str, image_size: int) -> None:
    """Try one blank image: most networks tell only then that it is too small."""
    try:
        trunk.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _misfit(backbone, image_size, error) from error
    trunk.train()


def _misfit(backbone: str, image_size: int, error: Exception) -> UsageError:
    return UsageError(
        f"{clean(backbone)} does not work at --image-size {image_size}: "
        f"{clean(str(error).splitlines()[0] if str(error) else type(error).__name__)}",
        "use another size; most backbones take multiples of 32",
    )


def _load_trunk(trunk: nn.Module, path: Path) -> None:
    """Load a trunk's weights; a classifier in the file is left out.

    Takes timm's own files and the weights of a deepme expert or gate.
    """
    state = _read_state(path)
    if any(name.startswith("trunk.") for name in state):
        state = {
            name.removeprefix("trunk."): value
            for name, value in state.items()
            if name.startswith("trunk.")
        }
    wanted = trunk.state_dict()
    missing = [name for name in wanted if name not in state]
    wrong = [
        name
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if missing or wrong:
        raise InputError(
            f"{clean(str(path))} does not fit the backbone: "
            f"{len(missing)} tensors are missing and {len(wrong)} have another shape "
            f"({listing([*missing, *wrong], 3)})",
            "name the backbone the file was made for with --backbone",
        )
    trunk.load_state_dict({name: state[name] for name in wanted})


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        with open_given(path) as file:
            if path.suffix == ".safetensors":
                return read_plain(file)[1]
            _require_stored(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except EnvironmentFault:
        raise
    except Exception as error:
        # torch.load ends broken files in pickle, zip, EOF and runtime errors alike.
        if not isinstance(error, ValueError | OSError):
            reason = f"{type(error).__name__}, no plain weights file"
        else:
            reason = str(error)
        raise InputError(
            f"cannot read --weights {clean(str(path))}: {clean(reason)}",
            "expected hub, none, or a .safetensors or .pth file",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise InputError(f"--weights {clean(str(path))} holds no plain dict of tensors")
    if any(
        value.layout != torch.strided or value.is_quantized for value in state.values()
    ):
        raise InputError(
            f"--weights {clean(str(path))} holds tensors that are not dense"
        )
    return state


def _require_stored(path: Path) -> None:
    """Refuse a zip file that unpacks to more than it holds; torch compresses nothing.

    Raises:
        ValueError: a member is compressed, or members lie over one another.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its members unpack to more than the file holds")
