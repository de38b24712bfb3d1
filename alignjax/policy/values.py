"""What stages of a method hand on: policies, and responses that were sampled."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from alignjax.errors import InputError
from alignjax.models import Adapters, Lora, Mixture, Model

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


class Outcome(NamedTuple):
    """How a training ended; arrays are flax trees.

    Attributes:
      best: what was trained, at the step that was kept.
      last: the same after the last step.
      best_step: the step that was kept.
      steps: train steps done.
      stopped_early: whether held-out loss stopped falling before the last step.
    """

    best: Any
    last: Any
    best_step: int
    steps: int
    stopped_early: bool


class Policy(NamedTuple):
    """A language model, or adapters on one.

    Attributes:
      name: reference, a dimension's name, aligned, or a baseline's name.
      load: gives the weights below the adapters. They may be held for several policies, so the result is
        used and not kept; see `workflow.model_cache`.
      lora: an adapter, or a mixture of several whose product the policy is; None: the weights are the policy.
      stage: that made it.
      fingerprint: of that stage; names what is cached about the policy.
      outcome: of its training, in the process that trained it; None where it was loaded.
    """

    name: str
    load: Callable[[], Model]
    lora: Adapters | None
    stage: str
    fingerprint: str
    outcome: Outcome | None = None

    @property
    def model(self) -> Model:
        """The weights below the adapters."""
        return self.load()

    @property
    def adapter(self) -> Lora | None:
        """The policy's only adapter, to train further, merge or write; None: the weights are the policy.

        Raises:
          InputError: the policy is a mixture of adapters.
        """
        if isinstance(self.lora, Mixture):
            raise InputError(
                f"{self.name}: is a mixture of {self.lora.weights.shape[0]} adapters, where one is needed; "
                "merge them into one adapter."
            )
        return self.lora

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the weights.

        Raises:
          InputError: the model's folder has none.
        """
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise InputError(
                "config.model.path: the folder holds no tokenizer; copy tokenizer.json and its config there."
            )
        return tokenizer
