from alignjax.data.findings import cut_findings


def test_sets_with_many_cut_texts_are_named_above_five_percent():
    counts = {
        "safety": {"read": 100, "kept": 100},  # nothing was tokenized
        "safety train": {"pairs": 2004, "prompts_cut": 844, "responses_cut": 200},  # 5% of 4,008 is 200.4
        "align": {"pairs": 100, "prompts_cut": 5, "responses_cut": 12},
        "prompts to test": {"prompts": 20, "prompts_cut": 2},
    }
    first, second, third = cut_findings(counts)
    assert first.startswith("safety train: 844 of 2,004 prompts (42%) are longer than max_prompt_length")
    assert second.startswith("align: 12 of 200 responses (6%) do not fit max_length")
    assert third.startswith("prompts to test: 2 of 20 prompts (10%)")
