from __future__ import annotations

import numpy as np
import pytest

from deepme.figures.class_accuracy import plot_class_accuracy


def test_each_system_is_one_line_in_ascending_order() -> None:
    accuracies = {"gate": np.array([0.5, 0.0, 1.0]), "equal": np.array([0.2, 0.1, 0.4])}
    (axes,) = plot_class_accuracy(accuracies, k=1).axes
    gate, equal = axes.lines
    np.testing.assert_allclose(gate.get_ydata(), [0, 50, 100])
    np.testing.assert_allclose(equal.get_ydata(), [10, 20, 40])
    np.testing.assert_array_equal(gate.get_xdata(), [1, 2, 3])
    assert gate.get_color() != equal.get_color()


def test_the_legend_gives_the_mean_over_classes() -> None:
    accuracies = {"gate": np.array([0.5, 0.0, 1.0]), "equal": np.array([0.2, 0.1, 0.4])}
    (axes,) = plot_class_accuracy(accuracies, k=5).axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [f"{1.5 / 3:.1%}  gate", f"{0.7 / 3:.1%}  equal"]
    assert axes.get_title(loc="left") == "Top-5 accuracy of each of 3 classes"


@pytest.mark.parametrize(
    ("num_classes", "style"), [(10, "steps-mid"), (200, "default")]
)
def test_few_classes_are_steps_and_many_a_line(num_classes: int, style: str) -> None:
    (axes,) = plot_class_accuracy({"gate": np.linspace(0, 1, num_classes)}, k=1).axes
    assert axes.lines[0].get_drawstyle() == style


def test_more_systems_than_colours_differ_by_their_dashes() -> None:
    systems = {f"system {i}": np.array([0.1, 0.9]) for i in range(9)}
    (axes,) = plot_class_accuracy(systems, k=1).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 9


def test_a_name_that_begins_with_an_underscore_stays_in_the_legend() -> None:
    (axes,) = plot_class_accuracy({"_mine": np.array([0.5])}, k=1).axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["50.0%  _mine"]


@pytest.mark.parametrize(
    "accuracies", [{}, {"a": np.zeros(0)}, {"a": np.zeros(2), "b": np.zeros(3)}]
)
def test_systems_must_share_their_classes(accuracies: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="one number above 0"):
        plot_class_accuracy(accuracies, k=1)
