"""An affinity with its equal rows held once is that affinity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from taxonomies import random_taxonomies

from deepme.core import spectral
from deepme.core.clustering import SoftSpectralClustering
from deepme.core.similarity import path_length_rows, theta_table
from deepme.core.spectral import leading_eigenvectors
from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy
from deepme.core.twins import TwinAffinity


def both(
    taxonomy: Taxonomy, block: int = 5, classes: np.ndarray | None = None
) -> tuple[TwinAffinity, np.ndarray]:
    """The affinity of some synsets as twins, and as a dense array."""
    classes = np.arange(len(taxonomy)) if classes is None else classes
    blocks = list(path_length_rows(taxonomy, classes, block=block))
    table = theta_table(max(1, taxonomy.depth), formula="standard", scaled=True)
    lengths = np.concatenate([rows for _, rows in blocks])
    dense = table.astype(np.float32)[lengths]
    np.fill_diagonal(dense, 0)
    twins = TwinAffinity.of(
        lambda: blocks, table, num_classes=len(classes), twin_code=2
    )
    return twins, dense


def bushes(num_bushes: int, leaves: int) -> Taxonomy:
    """A root, hypernyms below it, and below each one some leaves more than before."""
    synsets = [Synset(1, ["root"], [])]
    for bush in range(num_bushes):
        above = 1_000 * (bush + 1)
        synsets.append(Synset(above, [f"bush {bush}"], [1]))
        synsets += [
            Synset(above + 1 + leaf, [f"leaf {leaf}"], [above])
            for leaf in range(leaves + 5 * bush)
        ]
    return pack_taxonomy(synsets, version="bushes")


@given(random_taxonomies())
def test_it_is_the_dense_affinity(taxonomy):
    twins, dense = both(taxonomy)
    vectors = np.random.default_rng(0).normal(size=(len(dense), 3))
    assert twins.shape == dense.shape
    np.testing.assert_array_equal(twins.toarray(), dense)
    np.testing.assert_allclose(twins @ vectors, dense @ vectors, atol=1e-5)
    np.testing.assert_allclose(twins @ vectors[:, 0], dense @ vectors[:, 0], atol=1e-5)
    np.testing.assert_allclose(
        twins.sum(axis=1), dense.sum(axis=1, dtype=np.float64), atol=1e-6
    )


def test_leaves_of_one_hypernym_share_a_row():
    twins, _ = both(bushes(4, 30), block=17)
    assert len(twins.twins_N) == 5 + 30 + 35 + 40 + 45
    # The root, the four hypernyms, and one row for the leaves of each.
    assert twins.codes_UU.shape == (9, 9)


def test_a_leaf_with_a_hyponym_or_a_second_hypernym_does_not():
    synsets = [
        Synset(1, ["root"], []),
        Synset(2, ["above"], [1]),
        Synset(3, ["leaf"], [2]),
        Synset(4, ["leaf"], [2]),
        Synset(5, ["has a hyponym"], [2]),
        Synset(6, ["hyponym"], [5]),
        Synset(7, ["other"], [1]),
        Synset(8, ["two hypernyms"], [2, 7]),
        Synset(9, ["third"], [1]),
    ]
    twins, _ = both(pack_taxonomy(synsets, version="toy"))
    rows = twins.twins_N
    assert rows[2] == rows[3]
    assert len(set(rows.tolist())) == 8


def test_the_iteration_finds_the_same_eigenpairs(monkeypatch):
    monkeypatch.setattr(spectral, "_DENSE_LIMIT", 0)
    taxonomy = bushes(6, 40)
    twins, dense = both(taxonomy)
    ours, theirs = (leading_eigenvectors(a, 4, random_state=0) for a in (twins, dense))
    np.testing.assert_allclose(ours.eigenvalues_T, theirs.eigenvalues_T, atol=1e-6)
    np.testing.assert_allclose(ours.inv_sqrt_degree_N, theirs.inv_sqrt_degree_N)
    np.testing.assert_allclose(ours.eigenvectors_NT, theirs.eigenvectors_NT, atol=1e-4)


@pytest.mark.parametrize("leaves", [10, 150])
def test_clustering_takes_it(leaves):
    twins, dense = both(bushes(5, leaves))
    options = {"affinity": "precomputed", "random_state": 0}
    ours = SoftSpectralClustering(5, **options).fit(twins)
    theirs = SoftSpectralClustering(5, **options).fit(dense)
    alike = ours.labels_[:, None] == ours.labels_
    np.testing.assert_array_equal(alike, theirs.labels_[:, None] == theirs.labels_)
    np.testing.assert_allclose(
        np.sort(ours.memberships_, axis=1),
        np.sort(theirs.memberships_, axis=1),
        atol=1e-4,
    )
