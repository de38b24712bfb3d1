"""How a score model reads prompts and responses: with its own tokenizer, template and last token."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignjax.data.records import Message, PreferencePair, Prompt
from alignjax.data.responses import Responses
from alignjax.data.templates import Template, render
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse, tokenize_responses
from alignjax.errors import InputError
from alignjax.models import ScoreModel

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

# Parts of a tokenizer's file that decide which ids a text has. BOS and EOS are added here, not by its
# post-processor, and the rest is about decoding and padding.
_DECIDING = ("model", "normalizer", "pre_tokenizer")


@dataclasses.dataclass(frozen=True)
class Reader:
    """Turns texts into the token ids that a score model was trained on.

    Attributes:
      tokenizer: the score model's own.
      policy_tokenizer: that made the responses' ids; it decodes responses that were cut.
      template: how prompts are shown.
      conversation: the score model's chat template shows prompt and response together, and the score is read
        at its last token.
      pad_id: not read at the end of a conversation, since transformers takes it for padding; None: none.
      max_length: tokens of prompt and response together.
      max_prompt_length: of these, tokens of the prompt; not used for conversations.
      where: the score model's folder, for messages.
      say: is told how many texts were cut.
    """

    tokenizer: "PreTrainedTokenizerBase"
    policy_tokenizer: "PreTrainedTokenizerBase"
    template: Template
    conversation: bool
    pad_id: int | None
    max_length: int
    max_prompt_length: int
    where: str
    say: Callable[[str], Any]

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> list[TokenizedPair]:
        """The pairs as the score model reads them.

        Args:
          tokens: n pairs in the policy's ids, which say which responses were cut.
          texts: the same pairs.

        Raises:
          InputError: a prompt that the template cannot show.
        """
        given = [
            (text.prompt, response, ids)
            for pair, text in zip(tokens, texts, strict=True)
            for response, ids in ((text.chosen, pair.chosen_ids), (text.rejected, pair.rejected_ids))
        ]
        read = self._read(given)
        return [_joined(a, b) for a, b in zip(read[0::2], read[1::2], strict=True)]

    def responses(self, drawn: Responses) -> list[TokenizedResponse]:
        """Sampled responses as the score model reads them, prompt by prompt.

        Raises:
          InputError: a prompt that the template cannot show.
        """
        rows = zip(drawn.prompts, drawn.texts, drawn.tokens, strict=True)
        return self._read(
            [
                (prompt, text, ids.response_ids)
                for prompt, texts, tokens in rows
                for text, ids in zip(texts, tokens, strict=True)
            ]
        )

    def _read(self, given: Sequence[tuple[Prompt, str, np.ndarray]]) -> list[TokenizedResponse]:
        ends = _special_ids(self.policy_tokenizer)
        whole = [len(ids) > 0 and int(ids[-1]) in ends for _, _, ids in given]
        texts = [
            (prompt, text if full else str(self.policy_tokenizer.decode(ids, skip_special_tokens=True)))
            for (prompt, text, ids), full in zip(given, whole, strict=True)
        ]
        if self.conversation:
            return self._conversations(texts)
        read, counts = tokenize_responses(
            self.tokenizer,
            self.template,
            texts,
            max_length=self.max_length,
            max_prompt_length=self.max_prompt_length,
        )
        if counts.prompts_cut or counts.responses_cut:
            self.say(
                f"  {self.where}: {counts.prompts_cut} prompts and {counts.responses_cut} responses are "
                f"longer than the {self.max_length} tokens that it reads, and were cut"
            )
        own_ends = _special_ids(self.tokenizer)
        return [
            one if full else one._replace(response_ids=_without_end(one.response_ids, own_ends))
            for one, full in zip(read, whole, strict=True)
        ]

    def _conversations(self, texts: Sequence[tuple[Prompt, str]]) -> list[TokenizedResponse]:
        wheres = [f"{self.where}: conversation {i}" for i in range(len(texts))]
        read = conversation_ids(
            self.tokenizer, texts, template=self.template, pad_id=self.pad_id, wheres=wheres
        )
        long = sum(len(ids) > self.max_length for ids in read)
        if long:
            self.say(
                f"  {self.where}: {long} conversations are longer than the {self.max_length} tokens that it "
                "reads, and lost their beginning after the first token"
            )
        # The first token stays: the two conversations of a pair share it, so that they fit one row.
        most = self.max_length - 1
        cut = [ids if len(ids) <= most + 1 else np.concatenate([ids[:1], ids[-most:]]) for ids in read]
        return [as_response(ids) for ids in cut]


def conversation_ids(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[tuple[Prompt, str]],
    *,
    template: Template,
    pad_id: int | None,
    wheres: Sequence[str],
) -> list[np.ndarray]:
    """Ids of prompts and their responses, shown by the chat template as finished conversations.

    Args:
      tokenizer: of the score model.
      texts: n prompts, a text of one turn or messages, each with the assistant's turn.
      template: of kind "chat".
      pad_id: removed at the end, where transformers reads the last token that is not padding.
      wheres: where each comes from, for messages.

    Returns:
      n arrays [T] int32, T >= 2.

    Raises:
      InputError: the template refuses the turns, or writes nothing.
    """
    found = []
    conversations = [
        (
            *((Message("user", prompt),) if isinstance(prompt, str) else prompt),
            Message("assistant", response),
        )
        for prompt, response in texts
    ]
    for text, where in zip(
        render(tokenizer, template, conversations, wheres, generation=False), wheres, strict=True
    ):
        encoded: Any = tokenizer(text, add_special_tokens=False, verbose=False)
        ids = list(encoded["input_ids"])
        while ids and ids[-1] == pad_id:
            ids.pop()
        if len(ids) < 2:
            raise InputError(f"{where}: the score model's chat template writes no text; repair the template.")
        found.append(np.array(ids, np.int32))
    return found


def as_response(ids: np.ndarray) -> TokenizedResponse:
    """A row whose score is read at the last of these ids, [T] int32 with T >= 2."""
    return TokenizedResponse(ids[:-1], ids[-1:])


def reader_of(
    model: ScoreModel,
    policy_tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    *,
    own_template: str,
    max_length: int,
    max_prompt_length: int,
    vocab_size: int,
    where: str,
    field: str,
    say: Callable[[str], Any],
) -> Reader | None:
    """How a score model reads what the policy has tokenized; None: the policy's ids are its own as well.

    Args:
      model: the score model; only its tokenizer and settings are kept.
      policy_tokenizer: of the policy.
      template: of the run.
      own_template: text with {prompt} for this score model; empty: its chat template, or the run's plain one.
      max_length: of the run, in the policy's tokens.
      max_prompt_length: of the run.
      vocab_size: rows of the policy's embedding.
      where: the score model's folder, for messages.
      field: of the configuration that gives `own_template`, for messages.
      say: is told what is unusual.

    Raises:
      InputError: a score model without a tokenizer whose vocabulary has another size, or one of another
        tokenizer for which no template is known.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        if model.config.vocab_size != vocab_size:
            raise InputError(
                f"{where}: holds no tokenizer, and its vocabulary has {model.config.vocab_size} ids where "
                f"the policy has {vocab_size}; copy the score model's tokenizer files there."
            )
        say(f"  {where}: holds no tokenizer; it is given the policy's token ids")
        return None
    conversation = model.reads == "conversation" and tokenizer.chat_template is not None and not own_template
    same_ids = same_tokenizer(tokenizer, policy_tokenizer)
    same_chat = tokenizer.chat_template in (None, policy_tokenizer.chat_template) or template.kind == "plain"
    if same_ids and same_chat and not conversation and not own_template:
        return None
    # A vocabulary made for other texts may need more tokens for the same text; twice as many bounds memory.
    most = min(model.config.max_positions, 2 * max_length)
    return Reader(
        tokenizer,
        policy_tokenizer,
        _template(tokenizer, template, own_template, where, field),
        conversation,
        model.pad_id,
        most,
        min(max(1, max_prompt_length * most // max_length), most - 1),
        where,
        say,
    )


def _template(
    tokenizer: "PreTrainedTokenizerBase", template: Template, own: str, where: str, field: str
) -> Template:
    if own:
        return Template("plain", own)
    if tokenizer.chat_template is not None:
        return Template("chat", date=template.date)
    if template.kind == "plain":
        return template
    raise InputError(
        f"{where}: its tokenizer has no chat template, and the policy's chat template is not written for it; "
        f"give {field}, a text with {{prompt}}, as the score model's card shows its inputs."
    )


def same_tokenizer(a: "PreTrainedTokenizerBase", b: "PreTrainedTokenizerBase") -> bool:
    """Whether both give every text the same ids, and end responses with the same one."""
    if a is b:
        return True
    if a.get_vocab() != b.get_vocab():
        return False
    if (a.bos_token_id, a.eos_token_id) != (b.bos_token_id, b.eos_token_id):
        return False
    return _backend(a) == _backend(b)


def _backend(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return {"class": type(tokenizer).__name__, "settings": str(tokenizer.init_kwargs)}
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    added = sorted((token["id"], token["content"]) for token in fields.get("added_tokens", []))
    return {name: fields.get(name) for name in _DECIDING} | {"added": added}


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Ids that end a turn and stand for no text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _without_end(ids: np.ndarray, ends: set[int]) -> np.ndarray:
    """Ids of a response that was cut: its text does not end here."""
    return ids[:-1] if len(ids) > 1 and int(ids[-1]) in ends else ids


def _joined(chosen: TokenizedResponse, rejected: TokenizedResponse) -> TokenizedPair:
    """A pair whose shared beginning is its prompt, so that it is read once."""
    first, second = (np.concatenate(one) for one in (chosen, rejected))
    if np.array_equal(chosen.prompt_ids, rejected.prompt_ids):
        return TokenizedPair(chosen.prompt_ids, chosen.response_ids, rejected.response_ids)
    most = min(len(first), len(second)) - 1
    differs = np.flatnonzero(first[:most] != second[:most])
    shared = int(differs[0]) if differs.size else most
    if not shared:
        raise InputError(
            "a score model's chat template shows two responses to one prompt without a common beginning; "
            "use a template that writes the turns in order."
        )
    return TokenizedPair(first[:shared], first[shared:], second[shared:])
