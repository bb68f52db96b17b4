"""What is clustered, and by what: Θ or confusions, under some settings."""

# ruff: noqa: N803, N806
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from deepme.artifacts.outputs import Outputs
from deepme.artifacts.similarity import Similarity
from deepme.config import ClusterSettings, MachineSettings
from deepme.core.clustering import SoftSpectralClustering
from deepme.core.confusion import SoftConfusions
from deepme.core.twins import TwinAffinity
from deepme.errors import InputError
from deepme.progress import note
from deepme.text import counted
from deepme.workspace import Workspace

TINY = 2
"""A group of fewer classes gives its expert nothing to tell apart."""

BATCH_SIZE = 256


def estimator(settings: ClusterSettings) -> SoftSpectralClustering:
    """The clustering that some settings ask for, not fitted."""
    return SoftSpectralClustering(
        settings.num_groups,
        affinity="precomputed",
        fuzzifier=settings.fuzzifier,
        random_state=settings.seed,
    )


def affinity(
    settings: ClusterSettings,
    workspace: Workspace,
    similarity: Similarity,
    machine: MachineSettings,
) -> TwinAffinity | NDArray[np.float32]:
    """What is clustered: Θ, or how often classes are confused; the diagonal is 0.

    Raises:
        ArtifactError: method confusion without split.h5 or the flat network.
        InputError: method confusion without a validation image.
    """
    if settings.method == "confusion":
        return _confusion_affinity(workspace, similarity, machine)
    return similarity.affinity()


def _confusion_affinity(
    workspace: Workspace, similarity: Similarity, machine: MachineSettings
) -> NDArray[np.float32]:
    """How often the flat network takes validation images of a class for another's."""
    # Here, since torch takes seconds to import and no other method asks for it.
    from deepme.devices import choose_compute
    from deepme.outputs import outputs_of

    split = workspace.split(similarity.origin)
    [outputs] = outputs_of(
        [workspace.flat()],
        workspace,
        split,
        "val",
        compute=choose_compute(machine, "auto"),
        machine=machine,
        with_features=False,
    )
    labels_R = split.images.label[split.rows("val")]
    confusions = _confusions(outputs, labels_R, len(similarity.classes))
    unseen = int((confusions.images_N == 0).sum())
    if unseen == len(similarity.classes):
        raise InputError(
            "the split has no validation image that can be read",
            "rerun `deepme split` with a larger --val",
        )
    if unseen:
        note(
            f"{counted(unseen, 'class')} without a validation image: placed by what is "
            "mistaken for them"
        )
    return confusions.affinity()


def _confusions(
    outputs: Outputs, labels_R: NDArray[np.int32], num_classes: int
) -> SoftConfusions:
    confusions = SoftConfusions(num_classes)
    for start in range(0, len(labels_R), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        readable_B = outputs.readable[batch]
        probabilities_BN = softmax(outputs.logits[batch][readable_B], axis=1)
        confusions.update(probabilities_BN, labels_R[batch][readable_B])
    return confusions
