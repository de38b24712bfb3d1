"""Log-probabilities of pairs and of sampled responses, each computed once."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.policy import divergence
from alignjax.policy import logps as policy_logps
from alignjax.policy.batching import Batching
from alignjax.policy.divergence import Divergences
from alignjax.policy.values import Policy
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.metrics import progress

_Row = TypeVar("_Row", TokenizedResponse, TokenizedPair)


class LogpsCache:
    """Log-probabilities that are known, by policy.

    A pair is known by its token ids, which tokenizer, template and lengths determine; sampled responses by
    the token ids of all of them together, so that a value depends on nothing that was computed before. With a
    folder, those of pairs outlive the process.
    """

    def __init__(self, batching: Batching, folder: Path | None = None) -> None:
        """Starts with what the folder holds.

        Args:
          batching: shapes of batches.
          folder: where those of pairs are kept; None: in memory only.
        """
        self._batching = batching
        self._folder = folder
        self._pairs: dict[str, dict[str, np.ndarray]] = {}
        self._responses: dict[tuple[str, str, str], np.ndarray] = {}

    def of_pairs(self, policy: Policy, tokens: Sequence[TokenizedPair]) -> np.ndarray:
        """Log-probabilities of both responses of every pair: [n, 2] float32, chosen and rejected, nats.

        Raises:
          InputError: the file that keeps them is damaged.
        """
        known = self._known(policy)
        names = [digest(pair) for pair in tokens]
        places = {name: i for i, name in enumerate(names) if name not in known}
        if places:
            missing = [tokens[i] for i in places.values()]
            self.remember(policy, missing, logps_of_pairs(policy, missing, self._batching))
            known = self._known(policy)
        return np.array([known[name] for name in names], np.float32).reshape(-1, 2)

    def remember(self, policy: Policy, tokens: Sequence[TokenizedPair], logps: np.ndarray) -> None:
        """Adds log-probabilities, [n, 2], that were computed elsewhere."""
        known = self._known(policy)
        known |= dict(zip((digest(pair) for pair in tokens), logps, strict=True))
        if self._folder is not None:
            names, values = np.array(list(known)), np.stack(list(known.values()))
            write_npz(self._path(self._folder, policy), pairs=names, logps=values)

    def of_responses(self, policy: Policy, drawn: Responses) -> np.ndarray:
        """Log-probabilities of sampled responses under a policy: [N, K] float64, nats."""
        key = policy.name, policy.fingerprint, _digest_of_all(drawn)
        if key not in self._responses:
            self._responses[key] = logps_of_responses(policy, drawn, self._batching)
        return self._responses[key]

    def remember_responses(self, policy: Policy, drawn: Responses, logps: np.ndarray) -> None:
        """Adds log-probabilities of sampled responses, [N, K], that were computed elsewhere."""
        key = policy.name, policy.fingerprint, _digest_of_all(drawn)
        self._responses[key] = np.asarray(logps, np.float64)

    def kl_of_responses(self, policy: Policy, reference: Policy, drawn: Responses) -> np.ndarray:
        """`kl_of_responses`; the log-probabilities under both policies, which the same pass gives, are kept.

        The reference is at no distance from itself: for it nothing is computed.
        """
        if (policy.name, policy.fingerprint) == (reference.name, reference.fingerprint):
            return np.zeros((len(drawn.tokens), len(drawn.tokens[0])))
        found = divergences_of_responses(policy, reference, drawn, self._batching)
        self.remember_responses(policy, drawn, found.logps)
        self.remember_responses(reference, drawn, found.reference)
        return found.kl

    def _known(self, policy: Policy) -> dict[str, np.ndarray]:
        key = f"{policy.name}-{policy.fingerprint[:16]}"
        if key not in self._pairs:
            path = None if self._folder is None else self._path(self._folder, policy)
            stored = read_npz(path) if path is not None and path.exists() else None
            self._pairs[key] = (
                {} if stored is None else dict(zip(stored["pairs"].tolist(), stored["logps"], strict=True))
            )
        return self._pairs[key]

    @staticmethod
    def _path(folder: Path, policy: Policy) -> Path:
        return folder / f"logps-{policy.name}-{policy.fingerprint[:16]}.npz"


def logps_of_pairs(
    policy: Policy, tokens: Sequence[TokenizedPair], batching: Batching, *, leave_bar: bool = True
) -> np.ndarray:
    """Computes the log-probabilities of both responses of every pair.

    Args:
      policy: whose.
      tokens: n pairs.
      batching: shapes of batches.
      leave_bar: whether the progress bar stays when it is done.

    Returns:
      [n, 2] float32, chosen and rejected, nats.
    """
    with progress(len(tokens), f"pairs scored by {policy.name}", unit="", leave=leave_bar) as bar:
        return policy_logps.preference_logps(
            policy.model,
            tokens,
            lora=policy.lora,
            batch_size=batching.rows,
            buckets=batching.pair_buckets(policy.model.config, tokens),
            progress=bar.update,
            mesh=batching.mesh,
        )


def logps_of_responses(policy: Policy, drawn: Responses, batching: Batching) -> np.ndarray:
    """Computes the log-probabilities of sampled responses under a policy: [N, K] float64, nats.

    Equal responses to one prompt are computed once.
    """
    flat, places = distinct(drawn.flat)
    with progress(len(flat), f"{drawn.described} scored by {policy.name}", unit="") as bar:
        values = policy_logps.response_logps(
            policy.model,
            flat,
            lora=policy.lora,
            batch_size=batching.rows,
            shapes=batching.response_shapes(policy.model.config, flat),
            progress=bar.update,
            mesh=batching.mesh,
        )
    return np.asarray(values, np.float64)[places].reshape(len(drawn.tokens), -1)


def kl_of_responses(policy: Policy, reference: Policy, drawn: Responses, batching: Batching) -> np.ndarray:
    """KL divergence of a policy from the reference on responses that it sampled: [N, K] float64, nats.

    A sum over tokens of the divergence of the next one; see `policy.divergence`.
    """
    return divergences_of_responses(policy, reference, drawn, batching).kl


def divergences_of_responses(
    policy: Policy, reference: Policy, drawn: Responses, batching: Batching
) -> Divergences:
    """KL as in `kl_of_responses`, and log-probabilities under both policies: each [N, K] float64, nats."""
    flat, places = distinct(drawn.flat)
    with progress(len(flat), f"KL of {drawn.described}", unit="") as bar:
        values = divergence.response_divergences(
            policy.model,
            reference.model,
            flat,
            lora=policy.lora,
            reference_lora=reference.lora,
            batch_size=batching.rows,
            shapes=batching.response_shapes(policy.model.config, flat),
            progress=bar.update,
            mesh=batching.mesh,
        )
    count = len(drawn.tokens)
    return Divergences(*(np.asarray(one, np.float64)[places].reshape(count, -1) for one in values))


def distinct(rows: Sequence[_Row]) -> tuple[list[_Row], np.ndarray]:
    """Responses, or pairs, of which no two have the same prompt and the same tokens.

    Args:
      rows: n responses or pairs.

    Returns:
      Each once, in the order of their first occurrence, and [n] int, the place of every row among them.
    """
    places: dict[str, int] = {}
    found, where = list[_Row](), np.zeros(len(rows), np.int64)
    for i, row in enumerate(rows):
        where[i] = place = places.setdefault(digest(row), len(found))
        if place == len(found):
            found.append(row)
    return found, where


def digest(ids: Iterable[np.ndarray]) -> str:
    """Names arrays of token ids, where each begins and ends included."""
    digest = hashlib.sha256()
    for part in ids:
        digest.update(len(part).to_bytes(4, "little") + np.asarray(part, np.int32).tobytes())
    return digest.hexdigest()[:32]


def _digest_of_all(drawn: Responses) -> str:
    count = np.array([len(drawn.tokens)])
    return digest([count, *(ids for response in drawn.flat for ids in response)])
