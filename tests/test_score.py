"""The command `score` on tiny random models: adapters, references, score models, and what it refuses."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Lora,
    Model,
    init_lora,
    init_params,
    init_score_model,
    load_score_model,
    merge_lora,
    save_adapter,
    save_pretrained,
    save_score_model,
)
from alignjax.policy import response_logps
from alignjax.score import _lines_of, score
from alignjax.scores.learned import learned_scores
from tests.data.test_tokenize import byte_tokenizer
from tests.data.test_turns import CHATML, tokenizer_of

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}."
CONFIG = DecoderConfig("llama", 11, 16, 24, 2, 2, 1, 8, max_positions=16)
ROWS = [
    {"prompt_ids": [1, 2], "response_ids": [3, 4, 5]},
    {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8, 9]},
]
RESPONSES = [
    TokenizedResponse(*(np.array(ids, np.int32) for ids in pair))
    for pair in (([1, 2], [3, 4, 5]), ([6], [7]), ([6], [8, 9]))
]


def _model(seed: int) -> Model:
    return Model(init_params(jax.random.key(seed), CONFIG), CONFIG)


def _adapter() -> Lora:
    lora = init_lora(jax.random.key(2), CONFIG, rank=2, alpha=4.0)
    return lora.replace(params=jax.tree.map(lambda x: x + 0.3, lora.params))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """model, reference, adapter, reward and cost folders without tokenizers, and in.jsonl."""
    root = tmp_path_factory.mktemp("score")
    save_pretrained(_model(0), root / "model")
    save_pretrained(_model(1), root / "reference")
    save_adapter(_adapter(), CONFIG, root / "adapter")
    for kind in ("reward", "cost"):
        save_score_model(_scorer(kind), root / kind)
    (root / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return root


def _scorer(kind: Any) -> Any:
    model = init_score_model(jax.random.key(3), _model(1), kind=kind)
    kernel = {"kernel": 10 * model.params["head"]["kernel"]}
    return model.replace(params=model.params | {"head": model.params["head"] | kernel})


def _run(root: pathlib.Path, **options: Any) -> list[dict[str, Any]]:
    paths = {
        f"{name}_path": str(root / options.pop(name)) for name in list(options) if (root / name).exists()
    }
    paths |= {"reward_model_path": str(root / options.pop("scorer"))} if "scorer" in options else {}
    score(str(root / "model"), str(root / "in.jsonl"), str(root / "out.jsonl"), **paths, **options)
    lines = (root / "out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _values(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [rows[0][name], rows[1][f"chosen_{name}"], rows[1][f"rejected_{name}"]]


def test_an_adapter_is_added_to_the_model_and_not_to_the_reference(root):
    merged = _model(0).replace(params=merge_lora(_model(0).params, _adapter()))
    expected = response_logps(merged, RESPONSES, batch_size=3)
    reference = response_logps(_model(1), RESPONSES, batch_size=3)
    rows = _run(root, adapter="adapter", reference="reference", beta=0.5)
    np.testing.assert_allclose(_values(rows, "logps"), expected, rtol=1e-4)
    np.testing.assert_allclose(_values(rows, "ref_logps"), reference, rtol=1e-5)
    np.testing.assert_allclose(_values(rows, "reward"), 0.5 * (expected - reference), rtol=1e-3, atol=1e-5)
    assert [row["num_tokens"] for row in rows] == [3, 3] and rows[1]["rejected_num_tokens"] == 2
    assert np.abs(expected - response_logps(_model(0), RESPONSES, batch_size=3)).min() > 0.01


def test_pairs_alone_have_the_log_probabilities_of_their_responses(root):
    (root / "pairs.jsonl").write_text(json.dumps(ROWS[1]) + "\n", encoding="utf-8")
    score(str(root / "model"), str(root / "pairs.jsonl"), str(root / "out.jsonl"))
    row = json.loads((root / "out.jsonl").read_text(encoding="utf-8"))
    expected = response_logps(_model(0), RESPONSES[1:], batch_size=3)
    np.testing.assert_allclose([row["chosen_logps"], row["rejected_logps"]], expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "sign"), [("reward", 1.0), ("cost", -1.0)])
def test_rewards_of_a_score_model_are_higher_where_a_response_is_better(root, kind, sign):
    rows = _run(root, scorer=kind)
    expected = sign * learned_scores(_scorer(kind), RESPONSES, batch_size=3)
    np.testing.assert_allclose(_values(rows, "reward"), expected, rtol=1e-5)
    assert np.ptp(expected) > 0.01 and "ref_logps" not in rows[0]
    np.testing.assert_allclose(
        _values(rows, "logps"), response_logps(_model(0), RESPONSES, batch_size=3), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "cost", "beta": 0.5}, r"--reward_model=.*cost: its scores and those against --reference"),
        ({"reference": "reference"}, "--beta is missing"),
        ({"beta": 0.5}, "--reference is missing"),
        ({"reference": "reference", "beta": 0.0}, "--beta: is 0.0; must be above 0"),
        ({"batch_size": 0}, "--batch_size: is 0; must be at least 1"),
        ({"template": "{prompt}"}, "--template: .*model holds no tokenizer"),
        ({"scorer": "model"}, "architecture LlamaForCausalLM is not a score model"),
        ({"adapter": "model"}, "adapter_config.json: no such file"),
    ],
)
def test_options_refused(root, options, message):
    with pytest.raises(InputError, match=message):
        _run(root, **options)


def test_a_score_model_refuses_ids_of_another_vocabulary(root, tmp_path):
    small = DecoderConfig("llama", 8, 16, 24, 2, 2, 1, 8, max_positions=16)
    params = init_params(jax.random.key(0), small)
    scorer = init_score_model(jax.random.key(1), Model(params, small), kind="reward")
    save_score_model(scorer, tmp_path / "small")
    with pytest.raises(InputError, match=r'in.jsonl:1: "prompt" is .* ids of --model alone, and .*small has'):
        _run(root, scorer=str(tmp_path / "small"))


def test_a_model_with_nan_weights_is_refused(root, tmp_path):
    model = _model(0)
    broken = model.params | {"embedding": model.params["embedding"].at[3].set(jnp.nan)}
    save_pretrained(model.replace(params=broken), tmp_path / "broken")
    with pytest.raises(InputError, match="broken: gives a log-probability that is not finite"):
        score(str(tmp_path / "broken"), str(root / "in.jsonl"), str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "columns", "prompt", "texts"),
    [
        # As they lie in UltraFeedback, hh-rlhf, PKU-SafeRLHF and a ranked list.
        (
            {
                "prompt": "p",
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}],
            },
            ("chosen", "rejected"),
            "p",
            ("a", "b"),
        ),
        (
            {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"},
            ("chosen", "rejected"),
            "p",
            ("a", "b"),
        ),
        (
            {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1},
            ("response_0", "response_1"),
            "p",
            ("a", "b"),
        ),
        (
            {"prompt": "p", "completions": [{"response": "b", "score": 1}, {"response": "a", "score": 2}]},
            ("chosen", "rejected"),
            "p",
            ("a", "b"),
        ),
    ],
)
def test_lines_that_train_reads_are_read(row, columns, prompt, texts):
    (line,) = _lines_of("f:1", row)
    assert (line.columns, line.row["prompt"]) == (columns, prompt)
    assert tuple(line.row[name] for name in columns) == texts


def test_a_completion_is_a_response():
    (line,) = _lines_of("f:1", {"prompt": "p", "completion": "a", "label": True})
    assert line.columns == ("completion",)
    with pytest.raises(InputError, match='f:1: has "completion" and "chosen"'):
        _lines_of("f:1", {"prompt": "p", "completion": "a", "chosen": "b"})


def test_lines_with_tools_are_refused_by_name():
    with pytest.raises(InputError, match='f:1: "tools" cannot be handed to the chat template'):
        _lines_of("f:1", {"prompt": "p", "response": "a", "tools": [{"name": "f"}]})


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> pathlib.Path:
    """policy/ with ChatML's template, and classifier/ with another vocabulary and a template of its own."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizers = {"policy": tokenizer_of(CHATML), "classifier": byte_tokenizer(chat_template=TURNS)}
    models = {}
    for name, tokenizer in tokenizers.items():
        ids = {"bos_id": tokenizer.bos_token_id, "eos_ids": (tokenizer.eos_token_id,)}
        config = DecoderConfig("llama", len(tokenizer), 16, 24, 1, 2, 1, 8, **ids)
        models[name] = Model(init_params(jax.random.key(1), config), config, tokenizer)
    save_pretrained(models["policy"], folder / "policy")
    scorer = init_score_model(jax.random.key(3), models["classifier"], kind="reward")
    head = {"kernel": jax.random.normal(jax.random.key(4), scorer.params["head"]["kernel"].shape)}
    changed = scorer.replace(params=scorer.params | {"head": scorer.params["head"] | head})
    save_score_model(changed.replace(reads="conversation"), folder / "classifier", layout="classification")
    rows = [
        {"prompt": "Hi", "response": "Yes"},
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "u"}], "chosen": "a"}
        | {"rejected": [{"role": "assistant", "content": "bb"}]},
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_a_classifier_reads_the_conversation_by_its_own_template(command, chat, tmp_path):
    arguments = (f"--input={chat / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}")
    ended = command(
        "score", f"--model={chat / 'policy'}", f"--reward_model={chat / 'classifier'}", *arguments
    )
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    scorer = load_score_model(chat / "classifier")
    assert scorer.reads == "conversation" and scorer.tokenizer is not None
    texts = ("[user]Hi[assistant]Yes.", "[system]S[user]u[assistant]a.", "[system]S[user]u[assistant]bb.")
    # One token a byte, whose ids are the alphabet's and not the bytes themselves.
    ids = [np.array(scorer.tokenizer.encode(text, add_special_tokens=False), np.int32) for text in texts]
    assert [len(one) for one in ids] == [len(text) for text in texts]
    expected = learned_scores(scorer, [TokenizedResponse(one[:-1], one[-1:]) for one in ids], batch_size=3)
    np.testing.assert_allclose(_values(rows, "reward"), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_how_prompts_are_shown_is_asked_by_flags(command, chat, tmp_path):
    dated = (
        "{{ strftime_now('%Y') }}{% if loud %}!{% endif %}{% for m in messages %}[{{ m.role }}]"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = byte_tokenizer(chat_template=dated)
    ids = {"bos_id": tokenizer.bos_token_id, "eos_ids": (tokenizer.eos_token_id,)}
    config = DecoderConfig("llama", len(tokenizer), 16, 24, 1, 2, 1, 8, **ids)
    save_pretrained(Model(init_params(jax.random.key(1), config), config, tokenizer), tmp_path / "dated")

    def logps(*flags: str) -> float:
        out = tmp_path / "out.jsonl"
        given = (f"--model={tmp_path / 'dated'}", f"--input={tmp_path / 'in.jsonl'}", f"--output={out}")
        ended = command("score", *given, *flags)
        assert ended.status == 0, ended.err
        return json.loads(out.read_text(encoding="utf-8"))["logps"]

    def write(text: str) -> None:
        prompt = [] if not text else tokenizer.encode(text, add_special_tokens=False)
        response = [*tokenizer.encode("Yes", add_special_tokens=False), tokenizer.eos_token_id]
        row = (
            {"prompt_ids": prompt, "response_ids": response} if text else {"prompt": "Hi", "response": "Yes"}
        )
        (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")

    flags = {
        "2024[user]Hi[assistant]": (),
        "2021[user]Hi[assistant]": ("--template_date=2021-03-04",),
        "2024![user]Hi[assistant]": ('--template_kwargs={"loud": true}',),
        "<s>2024[user]Hi[assistant]": ("--add_bos",),
        "<s>Q: Hi": ("--template=Q: {prompt}",),
        "Q: Hi ": ("--template=Q: {prompt} ", "--noadd_bos"),
    }
    for shown, given in flags.items():
        write(shown)
        expected = logps()
        write("")
        assert logps(*given) == pytest.approx(expected, rel=1e-5), shown
    write("")
    out = tmp_path / "drawn.jsonl"
    sampled = (f"--prompts={tmp_path / 'in.jsonl'}", f"--output={out}", "--max_new_tokens=2")
    model = f"--model={tmp_path / 'dated'}"
    texts = []
    for given in ((), ("--add_bos", "--template_date=2021-03-04")):
        assert command("sample", model, *sampled, *given).status == 0
        texts.append(json.loads(out.read_text(encoding="utf-8"))["logps"])
    assert texts[0] != texts[1]
    refused = command("sample", model, *sampled, "--template_date=2021-13-04")
    assert refused.status == 2 and "--template_date: is '2021-13-04', must be a date" in refused.err
