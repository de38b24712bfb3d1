from alignjax.alignment.course import course_findings, course_of


def test_a_loss_that_fell_says_nothing():
    assert course_of([0.7, 0.6]) is None
    assert course_of([0.7]) is None and course_of([]) is None


def test_a_loss_that_rose_by_more_than_a_tenth_diverged():
    said = course_of([0.693, 0.9, 40.0])
    assert said is not None and said.startswith(
        "diverged: the loss was 0.693 over its first steps and is 40 over"
    )
    assert "lower the learning rate" in said


def test_a_loss_that_stayed_did_not_learn():
    said = course_of([0.693, 0.5, 0.7])
    assert said is not None and said.startswith("did not learn: the loss was 0.693")


def test_findings_by_training():
    records = [
        {"stage": "reward", "step": 10, "loss": 0.7},
        {"stage": "align", "step": 10, "loss": 0.69},
        {"stage": "reward", "step": 20, "loss": 0.6},
        {"stage": "align", "step": 15, "eval_loss": 0.1},
        {"stage": "align", "step": 20, "loss": 9.0},
    ]
    (found,) = course_findings(records)
    assert found.startswith("align: the training diverged: the loss was 0.69 over")
