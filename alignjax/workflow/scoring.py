"""Log-probabilities and implicit scores of pairs and of sampled responses, computed once and kept."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import SamplingSettings
from alignjax.data.batches import PairBatch, pair_batches, pair_lengths, response_lengths
from alignjax.data.records import Prompt
from alignjax.data.refusals import is_refusal
from alignjax.data.tokenize import Template, TokenizedPair, TokenizedResponse, tokenize_prompts
from alignjax.errors import InputError
from alignjax.models import Lora, Model
from alignjax.policy import divergence
from alignjax.policy import logps as policy_logps
from alignjax.policy.sampling import Samples, sample
from alignjax.runtime import processes
from alignjax.runtime.files import write_bytes, write_text
from alignjax.runtime.mesh import batch_rows
from alignjax.runtime.metrics import progress
from alignjax.scores.lookup import prompt_json
from alignjax.workflow.context import Context

if TYPE_CHECKING:  # its import takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


FORMS = ("length", "cut", "empty", "refusals")


class Policy(NamedTuple):
    """A policy and what it is called.

    Attributes:
      name: reference, a dimension's name, or aligned.
      load: gives the weights; those that several policies share are read once.
      lora: adapter, or None.
      fingerprint: of the stage that made it; names its cached log-probabilities.
    """

    name: str
    load: Callable[[], Model]
    lora: Lora | None
    fingerprint: str

    @property
    def model(self) -> Model:
        """The weights; not to be kept, see `workflow.residence`."""
        return self.load()


class Responses(NamedTuple):
    """K responses of each of N prompts.

    Attributes:
      prompts: N prompts as given.
      texts: N lists of K decoded responses.
      tokens: N lists of K tokenized responses.
    """

    prompts: list[Prompt]
    texts: list[list[str]]
    tokens: list[list[TokenizedResponse]]


class ResponseLogps:
    """Log-probabilities of the responses at hand, [N, K] float64, each policy's computed once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._drawn: list[Responses] = []  # kept, so that no other gets the id of one that is gone
        self._known: dict[tuple[int, str, str], np.ndarray] = {}

    def of(self, policy: Policy, drawn: Responses) -> np.ndarray:
        """Those of `drawn`, known by identity, under a policy."""
        key = id(drawn), policy.name, policy.fingerprint
        if key not in self._known:
            self._drawn.append(drawn)
            self._known[key] = response_logps(self._context, policy, drawn)
        return self._known[key]


def tokenizer_of(model: Model) -> "PreTrainedTokenizerBase":
    """The model's tokenizer.

    Raises:
      InputError: the model's folder has none.
    """
    if model.tokenizer is None:
        raise InputError(
            "config.model.path: the folder holds no tokenizer; copy tokenizer.json and its config there."
        )
    return model.tokenizer


def pair_logps(context: Context, policy: Policy, tokens: Sequence[TokenizedPair]) -> np.ndarray:
    """Log-probabilities of both responses of every pair, from the run's cache where they are known.

    Returns:
      [n, 2] float32, chosen and rejected. The cache lies in the run's folder under a key of the policy; a
      pair is known by its token ids, which tokenizer, template and lengths determine.
    """
    known = _known_logps(context, policy)
    names = [_pair_digest(pair) for pair in tokens]
    places = {name: i for i, name in enumerate(names) if name not in known}
    if places:
        missing = [tokens[i] for i in places.values()]
        known = remember_pair_logps(context, policy, missing, compute_pair_logps(context, policy, missing))
    return np.stack([known[name] for name in names])


def remember_pair_logps(
    context: Context, policy: Policy, tokens: Sequence[TokenizedPair], logps: np.ndarray
) -> dict[str, np.ndarray]:
    """Adds [n, 2] log-probabilities to the policy's cache, which it returns whole."""
    known = _known_logps(context, policy)
    known |= dict(zip((_pair_digest(pair) for pair in tokens), logps, strict=True))
    write_npz(_logps_path(context, policy), pairs=np.array(list(known)), logps=np.stack(list(known.values())))
    return known


def _logps_path(context: Context, policy: Policy) -> Path:
    return context.workdir / "cache" / f"logps-{policy.name}-{policy.fingerprint[:16]}.npz"


def _known_logps(context: Context, policy: Policy) -> dict[str, np.ndarray]:
    path = _logps_path(context, policy)
    if not path.exists():
        return {}
    with np.load(path) as stored:
        return dict(zip(stored["pairs"].tolist(), stored["logps"], strict=True))


def draw(
    context: Context,
    policy: Policy,
    template: Template,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    part: Path,
) -> Responses:
    """Samples a policy on the first `num_prompts` prompts.

    Args:
      context: the run.
      policy: whom to sample.
      template: how a prompt is shown.
      prompts: as many as are wanted, or more.
      settings: of sampling.
      part: where finished prompts are kept while others are drawn. A run that was stopped goes on with those
        that are missing, and draws what it would have drawn.
    """
    tokenizer = tokenizer_of(policy.model)
    prompts = list(prompts[: settings.num_prompts])
    ids = _prompt_ids(context, policy, template, prompts)
    done = _kept_draws(part)
    missing = [i for i in range(len(ids)) if i not in done]
    part.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress(len(ids), f"sample {policy.name}", unit="prompt") as bar,
        open(part if processes.is_primary() else os.devnull, "a", encoding="utf-8") as file,
    ):
        bar.update(len(done))

        def keep(rows: list[int], found: Samples) -> None:
            for row, tokens, lengths in zip(rows, found.tokens, found.lengths, strict=True):
                place = missing[row]
                done[place] = [t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)]
                file.write(json.dumps({"prompt_id": place, "responses": done[place]}) + "\n")
            file.flush()

        if missing:
            sample(
                context.key(f"sample {policy.name}"),
                policy.model,
                [ids[i] for i in missing],
                num_samples=settings.num_samples,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                lora=policy.lora,
                progress=bar.update,
                places=missing,
                keep=keep,
                mesh=context.mesh,
            )
    tokens = [
        [TokenizedResponse(prompt, np.asarray(row, np.int32)) for row in done[i]]
        for i, prompt in enumerate(ids)
    ]
    texts = [[str(tokenizer.decode(r.response_ids, skip_special_tokens=True)) for r in row] for row in tokens]
    return Responses(prompts, texts, tokens)


def _kept_draws(part: Path) -> dict[int, list[list[int]]]:
    """Finished prompts of an interrupted run: place -> K responses. A line that was cut short is dropped."""
    if not processes.broadcast(part.exists()):
        return {}
    whole = part.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    write_text(part, whole + "\n" if whole else "")
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["prompt_id"]: row["responses"] for row in rows}


def response_logps(context: Context, policy: Policy, responses: Responses) -> np.ndarray:
    """Log-probabilities of sampled responses under a policy: [N, K] float64."""
    flat = [response for row in responses.tokens for response in row]
    with progress(len(flat), f"score by {policy.name}", unit="response") as bar:
        values = policy_logps.response_logps(
            policy.model,
            flat,
            lora=policy.lora,
            batch_size=context.config.ref_batch_size,
            buckets=context.buckets(response_lengths(flat)),
            progress=bar.update,
            mesh=context.mesh,
        )
    return np.asarray(values, np.float64).reshape(len(responses.tokens), -1)


def response_kl(context: Context, policy: Policy, reference: Policy, responses: Responses) -> np.ndarray:
    """KL divergence of a policy from the reference on responses that the policy sampled: [N, K] float64.

    A sum over tokens of the divergence of the next one; see `policy.divergence`.
    """
    flat = [response for row in responses.tokens for response in row]
    with progress(len(flat), f"KL of {policy.name}", unit="response") as bar:
        values = divergence.response_kl(
            policy.model,
            reference.model,
            flat,
            lora=policy.lora,
            reference_lora=reference.lora,
            batch_size=context.config.ref_batch_size,
            buckets=context.buckets(response_lengths(flat)),
            progress=bar.update,
            mesh=context.mesh,
        )
    return np.asarray(values, np.float64).reshape(len(responses.tokens), -1)


def response_forms(responses: Responses, end_ids: Sequence[int], refusals: Sequence[str]) -> np.ndarray:
    """What sampled responses look like, [N, K, 4] float64, the columns of `FORMS`.

    Tokens with the end token; 1 where a response was cut (it has no end), is empty (no visible character),
    opens with one of the refusals.
    """
    rows = zip(responses.texts, responses.tokens, strict=True)
    return np.array(
        [
            [
                [
                    len(ids.response_ids),
                    ids.response_ids[-1] not in end_ids,
                    not text.strip(),
                    is_refusal(text, refusals),
                ]
                for text, ids in zip(texts, tokens, strict=True)
            ]
            for texts, tokens in rows
        ],
        np.float64,
    )


def write_responses(path: Path, responses: Responses, extra: Mapping[str, Any]) -> None:
    """Writes sampled responses as JSON Lines, one response a line."""
    lines = []
    for i, (prompt, texts, tokens) in enumerate(zip(*responses, strict=True)):
        shown = prompt_json(prompt)
        for k, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
            line = {"prompt_id": i, "sample": k, "prompt": shown, "response": text}
            lines.append(json.dumps({**line, "response_ids": ids.response_ids.tolist(), **extra}))
    write_text(path, "\n".join(lines) + "\n")


def read_responses(
    path: Path, context: Context, policy: Policy, template: Template, prompts: Sequence[Prompt]
) -> Responses:
    """Reads what `write_responses` wrote for these prompts."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row["prompt_id"], []).append(row)
    kept = list(prompts[: len(rows)])
    ids = _prompt_ids(context, policy, template, kept)
    tokens = [
        [TokenizedResponse(ids[i], np.array(row["response_ids"], np.int32)) for row in rows[i]]
        for i in range(len(rows))
    ]
    return Responses(kept, [[row["response"] for row in rows[i]] for i in range(len(rows))], tokens)


def _prompt_ids(
    context: Context, policy: Policy, template: Template, prompts: Sequence[Prompt]
) -> list[np.ndarray]:
    limit = context.config.model.max_prompt_length
    return tokenize_prompts(tokenizer_of(policy.model), template, prompts, max_prompt_length=limit)[0]


def _pair_digest(pair: TokenizedPair) -> str:
    digest = hashlib.sha256()
    for ids in pair:
        digest.update(len(ids).to_bytes(4, "little") + np.asarray(ids, np.int32).tobytes())
    return digest.hexdigest()[:32]


def compute_pair_logps(
    context: Context, policy: Policy, tokens: Sequence[TokenizedPair], *, leave_bar: bool = True
) -> np.ndarray:
    """Log-probabilities of both responses of every pair: [n, 2] float32, chosen and rejected."""
    result = np.full((len(tokens), 2), np.nan, np.float32)
    batches = pair_batches(
        tokens,
        batch_size=batch_rows(context.config.ref_batch_size, len(tokens), context.mesh),
        buckets=context.buckets(pair_lengths(tokens)),
    )

    def compute(batch: PairBatch) -> jax.Array:
        return jnp.stack(policy_logps.pair_logps_jit(policy.model, batch, lora=policy.lora), axis=1)

    with progress(len(tokens), f"log-probabilities by {policy.name}", unit="pair", leave=leave_bar) as bar:
        policy_logps.over_batches(batches, compute, result, bar.update, mesh=context.mesh)
    return result


def write_npz(path: Path, **arrays: Any) -> None:
    """Writes arrays atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
