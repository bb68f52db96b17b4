from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from deepme.figures.expert_accuracy import plot_expert_accuracy


def plot() -> Figure:
    accuracies = np.array([0.25, 0.75, 0.5])
    return plot_expert_accuracy(
        ["1 · tree", "2 · sport", "3 · dog"], accuracies, [4, 1000, 10], k=2
    )


def test_bars_stand_best_first() -> None:
    (axes,) = plot().axes
    assert [bar.get_width() for bar in axes.patches] == [75, 50, 25]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["2 · sport  (1,000)", "3 · dog  (10)", "1 · tree  (4)"]
    assert axes.yaxis_inverted()


def test_values_are_written_and_the_ends_named() -> None:
    (axes,) = plot().axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["75.0%  best", "50.0%  ", "25.0%  worst"]


def test_chance_and_mean_are_drawn() -> None:
    (axes,) = plot().axes
    (chance,) = axes.collections
    at = [segment[0, 0] for segment in chance.get_segments()]
    np.testing.assert_allclose(at, [100 * 2 / 1000, 100 * 2 / 10, 100 * 2 / 4])
    (mean,) = axes.lines
    np.testing.assert_allclose(mean.get_xdata(), 50)
    assert mean.get_label() == "mean 50.0%"


def test_chance_is_at_most_certainty() -> None:
    figure = plot_expert_accuracy(["1"], np.array([1.0]), [3], k=5)
    (chance,) = figure.axes[0].collections
    assert chance.get_segments()[0][0, 0] == 100


def test_a_single_expert_is_neither_best_nor_worst() -> None:
    figure = plot_expert_accuracy(["1"], np.array([0.5]), [3], k=1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["50.0%  "]


def test_the_figure_grows_with_the_experts() -> None:
    few, many = (
        plot_expert_accuracy(["x"] * n, np.full(n, 0.5), [2] * n, k=1) for n in (4, 40)
    )
    assert many.get_figheight() > 3 * few.get_figheight()


@pytest.mark.parametrize("num_names", [0, 2])
def test_lengths_must_agree(num_names: int) -> None:
    with pytest.raises(ValueError, match="same number"):
        plot_expert_accuracy(["x"] * num_names, np.zeros(0), [], k=1)
