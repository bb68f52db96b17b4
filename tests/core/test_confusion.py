from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from deepme.core import confusion
from deepme.core.confusion import SoftConfusions


def affinity_of(probabilities, labels, num_classes, *, batch=1000):
    confusions = SoftConfusions(num_classes)
    for start in range(0, len(labels), batch):
        rows = slice(start, start + batch)
        confusions.update(probabilities[rows], labels[rows])
    return confusions.affinity()


def random_images(num_images, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.3), num_images)
    return probabilities.astype(np.float32), rng.integers(0, num_classes, num_images)


def test_by_hand():
    probabilities = np.array([[0.8, 0.2, 0], [0.4, 0.6, 0], [0.1, 0.5, 0.4], [0, 0, 1]])
    found = affinity_of(probabilities, np.array([0, 0, 1, 2]), 3)
    # F = [[.6, .4, 0], [.1, .5, .4], [0, 0, 1]]
    np.testing.assert_allclose(
        found, [[0, 0.25, 0], [0.25, 0, 0.2], [0, 0.2, 0]], rtol=1e-6
    )
    assert found.dtype == np.float32


def test_certain_answers_give_the_confusion_matrix_of_scikit_learn():
    _, labels = random_images(500, 7)
    answers = random_images(500, 7, seed=1)[1]
    shares = confusion_matrix(labels, answers, normalize="true")
    expected = (shares + shares.T) / 2
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(
        affinity_of(np.eye(7)[answers], labels, 7), expected, rtol=1e-5
    )


@pytest.mark.parametrize("strip", [1, 5, 1000])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_and_strips_do_not_matter(batch, strip, monkeypatch):
    probabilities, labels = random_images(200, 12)
    whole = affinity_of(probabilities, labels, 12)
    monkeypatch.setattr(confusion, "_STRIP", strip)
    found = affinity_of(probabilities, labels, 12, batch=batch)
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    np.testing.assert_array_equal(found, found.T)
    assert not found.diagonal().any()


def test_a_class_without_images_is_placed_by_what_is_taken_for_it():
    probabilities, labels = random_images(300, 5)
    seen = labels != 2
    found = affinity_of(probabilities[seen], labels[seen], 5)
    expected = [probabilities[labels == i, 2].mean() for i in (0, 1, 3, 4)]
    np.testing.assert_allclose(found[[0, 1, 3, 4], 2], expected, rtol=1e-5)
    np.testing.assert_array_equal(found, found.T)
    whole = affinity_of(probabilities, labels, 5)
    others = np.ix_([0, 1, 3, 4], [0, 1, 3, 4])
    np.testing.assert_allclose(found[others], whole[others], rtol=1e-6)


def test_of_two_classes_without_images_nothing_is_known():
    found = affinity_of(np.array([[0.5, 0.2, 0.3]]), np.array([0]), 3)
    np.testing.assert_allclose(
        found, [[0, 0.2, 0.3], [0.2, 0, 0], [0.3, 0, 0]], rtol=1e-6
    )


def test_images_are_counted_and_an_empty_batch_changes_nothing():
    confusions = SoftConfusions(3)
    confusions.update(np.full((3, 3), 1 / 3), np.array([2, 0, 2]))
    before = confusions.affinity()
    confusions.update(np.empty((0, 3)), np.empty(0, dtype=np.int64))
    assert confusions.images_N.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(confusions.affinity(), before)


def test_a_later_batch_adds_to_an_earlier_affinity():
    probabilities, labels = random_images(60, 4)
    confusions = SoftConfusions(4)
    confusions.update(probabilities[:30], labels[:30])
    confusions.affinity()
    confusions.update(probabilities[30:], labels[30:])
    np.testing.assert_allclose(
        confusions.affinity(), affinity_of(probabilities, labels, 4), rtol=1e-5
    )
