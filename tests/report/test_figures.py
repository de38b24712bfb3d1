import dataclasses

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import StepPatch

from alignjax.records.answer import Ends, Intervals
from alignjax.records.calibration import CalibrationRecord, Reliability
from alignjax.records.figure import Figure
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


def with_interval(answer, low, high):
    intervals = Intervals({name: Ends(low, high) for name in answer.names}, 1.0)
    return dataclasses.replace(answer, intervals=intervals)


def test_dual_marks_lambda_at_the_minimum(inputs):
    answer = inputs().answer
    figure = figures.dual_function(with_interval(answer, 0.5, 0.7), "safety")
    dot = next(line for line in lines(figure) if line.get_marker() == "o")
    assert xs(dot)[0] == answer.lam["safety"] == 0.62
    assert ys(dot)[0] == pytest.approx(answer.frontier.objective.min(), abs=1e-6)
    assert texts(figure) == ["\u03bb* = 0.620\n[0.500, 0.700]"]


def test_an_unbounded_interval_reaches_the_end_of_the_curve(inputs):
    answer = inputs().answer
    figure = figures.dual_function(with_interval(answer, 0.5, None), "safety")
    assert texts(figure) == ["\u03bb* = 0.620\n[0.500, infinite]"]
    band = figure.axes[0].patches[0].get_extents().transformed(figure.axes[0].transData.inverted())
    np.testing.assert_allclose([band.x0, band.x1], [0.5, answer.frontier.lams[-1, 0]])


def test_without_resamples_there_is_no_band(inputs):
    answer = dataclasses.replace(inputs().answer, intervals=None)
    figure = figures.dual_function(answer, "safety")
    assert texts(figure) == ["\u03bb* = 0.620"] and not figure.axes[0].patches


def test_margin_curve_shows_asked_and_prediction(inputs):
    answer = inputs().answer
    predicted = dataclasses.replace(answer.predicted, margins={"safety": Figure(0.45, 0.3, 0.6)})
    asked = dataclasses.replace(answer.asked["safety"], margin=0.47)
    given = dataclasses.replace(answer, predicted=predicted, asked={"safety": asked})
    figure = figures.margin_curve(given, "safety")
    assert "asked 0.47" in texts(figure)
    curve = max(lines(figure), key=lambda line: len(xs(line)))
    np.testing.assert_array_equal(xs(curve), answer.frontier.lams[:, 0])
    np.testing.assert_array_equal(ys(curve), answer.frontier.margins[:, 0])
    low, point, high = (line for line in lines(figure) if list(xs(line)) == [0.62])
    assert sorted(float(ys(line)[0]) for line in (low, point, high)) == pytest.approx([0.3, 0.45, 0.6])


def test_standard_errors_of_the_margins_are_a_band_of_two_on_each_side(inputs):
    curve = inputs().answer.frontier
    figure = figures.Figure()
    axes = figure.subplots()
    figures.draw_margin(axes, curve, 0, "safety", 0.62, errors=curve.margin_errors[:, 0])
    edges = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert edges.max() == pytest.approx(curve.margins[:, 0].max() + 0.1)
    assert edges.min() == pytest.approx(curve.margins[:, 0].min() - 0.1)


def test_a_multiplier_that_stays_at_zero_is_drawn_along_the_ray(inputs):
    answer = inputs(("safety", "honesty")).answer
    curve = dataclasses.replace(answer.frontier, lams=answer.frontier.lams * np.array([[1.0, 0.0]]))
    given = dataclasses.replace(answer, frontier=curve, lam={**answer.lam, "honesty": 0.0})
    figure = figures.dual_function(given, "honesty")
    assert figure.axes[0].get_xlabel() == "share of \u03bb*" and texts(figure) == ["\u03bb* = 0.000"]


def test_an_infeasible_answer_has_no_curve(inputs):
    answer = dataclasses.replace(inputs().answer, lam=None, frontier=None, feasible=False)
    for draw in (figures.dual_function, figures.margin_curve):
        with pytest.raises(ValueError, match="infeasible"):
            draw(answer, "safety")
    plane = figures.plane(inputs().evaluation, "safety", answer=answer)
    assert "predicted" not in plane.axes[0].get_legend_handles_labels()[1]


@pytest.mark.parametrize("truth", [False, True])
def test_plane_has_every_policy_and_moves_the_curve_to_the_reference(inputs, truth):
    given = inputs()
    figure = figures.plane(given.evaluation, "safety", answer=given.answer, truth=truth)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["predicted", "reference", "helpful-only", "safe-only", "aligned"]
    reference = given.evaluation.policies["reference"]
    here = reference.true_reward.mean if truth else reference.reward.mean
    moved = here - given.answer.reference.reward
    assert abs(moved) > 1e-4
    np.testing.assert_allclose(ys(lines(figure)[0]), given.answer.frontier.reward + moved)


def test_plane_finds_its_constraint_in_the_curve_by_name(inputs):
    given = inputs(("safety", "honesty"))
    backwards = dataclasses.replace(given.evaluation, asked=dict(reversed(given.evaluation.asked.items())))
    figure = figures.plane(backwards, "honesty", answer=given.answer)
    np.testing.assert_array_equal(xs(lines(figure)[0]), given.answer.frontier.margins[:, 1])


def test_plane_leaves_out_what_was_not_measured(inputs):
    given = inputs(truth=False).evaluation
    policies = {**given.policies, "reward": dataclasses.replace(given.policies["reward"], margins={})}
    figure = figures.plane(dataclasses.replace(given, policies=policies), "safety")
    assert figure.axes[0].get_legend_handles_labels()[1] == ["reference", "safe-only", "aligned"]


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


def test_reliability_has_a_panel_for_every_dimension_with_labels():
    bins = Reliability((0.5,), (1.0,), (1,))
    given = CalibrationRecord(
        kind="none",
        dimensions=("reward", "safety", "honesty"),
        matrix=np.eye(3),
        covariances=np.zeros((3, 3, 3)),
        unexplained=None,
        slopes={},
        num_held_out={},
        findings=(),
        stops=(),
        reliability={"honesty": bins, "reward": bins},
    )
    figure = diagnostics.reliability(given)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["reward", "honesty"]
    assert diagnostics.reliability(dataclasses.replace(given, reliability={})) is None


def test_svg_is_a_function_of_the_content_and_the_users_settings_do_not_matter(inputs):
    answer = inputs().answer

    def draw():
        return to_svg(figures.dual_function(answer, "safety"))

    first = draw()
    before = matplotlib.rcParams["font.size"]
    with matplotlib.rc_context({"font.size": 20.0, "axes.grid": False, "svg.fonttype": "path"}):
        assert draw() == first
        assert matplotlib.rcParams["font.size"] == 20.0
    assert matplotlib.rcParams["font.size"] == before
    assert "<metadata>" not in first or "dc:date" not in first


def test_a_name_with_markup_or_mathematics_is_plain_text(inputs):
    svg = to_svg(figures.dual_function(inputs(("<b>$x^2$</b>",)).answer, "<b>$x^2$</b>"))
    assert "<b>" not in svg and "&lt;b&gt;$x^2$&lt;/b&gt;" in svg


def test_png():
    figure = figures.histograms({"reference": {"reward": np.arange(9.0)}}, [])
    assert to_png(figure).startswith(b"\x89PNG")


def test_policies_have_colours_and_markers_of_their_own():
    names = ["a", "b", "c", "d"]
    marks = [policy_mark(name, names) for name in ("reference", "reward", *names, "aligned")]
    assert len({colour for colour, _ in marks}) == len({marker for _, marker in marks}) == len(marks)


def test_baselines_are_told_apart_by_the_policies_beside_them():
    others = [f"lambda={x}" for x in (0.5, 1, 1.5, 2, 3)]
    policies = ["reference", "reward", "safety", *others, "aligned"]
    marks = [policy_mark(name, ["safety"], policies) for name in policies]
    assert len({colour for colour, _ in marks}) == len({marker for _, marker in marks}) == len(marks)
    assert policy_mark("lambda=3", ["safety"]) == policy_mark("one-shot", ["safety"])  # alone
