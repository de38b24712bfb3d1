import json

import numpy as np

from alignjax.workflow.labels import flip_rates, read_labels


def test_flip_rates_by_hand():
    labels = np.array([0.9, 0.2, 0.6, 0.5], np.float32)
    human = {
        # 0.9 with 1 and 0.2 with 0 agree, 0.6 with 0 is turned over, a label of exactly one half never is.
        "reward": np.array([1.0, 0.0, 0.0, 1.0], np.float32),
        # Two pairs without a label: one of the other two is turned over.
        "safety": np.array([np.nan, 1.0, 1.0, np.nan], np.float32),
    }
    assert flip_rates(labels, human) == {"reward": 0.25, "safety": 0.5}


def test_labels_come_back_in_order(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "label": p} for p in (0.25, 1.0, 0.0)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_labels(tmp_path)
    assert found.dtype == np.float32 and found.tolist() == [0.25, 1.0, 0.0]


def test_line_separators_within_a_prompt_are_no_new_lines(tmp_path):
    # json.dumps writes them as escapes; a reader by splitlines relies on it.
    row = json.dumps({"prompt": "a\u2028b\x85c\x0bd", "chosen": "a", "rejected": "b", "label": 0.5})
    (tmp_path / "labels.jsonl").write_text(row + "\n")
    assert read_labels(tmp_path).tolist() == [0.5]
