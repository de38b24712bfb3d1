import dataclasses

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from alignjax.dual.statistics import wilson
from alignjax.records import answer as dual
from alignjax.records.answer import Ends, Intervals
from alignjax.records.calibration import CalibrationRecord, Reliability
from alignjax.records.figure import Figure
from alignjax.report import diagnostics, figures
from alignjax.report.style import policy_mark, style, to_svg


def lines(figure):
    return [line for axes in figure.axes for line in axes.get_lines()]


def xs(line):
    return np.asarray(line.get_xdata())


def ys(line):
    return np.asarray(line.get_ydata())


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
    low, high = wilson(np.array([0.8]), np.array([10.0]))
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


def axis_labels(figure):
    return [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label]


def test_every_axis_says_its_unit(inputs):
    given, unit = inputs(), "logits of labels"
    answer, evaluation = given.answer, given.evaluation
    drawn = [
        figures.dual_function(answer, "safety", unit=unit),
        figures.margin_curve(answer, "safety", unit=unit),
        figures.plane(evaluation, "safety", answer=answer, unit=unit),
    ]
    assert [axis_labels(figure) for figure in drawn] == [
        ["\u03bb of safety (reward per unit of it)", "D(\u03bb) (logits of labels)"],
        ["\u03bb of safety (reward per unit of it)", "margin (logits of labels)"],
        ["safety margin (logits of labels)", "mean reward (logits of labels)"],
    ]
    assert "units of the scores" in axis_labels(figures.plane(evaluation, "safety"))[0]
    curves = diagnostics.training_curves(given.metrics)
    assert curves is not None and {"loss (nats)", "accuracy (share)", "step"} == set(axis_labels(curves))


def test_the_legend_has_markers_and_no_bars(inputs):
    given = inputs()
    handles, labels = figures.plane(given.evaluation, "safety").axes[0].get_legend_handles_labels()
    assert len(labels) == 4 and all(isinstance(one, Line2D) and one.get_marker() != "None" for one in handles)


def overlapping(texts, renderer):
    """Pairs of visible texts whose boxes overlap."""
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_visible() and t.get_text()]
    return [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[i + 1 :] if x.overlaps(y)]


@pytest.mark.parametrize("asked", [0.05, 0.4, 1.4])
def test_nothing_is_written_over_anything_else(inputs, asked):
    long = "resistance to misinformation, law"
    given = inputs((long, "honesty"))
    answer = dataclasses.replace(given.answer, asked={**given.answer.asked, long: dual.Asked(margin=asked)})
    baselines = {f"lambda={x}": given.evaluation.policies["aligned"] for x in (0.5, 1, 1.5, 2, 3)}
    evaluation = dataclasses.replace(
        given.evaluation,
        asked={**given.evaluation.asked, long: asked},
        policies={**given.evaluation.policies, **baselines},
    )
    for figure in (
        figures.dual_function(answer, long, unit="logits of labels"),
        figures.margin_curve(answer, long, unit="logits of labels"),
        figures.plane(evaluation, long, answer=answer, unit="logits of labels"),
        figures.plane(evaluation, long, answer=answer, unit="logits of labels", truth=True),
    ):
        with style():
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw_without_rendering()
        axes = figure.axes[0]
        low, high = axes.get_xlim()
        ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        titles = [axes._left_title, axes.xaxis.label, axes.yaxis.label]  # pyright: ignore[reportAttributeAccessIssue]
        legends = [text for legend in figure.legends for text in legend.get_texts()]
        assert overlapping([*titles, *axes.texts, *legends, *ticks], renderer) == []
        for text in (*titles, *legends, *axes.texts):
            inside = text.get_window_extent(renderer)
            assert inside.x0 >= figure.bbox.x0 and inside.x1 <= figure.bbox.x1, text.get_text()
