"""A VGG for tries on a CPU, in three sizes that timm knows by name."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn


class SmallVGG(nn.Module):
    """A VGG for tries on a CPU: blocks of 3×3 convolutions and poolings.

    1.2 million weights and about 40 million multiplications for 32 px, as
    ``vgg_small``; ``vgg_medium`` has half of both, ``vgg_tiny`` a sixteenth. Batch
    normalisation lets it train from scratch; the mean over places makes it fit any
    image size.

    Args:
        widths: channels of each block of convolutions.
        num_classes: 0 for features only.
    """

    def __init__(
        self,
        widths: tuple[tuple[int, ...], ...] = ((32,), (64,), (128, 128), (256, 256)),
        num_classes: int = 0,
    ) -> None:
        """Build the blocks; each ends by halving the image."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in widths:
            for width in block:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.blocks = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = channels
        self.head = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, d) features, or logits with a classifier."""
        return self.head(self.blocks(images).mean((2, 3)))  # type: ignore[no-any-return]


@register_model
def vgg_small(pretrained: bool = False, **options: Any) -> SmallVGG:
    """Create the small VGG; timm calls this for ``vgg_small``.

    Raises:
        RuntimeError: pre-trained weights were asked for; there are none.
    """
    return _small_vgg(pretrained, options)


@register_model
def vgg_tiny(pretrained: bool = False, **options: Any) -> SmallVGG:
    """Create the small VGG with a quarter of the channels, for ``vgg_tiny``.

    Raises:
        RuntimeError: pre-trained weights were asked for; there are none.
    """
    return _small_vgg(pretrained, options, widths=((8,), (16,), (32, 32), (64, 64)))


@register_model
def vgg_medium(pretrained: bool = False, **options: Any) -> SmallVGG:
    """Create a VGG as large as eight of ``vgg_tiny`` together, for ``vgg_medium``.

    Raises:
        RuntimeError: pre-trained weights were asked for; there are none.
    """
    widths = ((24,), (48,), (96, 96), (184, 184))
    return _small_vgg(pretrained, options, widths=widths)


def _small_vgg(pretrained: bool, options: dict[str, Any], **size: Any) -> SmallVGG:
    if pretrained:
        raise RuntimeError(
            "vgg_small, vgg_medium and vgg_tiny have no pre-trained weights"
        )
    known = {key: options[key] for key in ("num_classes",) if key in options}
    return SmallVGG(**size, **known)
