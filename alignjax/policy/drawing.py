"""Draws responses from policies, and keeps them as JSON Lines."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from alignjax.config import SamplingSettings
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses, logps_if_all_known
from alignjax.data.tokenize import Template, TokenizedResponse, tokenize_prompts
from alignjax.policy.batching import Batching
from alignjax.policy.sampling import Samples, sample
from alignjax.policy.values import Policy
from alignjax.runtime.line_log import LineLog
from alignjax.runtime.metrics import progress


def draw(
    key: jax.Array,
    policy: Policy,
    prompts: Sequence[Prompt],
    ids: Sequence[np.ndarray],
    settings: SamplingSettings,
    batching: Batching,
    *,
    part: Path | None = None,
) -> Responses:
    """Samples a policy.

    Args:
      key: of all draws; each is a function of it, the prompt's place and the sample's number.
      policy: whom to sample.
      prompts: N prompts.
      ids: their tokens, see `prompt_ids`.
      settings: of sampling; `num_prompts` is not read.
      batching: mesh, and memory that the sampler may use.
      part: file that keeps finished prompts. A run that was stopped continues with the missing ones and draws
        what it would have drawn. None: nothing is kept.

    Returns:
      K responses to each prompt, with their log-probabilities as the sampler computed them.
    """
    kept = None if part is None else LineLog(part)
    stored = [] if kept is None else kept.read()
    done = {row["prompt_id"]: row["responses"] for row in stored}
    logps: dict[int, list[float] | None] = {row["prompt_id"]: row.get("logps") for row in stored}
    missing = [i for i in range(len(ids)) if i not in done]
    with progress(len(ids), f"sampling {policy.name} policy", unit="prompt") as bar:
        bar.update(len(done))

        def keep(rows: list[int], found: Samples) -> None:
            for row, tokens, lengths, own in zip(rows, *found, strict=True):
                place = missing[row]
                done[place] = [t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)]
                # Those that are not finite are left out: a forward pass takes their place and is refused.
                logps[place] = own.tolist() if np.isfinite(own).all() else None
                if kept is not None:
                    kept.append({"prompt_id": place, "responses": done[place], "logps": logps[place]})

        if missing:
            sample(
                key,
                policy.model,
                [ids[i] for i in missing],
                num_samples=settings.num_samples,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                int8_cache=settings.cache == "int8",
                lora=policy.lora,
                progress=bar.update,
                places=missing,
                keep=keep,
                mesh=batching.mesh,
            )
    tokens = [
        [TokenizedResponse(prompt, np.asarray(row, np.int32)) for row in done[i]]
        for i, prompt in enumerate(ids)
    ]
    decode = policy.tokenizer.decode
    texts = [[str(decode(r.response_ids, skip_special_tokens=True)) for r in row] for row in tokens]
    known = logps_if_all_known([logps[i] for i in range(len(ids))])
    return Responses(list(prompts), texts, tokens, policy.name, known)


def prompt_ids(
    policy: Policy, template: Template, prompts: Sequence[Prompt], max_prompt_length: int
) -> list[np.ndarray]:
    """Tokens of prompts as the policy is shown them, each [P] int32, cut from the left."""
    return tokenize_prompts(policy.tokenizer, template, prompts, max_prompt_length=max_prompt_length)[0]
