"""What speaks for a grouping: by hand, and against scikit-learn."""

# ruff: noqa: N803, N806
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from deepme.core.mixture import Members, coarse_weights
from deepme.core.selection import FeatureHeads, balance, xie_beni


class TestXieBeni:
    def test_by_hand(self):
        points = np.array([[0.0], [1.0], [4.0]])
        centers = np.array([[0.0], [4.0]])
        memberships = np.array([[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]])
        # m = 2: only the middle point is away from its centres: .75²·1 + .25²·9, over
        # 3 points and the squared distance 16 of the centres.
        wanted = (0.75**2 * 1 + 0.25**2 * 9) / 3 / 16
        found = xie_beni(points, centers, memberships, fuzzifier=2)
        assert found == pytest.approx(wanted, rel=1e-12)

    def test_is_lower_for_the_true_number_of_clusters(self):
        from deepme.core.clustering import SoftSpectralClustering

        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(at, 0.3, (30, 2)) for at in (0, 5, 10)])

        def index(T: int) -> float:
            model = SoftSpectralClustering(T, gamma=0.1, random_state=0).fit(points)
            return xie_beni(
                model.embedding_, model.cluster_centers_, model.memberships_,
                fuzzifier=1.3,
            )  # fmt: skip

        assert index(3) < index(5)

    @pytest.mark.parametrize("centers", [[[1.0]], [[1.0], [1.0]]])
    def test_is_infinite_without_separation(self, centers):
        T = len(centers)
        memberships = np.full((2, T), 1 / T)
        points = np.array([[0.0], [2.0]])
        found = xie_beni(points, np.array(centers), memberships, fuzzifier=2)
        assert found == float("inf")


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((5, 5, 5), 1.0), ((7,), 1.0), ((3, 1), 0.8112781244591328), ((1000, 1), 0.0114)],
)
def test_balance(sizes, wanted):
    assert balance(sizes) == pytest.approx(wanted, abs=1e-4)


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    """Six classes around their own places in ten dimensions."""
    rng = np.random.default_rng(3)
    places = rng.normal(0, 1.2, (6, 10))
    labels, val_labels = (np.repeat(np.arange(6), count) for count in (40, 15))
    return {
        "features_Rd": places[labels] + rng.normal(0, 1, (240, 10)),
        "labels_R": labels,
        "val_features_Vd": places[val_labels] + rng.normal(0, 1, (90, 10)),
        "val_labels_V": val_labels,
    }


def heads(data: dict[str, np.ndarray]) -> FeatureHeads:
    return FeatureHeads(
        data["features_Rd"],
        data["labels_R"],
        val_features_Vd=data["val_features_Vd"],
        val_labels_V=data["val_labels_V"],
    )


def members(*groups: list[int]) -> Members:
    return Members.of(groups, num_classes=6)


class TestFeatureHeads:
    def test_one_group_is_scikit_learns_discriminant(self, data):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        model.fit(data["features_Rd"], data["labels_R"])
        wanted = model.score(data["val_features_Vd"], data["val_labels_V"])
        found = heads(data).accuracy(members([*range(6)]), np.ones((90, 1)))
        assert found.mixture == found.oracle == pytest.approx(wanted)
        assert 0.5 < wanted < 1

    def test_the_oracle_is_the_mean_of_the_heads_own_accuracies(self, data):
        groups = ([0, 1, 2], [3, 4, 5])
        inside = []
        for group in groups:
            train, val = (np.isin(data[k], group) for k in ("labels_R", "val_labels_V"))
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            model.fit(data["features_Rd"][train], data["labels_R"][train])
            features, labels = data["val_features_Vd"], data["val_labels_V"]
            inside.append(model.score(features[val], labels[val]))
        found = heads(data).accuracy(members(*groups), np.full((90, 2), 0.5))
        assert found.oracle == pytest.approx(np.mean(inside))
        assert found.mixture < found.oracle

    def test_weights_of_the_true_groups_give_the_oracle(self, data):
        groups = members([0, 1, 2, 3], [3, 4, 5])
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(data["val_labels_V"]))
        weights = coarse_weights(one_hot.double(), members=groups)
        found = heads(data).accuracy(groups, weights.numpy())
        assert found.mixture == found.oracle

    def test_the_order_of_a_groups_classes_does_not_matter(self, data):
        model = heads(data)
        weights = np.full((90, 2), 0.5)
        straight = model.accuracy(members([0, 1, 2], [3, 4, 5]), weights)
        turned = model.accuracy(members([2, 0, 1], [5, 4, 3]), weights)
        assert straight == turned

    def test_a_class_without_training_images_is_never_named(self, data):
        kept = data["labels_R"] != 1
        rest = data | {k: data[k][kept] for k in ("features_Rd", "labels_R")}
        found = heads(rest).accuracy(members([0, 1], [2, 3, 4, 5]), np.ones((90, 2)))
        assert 0 < found.mixture < 5 / 6
        assert found.oracle <= 5 / 6
