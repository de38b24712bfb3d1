"""What a run's values are made into for its report."""

import numpy as np
import pytest

from alignjax.workflow.presenting import agreement


@pytest.mark.parametrize(
    ("differences", "labels", "share"),
    [
        ([1.0, -2.0, 3.0, -4.0], [1.0, 1.0, 1.0, 1.0], 0.5),
        ([1.0, -2.0], [0.9, 0.1], 1.0),
        ([0.0, 1.0], [1.0, 1.0], 0.75),  # a tie of the scores counts half
        ([5.0, 1.0, 1.0, 1.0], [0.5, 1.0, 1.0, 0.0], 0.625),  # and so does a label that prefers neither
    ],
)
def test_agreement_by_hand(differences, labels, share):
    assert agreement(np.array(differences), np.array(labels)) == share
