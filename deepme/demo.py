"""The demo: pictures drawn on the spot, and every stage on them in a minute or two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deepme.config import (
    FUSIONS,
    AttentionSettings,
    ClusterSettings,
    EvaluateSettings,
    ExpertSettings,
    FlatSettings,
    GateSettings,
    MachineSettings,
    SimilaritySettings,
    SplitSettings,
)
from deepme.images.drawing import write_demo_images
from deepme.pipeline import Outcome, run_all
from deepme.progress import note
from deepme.recipe import Recipe
from deepme.reporting import page
from deepme.workspace import Workspace

IMAGE_SIZE = 32
IMAGES_PER_CLASS = 60


def demo_recipe(seed: int = 0) -> Recipe:
    """Settings that train from scratch in about a minute on one core."""
    network: dict[str, Any] = {
        "backbone": "vgg_tiny",
        "weights": "none",
        "image_size": IMAGE_SIZE,
        "warmup_epochs": 0,
        "epochs": 30,
        "batch_size": 32,
        "lr": 0.05,
        "lr_end": 0.002,
        "seed": seed,
    }
    return Recipe(
        similarity=SimilaritySettings(),
        cluster=ClusterSettings(num_groups=4, overlap=1.08, seed=seed),
        split=SplitSettings(val=0.1, test=0.2, seed=seed),
        flat=FlatSettings(**network),
        # Each expert goes on from the network of all classes: with a few dozen images
        # a class it learns from scratch little that the flat one does not know.
        expert=ExpertSettings(**network | {"weights": "flat", "epochs": 15}),
        gate=GateSettings(
            weights="flat", epochs=8, batch_size=32, lr=0.05, lr_end=0.002, seed=seed
        ),
        attention=AttentionSettings(batch_size=32, epochs=0, seed=seed),
        evaluate=EvaluateSettings(fusion=FUSIONS),
        # One thread gives the same figures with any number of cores (not on another
        # kind of processor), and on a busy machine it is far faster than two that wait
        # for each other.
        machine=MachineSettings(device="cpu", workers=0, threads=1),
    )


def run(workspace: Workspace, *, seed: int = 0) -> Outcome:
    """Draw the pictures and run all stages; again, continue or redo what changed.

    Args:
        workspace: where pictures and artifacts go.
        seed: of pictures, split and training.

    Returns:
        Groups, results, figures and report.
    """
    recipe = demo_recipe(seed)
    images = workspace.root / f"images-{seed}"
    note(f"drawing {IMAGES_PER_CLASS} pictures a class in {images}")
    write_demo_images(images, per_class=IMAGES_PER_CLASS, size=IMAGE_SIZE, seed=seed)
    # Among six classes nearly everything is right at top 5.
    outcome = run_all(recipe, workspace, data=images, figure_rank=1)
    return replace(outcome, report=page.run(workspace))
