"""The curve behind the choice of T and δ."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from deepme.figures.selection import plot_selection


def plot(chosen: tuple[int, float] = (5, 0.1)) -> Figure:
    return plot_selection(
        {0.3: {2: 0.30, 5: 0.32}, 0.1: {2: 0.30, 5: 0.33, 9: 0.31}},
        chosen=chosen,
        flat=0.29,
        standard_error=0.014,
        eigengaps={2: 0.2, 5: 0.1, 9: 0.05},
        xie_beni={2: 0.4, 5: 0.1, 9: None},
    )


def test_one_line_a_delta_and_a_ring_around_the_choice():
    above, below, other = plot().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in above.get_lines()}
    assert lines["δ = 0.3"] == [[2, 30], [5, 32]]
    assert lines["δ = 0.1"] == [[2, 30], [5, 33], [9, 31]]
    assert lines["chosen: T = 5, δ = 0.1"] == [[5, 33]]
    assert "1.4%" in above.get_title(loc="left")
    assert below.get_lines()[0].get_xdata().tolist() == [2, 5, 9]
    assert other.get_lines()[0].get_ydata().tolist()[:2] == [0.4, 0.1]


def test_a_choice_without_an_accuracy():
    with pytest.raises(ValueError, match=r"T = 9, δ = 0.3"):
        plot(chosen=(9, 0.3))
