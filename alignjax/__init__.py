"""Constrained alignment of language models by optimal dualization, in JAX.

    import alignjax as aj

The names in `__all__` are the library; docs/library.md shows them at work. Importing the package alone is
cheap and starts no device: a name's module, and JAX with it, is imported when the name is first used. Modules
and names that are not listed here are internal and may change without notice.
"""

from typing import TYPE_CHECKING

from alignjax.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from alignjax import dual, policy
    from alignjax.alignment import losses
    from alignjax.alignment.preference_training import align
    from alignjax.alignment.relabel import relabel_pairs
    from alignjax.data.cleaning import clean
    from alignjax.data.records import read_pairs
    from alignjax.data.tokenize import template_for, tokenize_pairs
    from alignjax.models import (
        load_adapter,
        load_pretrained,
        load_score_model,
        merge_lora,
        save_adapter,
        save_pretrained,
    )
    from alignjax.policy import response_logps
    from alignjax.scores.learned import learned_pair_scores, learned_scores

__version__ = "0.1.0"

__all__ = [
    "align",
    "clean",
    "dual",
    "learned_pair_scores",
    "learned_scores",
    "load_adapter",
    "load_pretrained",
    "load_score_model",
    "losses",
    "merge_lora",
    "policy",
    "read_pairs",
    "relabel_pairs",
    "response_logps",
    "save_adapter",
    "save_pretrained",
    "template_for",
    "tokenize_pairs",
]

# Name -> the module that it is an attribute of, or that it is itself.
_HOMES = {
    "align": "alignjax.alignment.preference_training",
    "clean": "alignjax.data.cleaning",
    "dual": "alignjax.dual",
    "learned_pair_scores": "alignjax.scores.learned",
    "learned_scores": "alignjax.scores.learned",
    "load_adapter": "alignjax.models",
    "load_pretrained": "alignjax.models",
    "load_score_model": "alignjax.models",
    "losses": "alignjax.alignment.losses",
    "merge_lora": "alignjax.models",
    "policy": "alignjax.policy",
    "read_pairs": "alignjax.data.records",
    "relabel_pairs": "alignjax.alignment.relabel",
    "response_logps": "alignjax.policy",
    "save_adapter": "alignjax.models",
    "save_pretrained": "alignjax.models",
    "template_for": "alignjax.data.tokenize",
    "tokenize_pairs": "alignjax.data.tokenize",
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and reports any other name
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
