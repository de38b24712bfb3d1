import matplotlib
import numpy as np
import pytest
from matplotlib.patches import StepPatch

from alignjax.report import diagnostics, figures
from alignjax.report.style import policy_mark, to_png, to_svg


def lines(figure):
    return [line for axes in figure.axes for line in axes.get_lines()]


def xs(line):
    return np.asarray(line.get_xdata())


def ys(line):
    return np.asarray(line.get_ydata())


def stairs(axes):
    """Heights and edges of a panel's first histogram."""
    patch = axes.patches[0]
    assert isinstance(patch, StepPatch)
    heights, edges, _ = patch.get_data()
    return heights, edges


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_dual_marks_lambda_at_the_minimum(inputs):
    given = inputs()
    lam = given.dual["lam"]["safety"]
    figure = figures.dual_function(given.frontier, 0, "safety", lam, interval={"low": 0.5, "high": 0.7})
    dot = next(line for line in lines(figure) if line.get_marker() == "o")
    assert xs(dot)[0] == lam
    assert ys(dot)[0] == pytest.approx(given.frontier.objective.min(), abs=1e-6)
    assert texts(figure) == ["\u03bb* = 0.620\n[0.500, 0.700]"]


def test_margin_curve_shows_asked_and_prediction(inputs):
    given = inputs()
    predicted = {"mean": 0.45, "low": 0.3, "high": 0.6}
    figure = figures.margin_curve(given.frontier, 0, "safety", 0.62, asked=0.45, predicted=predicted)
    assert "asked 0.45" in texts(figure)
    curve = max(lines(figure), key=lambda line: len(xs(line)))
    np.testing.assert_array_equal(ys(curve), given.frontier.margins[:, 0])


def test_a_multiplier_that_stays_at_zero_is_drawn_along_the_ray(inputs):
    curve = inputs(("safety", "honesty")).frontier
    curve = curve._replace(lams=curve.lams * np.array([[1.0, 0.0]]))
    figure = figures.dual_function(curve, 1, "honesty", 0.0)
    assert figure.axes[0].get_xlabel() == "share of \u03bb*" and texts(figure) == ["\u03bb* = 0.000"]


def test_plane_has_every_policy_and_moves_the_curve_to_the_reference(inputs):
    given = inputs()
    shown = {"curve": given.frontier, "reference_reward": 0.5}
    figure = figures.plane(given.evaluation, "safety", **shown)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["predicted", "reference", "helpful-only", "safe-only", "aligned"]
    moved = given.evaluation["policies"]["reference"]["reward"]["mean"] - 0.5
    np.testing.assert_allclose(ys(lines(figure)[0]), given.frontier.reward + moved)


def test_plane_leaves_out_what_was_not_measured(inputs):
    evaluation = inputs(truth=False).evaluation
    evaluation["policies"]["reward"]["margins"]["safety"] = None
    figure = figures.plane(evaluation, "safety")
    assert "helpful-only" not in figure.axes[0].get_legend_handles_labels()[1]


def test_histograms_share_bins_and_keep_outliers_and_nan_out_of_the_picture():
    rng = np.random.default_rng(0)
    scores = {
        "reference": {"reward": rng.normal(size=(40, 50))},
        "aligned": {"reward": rng.normal(1.0, size=2000)},
    }
    scores["aligned"]["reward"][:2] = 1e6, np.nan
    figure = figures.histograms(scores, [])
    edges = [stairs(axes)[1] for axes in figure.axes]
    np.testing.assert_array_equal(edges[0], edges[1])
    assert edges[0][-1] < 10.0
    heights = stairs(figure.axes[0])[0]
    assert np.sum(heights * np.diff(edges[0])) == pytest.approx(1.0)


def test_histograms_of_equal_scores_and_of_missing_dimensions():
    to_svg(figures.histograms({"reference": {"reward": np.ones(5)}, "aligned": {}}, ["safety"]))


def test_training_curves_mark_the_best_held_out_loss(inputs):
    figure = diagnostics.training_curves(inputs().metrics)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == [
        "reference",
        "reward",
        "safety",
        "policy",
    ]
    ring = next(line for line in figure.axes[1].get_lines() if line.get_markersize() == 8)
    held = [
        (row["step"], row["eval_loss"])
        for row in inputs().metrics
        if row["stage"] == "reward" and "eval_loss" in row
    ]
    assert (xs(ring)[0], ys(ring)[0]) == min(held, key=lambda pair: pair[1])


def test_training_curves_wrap_and_skip_null_values():
    rows = [
        {"stage": f"s{i}", "step": s, "loss": None if s == 2 else 1.0 / s}
        for i in range(6)
        for s in (1, 2, 3)
    ]
    figure = diagnostics.training_curves(rows)
    assert figure is not None and len(figure.axes) == 16  # two blocks of loss and accuracy, four wide
    assert len(xs(figure.axes[0].get_lines()[0])) == 2
    assert diagnostics.training_curves([{"stage": "dual", "step": 0}]) is None


def test_reliability_interval_is_wilsons():
    # 8 of 10: Wilson's 95% interval is 0.4902 to 0.9433.
    low, high = diagnostics._wilson(np.array([0.8]), np.array([10.0]))
    np.testing.assert_allclose([low[0], high[0]], [0.4902, 0.9433], atol=1e-4)
    assert diagnostics.reliability({}) is None
    bins = {"predicted": [0.5], "observed": [1.0], "count": [1]}
    figure = diagnostics.reliability({"reliability": {"reward": bins, "safety": bins}})
    assert figure is not None and len(figure.axes) == 2


def test_svg_is_a_function_of_the_content_and_the_users_settings_do_not_matter(inputs):
    given = inputs()

    def draw():
        return to_svg(figures.dual_function(given.frontier, 0, "safety", 0.62))

    first = draw()
    before = matplotlib.rcParams["font.size"]
    with matplotlib.rc_context({"font.size": 20.0, "axes.grid": False, "svg.fonttype": "path"}):
        assert draw() == first
        assert matplotlib.rcParams["font.size"] == 20.0
    assert matplotlib.rcParams["font.size"] == before
    assert "<metadata>" not in first or "dc:date" not in first


def test_a_name_with_markup_or_mathematics_is_plain_text(inputs):
    svg = to_svg(figures.dual_function(inputs().frontier, 0, "<b>$x^2$</b>", 0.62))
    assert "<b>" not in svg and "&lt;b&gt;$x^2$&lt;/b&gt;" in svg


def test_png():
    figure = figures.histograms({"reference": {"reward": np.arange(9.0)}}, [])
    assert to_png(figure).startswith(b"\x89PNG")


def test_policies_have_colours_and_markers_of_their_own():
    names = ["a", "b", "c", "d"]
    marks = [policy_mark(name, names) for name in ("reference", "reward", *names, "aligned")]
    assert len({colour for colour, _ in marks}) == len({marker for _, marker in marks}) == len(marks)
