import json

import pytest

from alignjax.errors import InputError
from alignjax.scores.pairs_given import refuse_pairs


def test_pairs_are_told_from_scores(tmp_path):
    pairs, scores = tmp_path / "pairs.jsonl", tmp_path / "scores.jsonl"
    pairs.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    scores.write_text(json.dumps({"prompt_id": 0, "reward": 1.0, "utilities": {"safety": 1.0}}) + "\n")
    with pytest.raises(
        InputError, match=r"pairs\.jsonl: holds preference pairs, .* alignjax train starts from"
    ):
        refuse_pairs(pairs)
    refuse_pairs(scores)
    for nothing in ("nowhere.jsonl", "scores.npz", "empty.jsonl"):
        (tmp_path / "empty.jsonl").touch()
        refuse_pairs(tmp_path / nothing)
