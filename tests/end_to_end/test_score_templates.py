"""Score models of another template than the policy's, in whole runs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from alignjax import runs
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    init_params,
    init_score_model,
    load_score_model,
    save_pretrained,
    save_score_model,
)
from alignjax.scores.learned import learned_scores
from tests.data.test_tokenize import byte_tokenizer
from tests.data.test_turns import CHATML, tokenizer_of

NUM_PROMPTS = 40


def model_of(tokenizer) -> Model:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = {"bos_id": bos, "eos_ids": (eos,)}
    config = DecoderConfig("llama", len(tokenizer), 16, 32, 1, 2, 1, 8, **ids)
    return Model(init_params(jax.random.key(len(tokenizer)), config), config, tokenizer)


@pytest.fixture
def folders(tmp_path) -> Path:
    """policy/ with ChatML's template, and reward/ and safety/, of another vocabulary with none."""
    save_pretrained(model_of(tokenizer_of(CHATML)), tmp_path / "policy")
    base = model_of(byte_tokenizer())
    for seed, name in enumerate(("reward", "safety")):
        scorer = init_score_model(jax.random.key(seed), base, kind="reward")
        head = {k: jax.random.normal(jax.random.key(seed), v.shape) for k, v in scorer.params["head"].items()}
        changed = scorer.replace(params={**scorer.params, "head": head})
        save_score_model(changed, tmp_path / name, layout="safe_rlhf")
    return tmp_path


@pytest.mark.slow  # a run of everything; tests/scores/test_reading.py compares what a reader makes of texts
def test_the_template_of_a_score_model_is_what_it_reads(folders, file_config):
    prompts = folders / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"ask {i}"}) + "\n" for i in range(NUM_PROMPTS)))

    def config(template):
        def given(config):
            config.calibrate, config.relabel.pairs, config.data.prompts = False, "samples", str(prompts)
            config.constraints.safety.update({"fraction": 0.1})
            for name in config.data.sources:
                config.data.sources[name].path = ""
                config.scores[name].update({"path": str(folders / name), "template": template})

        return file_config(folders / "policy", {}, "mocan", given)

    with pytest.raises(InputError, match="give config.scores.reward.template, a text with {prompt}"):
        runs.run(config(""), folders / "refused")
    workdir = folders / "run"
    runs.run(config("Q: {prompt} A:"), workdir)
    samples = [json.loads(line) for line in (workdir / "samples.jsonl").read_text().splitlines()]
    control = {i for i, token in tokenizer_of(CHATML).added_tokens_decoder.items() if token.special}
    assert len(samples) == 32
    for name, column in (("reward", "rewards"), ("safety", "utilities")):
        scorer = load_score_model(folders / name)
        tokenizer = scorer.tokenizer
        assert tokenizer is not None
        read = []
        for row in samples:
            prompt = tokenizer.encode(f"Q: {row['prompt']} A:")
            # A space stands between the template's last word and the reply.
            space = "" if row["response"][:1].isspace() or not row["response"] else " "
            reply = tokenizer.encode(space + row["response"], add_special_tokens=False)
            # A reply that ran into the limit has no end.
            end = [tokenizer.eos_token_id] if row["response_ids"][-1] in control else []
            read.append(TokenizedResponse(np.array(prompt, np.int32), np.array([*reply, *end], np.int32)))
        with np.load(workdir / "scores.npz") as table:
            found = table[column].reshape(-1)
        np.testing.assert_allclose(found, learned_scores(scorer, read, batch_size=8), rtol=1e-4, atol=1e-5)
