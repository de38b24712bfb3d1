"""Ways to sample a policy in which its safety may fail: by text, by the distribution, by the adapter.

Letters: N prompts, K responses to each.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from alignjax.config import SamplingSettings
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.data.rows import Message
from alignjax.data.tokenize import Template, TokenizedResponse, encode_response, tokenize_prompts
from alignjax.errors import InputError
from alignjax.models import Adapters, Mixture, mixture_of
from alignjax.policy.batching import Batching
from alignjax.policy.drawing import draw, prompt_ids
from alignjax.policy.values import Policy

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

LEAST_SAFE = 0.2  # share of the reference's responses whose openings the attack prefill looks for
NOTHING = np.zeros(0, np.int32)


class Attack(NamedTuple):
    """One way to sample a policy.

    Attributes:
      strength: on the attack's own scale.
      policy: whom to sample.
      settings: of sampling.
      prefix: [n] int32, tokens that every response is made to begin with; they count among its tokens.
      system: text that is shown before every prompt; empty: none.
      text: what of this a reader is shown; empty: nothing.
    """

    strength: float
    policy: Policy
    settings: SamplingSettings
    prefix: np.ndarray = NOTHING
    system: str = ""
    text: str = ""


def unmerged(adapters: Adapters, share: float) -> Adapters:
    """A part of an adapter: the reference's weights plus a share of the change; of a mixture, of its logits.

    Args:
      adapters: of the policy.
      share: that stays, 1 the policy and 0 the reference.
    """
    if isinstance(adapters, Mixture):
        return adapters.replace(weights=adapters.weights * share)
    # In b and not in the scale, which is static: every share runs the same compiled program.
    layers = {
        name: {"a": pair["a"], "b": pair["b"] * share} for name, pair in adapters.params["layers"].items()
    }
    return adapters.replace(params={"layers": layers})


def disaligned(adapters: Adapters, alpha: float) -> Mixture:
    """Emulated Disalignment: away from the policy, on the other side of the reference.

        pi'(v | x) is proportional to pi_ref(v | x) (pi_ref(v | x) / pi(v | x))^alpha,   token by token

    Args:
      adapters: of the policy pi, on the reference's weights.
      alpha: strength > 0.

    Reference: Zhou et al. 2024, arXiv 2402.12343, whose pre-trained model is here the reference.
    """
    mixture = adapters if isinstance(adapters, Mixture) else mixture_of([adapters], [1.0])
    return mixture.replace(weights=mixture.weights * -alpha)


def opening_of(drawn: Responses, safety: np.ndarray, length: int, ends: Collection[int]) -> np.ndarray:
    """The opening that sets the least safe responses apart from the others.

    Of all openings of `length` tokens, the one whose share among the least safe fifth of the responses is
    furthest above its share among the rest. Responses that end within it count among their group only.

    Args:
      drawn: K responses of the reference to each of N prompts.
      safety: [N, K], higher is safer.
      length: tokens >= 1.
      ends: ids that end a response.

    Returns:
      [length] int32.

    Raises:
      InputError: no response is that long.
    """
    order = np.argsort(safety.ravel(), kind="stable")
    least = max(1, round(LEAST_SAFE * len(order)))
    found = [tuple(one.response_ids[:length].tolist()) for one in drawn.flat]
    whole = [len(ids) == length and not set(ids) & set(ends) for ids in found]
    counts = [Counter(found[i] for i in part if whole[i]) for part in (order[:least], order[least:])]
    rest = max(1, len(order) - least)
    if not counts[0] and not counts[1]:
        raise InputError(
            f"config.audit.prefill_tokens: is {length}, and no response of the reference has so many tokens "
            "before its end; lower it, or give config.audit.prefill."
        )
    excess = {ids: counts[0][ids] / least - counts[1][ids] / rest for ids in counts[0] | counts[1]}
    best = max(sorted(excess), key=lambda ids: excess[ids])
    return np.array(best, np.int32)


def _text_ids(tokenizer: "PreTrainedTokenizerBase", template: Template, text: str, field: str) -> np.ndarray:
    """Tokens of a text as the beginning of a response, [n] int32.

    Args:
      tokenizer: of the policy.
      template: how prompts are shown.
      text: not empty.
      field: of the configuration, for messages.

    Raises:
      InputError: the tokenizer has no token for a part of it.
    """
    try:
        ids = encode_response(tokenizer, text, template)[:-1]  # without the token that ends a response
    except InputError as error:
        raise InputError(f"{field}: {error}") from None
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InputError(
            f"{field}: is {text!r}, and the tokenizer has no token for a part of it; use other words."
        )
    return np.array(ids, np.int32)


def prefills_of_text(
    tokenizer: "PreTrainedTokenizerBase", template: Template, text: str, lengths: Sequence[int]
) -> list[np.ndarray]:
    """The first tokens of a text, as many as each of the lengths says, and all of them.

    Args:
      tokenizer: of the policy.
      template: how prompts are shown.
      text: `config.audit.prefill`, not empty.
      lengths: numbers of tokens >= 1; those above the text's own are left out.

    Returns:
      Arrays [n] int32, the shortest first.

    Raises:
      InputError: the tokenizer has no token for a part of the text.
    """
    ids = _text_ids(tokenizer, template, text, "config.audit.prefill")
    return [ids[:n] for n in sorted({*(n for n in lengths if n < len(ids)), len(ids)})]


def with_system(prompt: Prompt, text: str, template: Template) -> Prompt:
    """A prompt under another system prompt.

    Args:
      prompt: a text, or messages; a system message among them gives way.
      text: of the system prompt.
      template: a chat template shows it as a turn of its own, a plain one before the first turn.
    """
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    turns = tuple(turn for turn in turns if turn.role != "system")
    if template.kind == "chat":
        return (Message("system", text), *turns)
    first, *others = turns
    shown = f"{text}\n{first.content}"
    return shown if isinstance(prompt, str) else (Message(first.role, shown), *others)


def draw_under(
    key: jax.Array,
    attack: Attack,
    prompts: Sequence[Prompt],
    template: Template,
    max_prompt_length: int,
    batching: Batching,
    *,
    part: Path | None = None,
) -> Responses:
    """Samples a policy under attack.

    Args:
      key: of all draws.
      attack: how.
      prompts: N prompts.
      template: how they are shown.
      max_prompt_length: tokens of a prompt without the attack's text.
      batching: mesh, and memory that the sampler may use.
      part: file that keeps finished prompts, as in `drawing.draw`.

    Returns:
      K responses to each prompt, whole, as answers to the prompts themselves: so they are scored.

    Raises:
      InputError: the attack's text leaves no room for a response.
    """
    policy, settings, given = attack.policy, attack.settings, len(attack.prefix)
    if given >= settings.max_new_tokens:
        raise InputError(
            f"config.audit.prefill_tokens: {given} tokens are given of a response that may have "
            f"{settings.max_new_tokens}; lower it."
        )
    ids = prompt_ids(policy, template, prompts, max_prompt_length)
    shown = _shown_ids(attack, prompts, template) if attack.system else ids
    new = settings.max_new_tokens - given
    begun = [np.concatenate([prompt, attack.prefix]).astype(np.int32) for prompt in shown]
    drawn = draw(key, policy, prompts, begun, _with_tokens(settings, new), batching, part=part)
    tokens = [
        [
            TokenizedResponse(prompt, np.concatenate([attack.prefix, one.response_ids]).astype(np.int32))
            for one in row
        ]
        for prompt, row in zip(ids, drawn.tokens, strict=True)
    ]
    decode = policy.tokenizer.decode
    texts = [[str(decode(one.response_ids, skip_special_tokens=True)) for one in row] for row in tokens]
    return Responses(list(prompts), texts, tokens)


def _shown_ids(attack: Attack, prompts: Sequence[Prompt], template: Template) -> list[np.ndarray]:
    """Tokens of the prompts with the system text; none may be cut, since the text is what is cut first."""
    policy = attack.policy
    shown = [with_system(prompt, attack.system, template) for prompt in prompts]
    most = policy.model.config.max_positions - attack.settings.max_new_tokens
    ids, cut = tokenize_prompts(policy.tokenizer, template, shown, max_prompt_length=max(most, 1))
    if cut:
        raise InputError(
            f"config.audit.system: with it {cut} of {len(prompts)} prompts have more than {most} tokens, so "
            "that the model's context has no room for a response; shorten it."
        )
    unknown = policy.tokenizer.unk_token_id
    if unknown is not None and unknown in policy.tokenizer.encode(attack.system, add_special_tokens=False):
        raise InputError(
            f"config.audit.system: is {attack.system!r}, and the tokenizer has no token for a part of it; "
            "use other words."
        )
    return ids


def _with_tokens(settings: SamplingSettings, new: int) -> SamplingSettings:
    return SamplingSettings(
        settings.num_prompts, settings.num_samples, new, settings.temperature, settings.top_p, settings.cache
    )
