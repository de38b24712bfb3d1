"""Log-probabilities of pairs and of sampled responses, each computed once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alignjax.data.batches import pair_lengths, response_lengths
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair
from alignjax.policy import divergence
from alignjax.policy import logps as policy_logps
from alignjax.policy.batching import Batching
from alignjax.policy.values import Policy
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.metrics import progress


class LogpsCache:
    """Log-probabilities that are known, by policy.

    A pair is known by its token ids, which tokenizer, template and lengths determine; sampled responses by
    the identity of their object. With a folder, those of pairs outlive the process.
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
        self._drawn: list[Responses] = []  # kept, so that no other gets the id of one that is gone
        self._responses: dict[tuple[int, str, str], np.ndarray] = {}

    def of_pairs(self, policy: Policy, tokens: Sequence[TokenizedPair]) -> np.ndarray:
        """Log-probabilities of both responses of every pair: [n, 2] float32, chosen and rejected, nats.

        Raises:
          InputError: the file that keeps them is damaged.
        """
        known = self._known(policy)
        names = [_digest(pair) for pair in tokens]
        places = {name: i for i, name in enumerate(names) if name not in known}
        if places:
            missing = [tokens[i] for i in places.values()]
            self.remember(policy, missing, logps_of_pairs(policy, missing, self._batching))
            known = self._known(policy)
        return np.array([known[name] for name in names], np.float32).reshape(-1, 2)

    def remember(self, policy: Policy, tokens: Sequence[TokenizedPair], logps: np.ndarray) -> None:
        """Adds log-probabilities, [n, 2], that were computed elsewhere."""
        known = self._known(policy)
        known |= dict(zip((_digest(pair) for pair in tokens), logps, strict=True))
        if self._folder is not None:
            names, values = np.array(list(known)), np.stack(list(known.values()))
            write_npz(self._path(self._folder, policy), pairs=names, logps=values)

    def of_responses(self, policy: Policy, drawn: Responses) -> np.ndarray:
        """Log-probabilities of sampled responses under a policy: [N, K] float64, nats."""
        key = id(drawn), policy.name, policy.fingerprint
        if key not in self._responses:
            self._drawn.append(drawn)
            self._responses[key] = logps_of_responses(policy, drawn, self._batching)
        return self._responses[key]

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
            buckets=batching.buckets(pair_lengths(tokens)),
            progress=bar.update,
            mesh=batching.mesh,
        )


def logps_of_responses(policy: Policy, drawn: Responses, batching: Batching) -> np.ndarray:
    """Computes the log-probabilities of sampled responses under a policy: [N, K] float64, nats."""
    flat = drawn.flat
    with progress(len(flat), f"{drawn.described} scored by {policy.name}", unit="") as bar:
        values = policy_logps.response_logps(
            policy.model,
            flat,
            lora=policy.lora,
            batch_size=batching.rows,
            buckets=batching.buckets(response_lengths(flat)),
            progress=bar.update,
            mesh=batching.mesh,
        )
    return np.asarray(values, np.float64).reshape(len(drawn.tokens), -1)


def kl_of_responses(policy: Policy, reference: Policy, drawn: Responses, batching: Batching) -> np.ndarray:
    """KL divergence of a policy from the reference on responses that it sampled: [N, K] float64, nats.

    A sum over tokens of the divergence of the next one; see `policy.divergence`.
    """
    flat = drawn.flat
    with progress(len(flat), f"KL of {drawn.described}", unit="") as bar:
        values = divergence.response_kl(
            policy.model,
            reference.model,
            flat,
            lora=policy.lora,
            reference_lora=reference.lora,
            batch_size=batching.rows,
            buckets=batching.buckets(response_lengths(flat)),
            progress=bar.update,
            mesh=batching.mesh,
        )
    return np.asarray(values, np.float64).reshape(len(drawn.tokens), -1)


def _digest(pair: TokenizedPair) -> str:
    digest = hashlib.sha256()
    for ids in pair:
        digest.update(len(ids).to_bytes(4, "little") + np.asarray(ids, np.int32).tobytes())
    return digest.hexdigest()[:32]
