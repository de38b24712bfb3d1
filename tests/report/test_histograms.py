"""Distributions of scores: what the bins hold, and what the axes say."""

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from alignjax.report.histograms import histograms
from alignjax.report.style import to_png, to_svg


def stairs(axes):
    """Heights and edges of a panel's first histogram."""
    patch = axes.patches[0]
    assert isinstance(patch, StepPatch)
    heights, edges, _ = patch.get_data()
    return heights, edges


def test_histograms_share_bins_and_keep_outliers_and_nan_out_of_the_picture():
    rng = np.random.default_rng(0)
    scores = {
        "reference": {"reward": rng.normal(size=(40, 50))},
        "aligned": {"reward": rng.normal(1.0, size=2000)},
    }
    scores["aligned"]["reward"][:2] = 1e6, np.nan
    figure = histograms(scores, [])
    edges = [stairs(axes)[1] for axes in figure.axes]
    np.testing.assert_array_equal(edges[0], edges[1])
    assert edges[0][-1] < 10.0
    heights = stairs(figure.axes[0])[0]
    assert np.sum(heights * np.diff(edges[0])) == pytest.approx(1.0)


def test_histograms_of_equal_scores_and_of_missing_dimensions():
    to_svg(histograms({"reference": {"reward": np.ones(5)}, "aligned": {}}, ["safety"]))


def test_png():
    figure = histograms({"reference": {"reward": np.arange(9.0)}}, [])
    assert to_png(figure).startswith(b"\x89PNG")


def test_the_axes_say_the_unit(inputs):
    figure = histograms(inputs().scores, ["safety"], unit="logits of labels")
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] == [
        "score (logits of labels)"
    ] * 2
