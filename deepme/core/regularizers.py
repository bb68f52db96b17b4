"""The objective of one expert: Eq. 1 and 2, and the visual similarity Ω behind it.

Letters: C classes of the expert's group, B batch, d feature width, y true class,
W the last layer's weights. The paper writes W as d×C; torch keeps its transpose, so
`weight_Cd` holds one row w_c per class. Θ and Ω are the semantic and the visual
similarity of the group's classes, L(·) the Laplacian of either.

Call these functions outside `torch.autocast`: the penalties are sums over the whole
layer, which bfloat16 products would round away.
"""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Features arrive in float32, so squared distances of unit vectors below this are
# rounding: two classes that are really the same must not differ by noise.
_SAME_POINT = 1e-12


def normalized_laplacian(similarity_CC: Tensor) -> Tensor:
    """Build L(S) = I − D^-½ S D^-½, the normalised Laplacian of a similarity.

    Normalised, so that one λ means the same for groups of any size. An isolated class
    (similar to no other) gets a row and column of zeros, so that nothing pulls its
    weights; the zero similarity has the zero Laplacian.

    Args:
        similarity_CC: (C, C) float, symmetric, ≥ 0; the diagonal is ignored.

    Returns:
        (C, C) float, symmetric, positive semi-definite.
    """
    affinity_CC = similarity_CC.clone().fill_diagonal_(0)
    degree_C = affinity_CC.sum(dim=1)
    connected_C = degree_C > 0
    scale_C = torch.where(connected_C, degree_C, 1).rsqrt()
    identity_CC = torch.diag(connected_C.to(affinity_CC.dtype))
    return identity_CC - scale_C[:, None] * affinity_CC * scale_C


def laplacian_penalty(weight_Cd: Tensor, laplacian_CC: Tensor) -> Tensor:
    """Compute tr(W L Wᵀ), the pull between the weights of similar classes (Eq. 1).

    For the normalised Laplacian of S with degrees D it equals
    ½ Σ_ij S_ij ‖w_i/√D_i − w_j/√D_j‖².

    Args:
        weight_Cd: (C, d) float, the last layer's weights, one row per class.
        laplacian_CC: (C, C) float, symmetric, from `normalized_laplacian`.

    Returns:
        Scalar ≥ 0 up to rounding.
    """
    return (weight_Cd * (laplacian_CC @ weight_Cd)).sum()


def ridge_penalty(weight_Cd: Tensor) -> Tensor:
    """Compute tr(W Wᵀ) = Σ w², the squared length of the last layer (Eq. 1).

    Args:
        weight_Cd: (C, d) float, the last layer's weights.

    Returns:
        Scalar ≥ 0.
    """
    return weight_Cd.square().sum()


def visual_similarity(means_Cd: Tensor, *, seen_C: Tensor) -> Tensor:
    """Compute Ω_ij = exp(−‖μ_i − μ_j‖² / σ²) between L2-normalised class means.

    σ is the median distance over pairs of different seen classes (the lower of the
    two middle ones when their number is even). Where more than half of the pairs
    coincide σ is 0, and Ω is its limit: 1 for classes that coincide, else 0.

    Args:
        means_Cd: (C, d) float, mean features; rows are L2-normalised here. Rows of
            classes not seen are ignored, whatever they hold.
        seen_C: (C,) bool, the classes that had at least one image.

    Returns:
        (C, C) in the dtype of `means_Cd`, symmetric, in [0, 1]; the diagonal and the
        rows and columns of classes not seen are 0.
    """
    pairs_CC = (seen_C[:, None] & seen_C).fill_diagonal_(False)
    if not pairs_CC.any():
        return means_Cd.new_zeros(pairs_CC.shape)
    squared_CC = _squared_distances(means_Cd)
    sigma_squared = squared_CC[pairs_CC].median()
    # 0/0 is two classes that coincide; x/0 = ∞ gives their limit exp(−∞) = 0.
    exponent_CC = torch.where(squared_CC > 0, squared_CC / sigma_squared, 0)
    return torch.where(pairs_CC, (-exponent_CC).exp(), 0).to(means_Cd.dtype)


def _squared_distances(points_Cd: Tensor) -> Tensor:
    """Compute ‖x_i − x_j‖² of the rows scaled to unit length, exactly symmetric.

    In float64, because n_i + n_j − 2 x_i·x_j cancels: in float32 it is wrong by up to
    1e-3 in the distance, and distances pair by pair take fifteen times as long.
    """
    unit_Cd = functional.normalize(points_Cd.double(), dim=1)
    gram_CC = unit_Cd @ unit_Cd.T
    gram_CC = (gram_CC + gram_CC.T) / 2
    norm_C = gram_CC.diagonal()
    squared_CC = norm_C[:, None] + norm_C - 2 * gram_CC
    return torch.where(squared_CC > _SAME_POINT, squared_CC, 0)


def blend(old: Tensor, new: Tensor, *, momentum: float) -> Tensor:
    """Move an exponential average: momentum · old + (1 − momentum) · new.

    Args:
        old: the average so far, any shape.
        new: the newest value, same shape and dtype.
        momentum: the share of the old value that stays, in [0, 1].

    Returns:
        The new average; the inputs stay as they are.

    Raises:
        ValueError: `momentum` is outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}, expected a number in [0, 1]")
    return momentum * old + (1 - momentum) * new


@dataclass(slots=True, eq=False)
class ClassMeans:
    """A running mean of L2-normalised features per class.

    Start with `ClassMeans.zeros`; store `state_dict()` in a checkpoint and go on from
    it with `ClassMeans(**state)`. The sums are float32: they add unit vectors, and
    after 100,000 images of one class the mean is still right to 1e-5.
    On the CPU equal updates in equal order give equal bits.
    """

    sum_Cd: Tensor
    """(C, d) float32, the sum of the class's features, each of unit length."""
    count_C: Tensor
    """(C,) int64, the images added to each class."""

    @classmethod
    def zeros(
        cls, num_classes: int, *, width: int, device: torch.device | str = "cpu"
    ) -> ClassMeans:
        """Start with no image of any class."""
        return cls(
            sum_Cd=torch.zeros(num_classes, width, device=device),
            count_C=torch.zeros(num_classes, dtype=torch.int64, device=device),
        )

    @torch.no_grad()
    def update(self, features_Bd: Tensor, *, labels_B: Tensor) -> None:
        """Add one batch.

        Args:
            features_Bd: (B, d) float of any precision, the inputs of the last layer.
            labels_B: (B,) int64 in [0, C).
        """
        unit_Bd = functional.normalize(features_Bd.to(self.sum_Cd.dtype), dim=1)
        self.sum_Cd.index_add_(0, labels_B, unit_Bd)
        self.count_C.index_add_(0, labels_B, torch.ones_like(labels_B))

    def means(self) -> Tensor:
        """Return the (C, d) float32 means; rows of classes not seen are 0."""
        return self.sum_Cd / self.count_C.clamp(min=1)[:, None]

    def seen(self) -> Tensor:
        """Return (C,) bool, the classes with at least one image."""
        return self.count_C > 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return the two tensors, the keyword arguments of `ClassMeans`."""
        return {"sum_Cd": self.sum_Cd, "count_C": self.count_C}


def expert_objective(
    *,
    logits_BC: Tensor,
    labels_B: Tensor,
    weight_Cd: Tensor,
    laplacian_omega: Tensor | None,
    laplacian_theta: Tensor | None,
    lambda1: float,
    lambda2: float,
    lambda3: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute Eq. 1, what one expert minimises.

    L = mean ℓ + λ₁ tr(WWᵀ) + λ₂/2 tr(W L(Ω) Wᵀ) + λ₃/2 tr(W L(Θ) Wᵀ), ℓ the
    cross-entropy of Eq. 2. The paper sums ℓ over images and weighs it by μ; the mean
    over the batch makes μ = 1 and keeps λ independent of the batch size.

    λ₁ does what weight decay on the last layer does (decay w adds w/2 · tr(WWᵀ)):
    apply one of them, not both. A term with λ = 0 is not computed.

    Args:
        logits_BC: (B, C) float, the expert's outputs before the softmax.
        labels_B: (B,) int64, y as positions within the group, in [0, C).
        weight_Cd: (C, d) float, the last layer's weights.
        laplacian_omega: (C, C) L(Ω), or None where `lambda2` is 0.
        laplacian_theta: (C, C) L(Θ), or None where `lambda3` is 0.
        lambda1: weight ≥ 0 of the ridge.
        lambda2: weight ≥ 0 of the pull between classes that look alike.
        lambda3: weight ≥ 0 of the pull between classes that mean alike.

    Returns:
        The scalar total, and its computed terms by name (`cross_entropy`, `ridge`,
        `visual`, `semantic`), each before its λ and detached.

    Raises:
        ValueError: a λ above 0 has no Laplacian.
    """
    terms = {"cross_entropy": functional.cross_entropy(logits_BC, labels_B)}
    total = terms["cross_entropy"]
    if lambda1:
        terms["ridge"] = ridge_penalty(weight_Cd)
        total = total + lambda1 * terms["ridge"]
    for name, strength, laplacian in (
        ("visual", lambda2, laplacian_omega),
        ("semantic", lambda3, laplacian_theta),
    ):
        if not strength:
            continue
        if laplacian is None:
            raise ValueError(f"the {name} term has λ = {strength} but no Laplacian")
        terms[name] = laplacian_penalty(weight_Cd, laplacian)
        total = total + strength / 2 * terms[name]
    return total, {name: term.detach() for name, term in terms.items()}
