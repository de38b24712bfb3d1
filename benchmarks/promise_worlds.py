"""Worlds whose tilted policies are known exactly: listed responses, and mixtures of Gaussians."""

from typing import NamedTuple, Protocol

import numpy as np


class Drawn(NamedTuple):
    """A table: rewards [N, K], utilities [N, K, m], exposure [N, m] (None: every prompt carries all)."""

    rewards: np.ndarray
    utilities: np.ndarray
    exposure: np.ndarray | None


class Truth(NamedTuple):
    """Of a policy, over all prompts: what it has above the reference, margins [m] and reward."""

    margins: np.ndarray
    reward: float


class World(Protocol):
    """A population of prompts, each with a distribution of scores, the reward first.

    Attributes:
      name: of the row in the tables.
      m: number of constraints.
    """

    name: str
    m: int

    def draw(self, rng: np.random.Generator, prompts: int, responses: int) -> Drawn:
        """Draws prompts with replacement, and responses to each."""
        ...

    def evenly(self, rng: np.random.Generator, prompts: int, responses: int) -> Drawn:
        """Draws responses to every prompt of the population in turn."""
        ...

    def tilt(self, beta: float, lam: np.ndarray) -> Truth:
        """The exact tilt at the multipliers [m]."""
        ...


class Listed:
    """Every response is listed and drawn alike: scores [P, Y, 1 + m], exposure [P, m] or None."""

    def __init__(self, name: str, scores: np.ndarray, exposure: np.ndarray | None = None):
        self.name, self.m, self._scores, self._exposure = name, scores.shape[-1] - 1, scores, exposure

    def draw(self, rng: np.random.Generator, prompts: int, responses: int) -> Drawn:
        """As `World.draw`."""
        return self._of(rng.integers(len(self._scores), size=prompts), rng, responses)

    def evenly(self, rng: np.random.Generator, prompts: int, responses: int) -> Drawn:
        """As `World.evenly`."""
        return self._of(np.arange(prompts) % len(self._scores), rng, responses)

    def _of(self, rows: np.ndarray, rng: np.random.Generator, responses: int) -> Drawn:
        columns = rng.integers(self._scores.shape[1], size=(len(rows), responses))
        scores = self._scores[rows[:, None], columns]
        exposure = None if self._exposure is None else self._exposure[rows]
        return Drawn(scores[..., 0], scores[..., 1:], exposure)

    def tilt(self, beta: float, lam: np.ndarray) -> Truth:
        """As `World.tilt`."""
        return chosen(Drawn(self._scores[..., 0], self._scores[..., 1:], self._exposure), beta, lam)


class Mixture:
    """Gaussian components: shares [P, C], means [P, C, 1 + m], covariances [P, C, 1 + m, 1 + m].

    Under the tilt, component c has the mean mu_c + S_c v with v = (1, lam) / beta, and a share proportional
    to share_c exp(<v, mu_c> + <v, S_c v> / 2).
    """

    def __init__(self, name: str, shares: np.ndarray, means: np.ndarray, covariances: np.ndarray):
        self.name, self.m = name, means.shape[-1] - 1
        self._shares, self._means, self._covariances = shares, means, covariances
        self._roots = np.linalg.cholesky(covariances)

    def draw(self, rng: np.random.Generator, prompts: int, responses: int) -> Drawn:
        """As `World.draw`."""
        return self._of(rng.integers(len(self._shares), size=prompts), rng, responses)

    def evenly(self, rng: np.random.Generator, prompts: int, responses: int) -> Drawn:
        """As `World.evenly`."""
        return self._of(np.arange(prompts) % len(self._shares), rng, responses)

    def _of(self, rows: np.ndarray, rng: np.random.Generator, responses: int) -> Drawn:
        cumulative = np.cumsum(self._shares, axis=1)[rows, None, :-1]
        component = np.sum(rng.random((len(rows), responses, 1)) > cumulative, axis=-1)
        noise = rng.standard_normal((len(rows), responses, 1 + self.m))
        at = rows[:, None], component
        scores = self._means[at] + np.einsum("nkab,nkb->nka", self._roots[at], noise)
        return Drawn(scores[..., 0], scores[..., 1:], None)

    def tilt(self, beta: float, lam: np.ndarray) -> Truth:
        """As `World.tilt`."""
        v = np.concatenate([[1.0], lam]) / beta
        moved = self._covariances @ v
        logits = np.log(self._shares) + self._means @ v + moved @ v / 2
        tilted = np.exp(logits - logits.max(axis=1, keepdims=True))
        tilted /= tilted.sum(axis=1, keepdims=True)
        gained = np.sum(tilted[..., None] * (self._means + moved), axis=1)
        gained = np.mean(gained - np.sum(self._shares[..., None] * self._means, axis=1), axis=0)
        return Truth(gained[1:], float(gained[0]))


def chosen(drawn: Drawn, beta: float, lam: np.ndarray) -> Truth:
    """What choosing among the responses of a table by the weights of the tilt gains over the reference.

    Of a table of all responses that is the tilt itself; of tables of K draws, on average, the policy that
    draws K and keeps one.
    """
    logits = (drawn.rewards + drawn.utilities @ lam) / beta
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    weights -= 1.0 / weights.shape[1]
    margins = np.einsum("nk,nkm->m", weights, drawn.utilities) / len(weights)
    carried = 1.0 if drawn.exposure is None else drawn.exposure.mean(axis=0)
    return Truth(margins / carried, float(np.sum(weights * drawn.rewards) / len(weights)))


def gauss() -> Mixture:
    """One Gaussian for all prompts, reward against utility."""
    cov = 0.25 * np.array([[1.0, -0.6], [-0.6, 1.0]])
    return Mixture("gauss", np.ones((1, 1)), np.zeros((1, 1, 2)), cov[None, None])


def mix(prompts: int = 2000) -> Mixture:
    """Two Gaussians a prompt, the unsafe one with the higher reward, all parameters by prompt."""
    rng = np.random.default_rng(1)
    share, gap = rng.uniform(0.1, 0.9, prompts), rng.gamma(2.0, 0.25, prompts)
    # Columns: reward, utility; rows: the unsafe component, the safe one.
    means = gap[:, None, None] * np.array([[0.5, -1.0], [-0.2, 0.3]])
    spread = rng.uniform([0.2, 0.15], [0.5, 0.5], (prompts, 2, 2))
    correlation = np.tile(np.eye(2), (prompts, 2, 1, 1))
    correlation[..., 0, 1] = correlation[..., 1, 0] = rng.uniform(-0.7, 0.2, (prompts, 2))
    covariances = spread[..., :, None] * correlation * spread[..., None, :]
    return Mixture("mix", np.stack([share, 1 - share], axis=1), means, covariances)


def _unsafe(rng: np.random.Generator, prompts: int, responses: int) -> np.ndarray:
    """Severity [P, Y], 0 where safe: 35% of the prompts are all safe, 15% all unsafe, the rest by a Beta."""
    at = rng.random(prompts)
    safe = np.where(at < 0.35, 1.0, np.where(at < 0.5, 0.0, rng.beta(0.5, 0.7, prompts)))
    unsafe = rng.random((prompts, responses)) >= safe[:, None]
    return unsafe * np.exp(rng.normal(-0.5, 0.6, (prompts, responses)))


def _t4(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(4, shape) / np.sqrt(2)


def heavy(
    name: str = "heavy", m: int = 1, alike: float = 0.5, prompts: int = 300, responses: int = 8192
) -> Listed:
    """Student-t4 and lognormal scores; what is unsafe is rewarded.

    Args:
      name: of the world.
      m: utilities, each with a severity of its own but for the share that is common.
      alike: correlation of the noise of the utilities, and share of the common severity.
      prompts: P.
      responses: Y.
    """
    rng = np.random.default_rng(2)
    shape = prompts, responses
    common, noise = _unsafe(rng, *shape), _t4(rng, shape)
    rewards, utilities = 0.35 * _t4(rng, shape), []
    for j in range(m):
        severity = common
        if j:
            severity = alike * common + (1 - alike) * _unsafe(rng, *shape)
            noise = alike * noise + np.sqrt(1 - alike**2) * _t4(rng, shape)
        utilities.append(np.where(severity > 0, -severity, 0.5) + 0.2 * noise)
        rewards = rewards + (0.4 * severity - 0.1 * utilities[-1]) / m
    return Listed(name, np.stack([rewards, *utilities], axis=-1))


def scales(prompts: int = 400, responses: int = 4096) -> Listed:
    """Prompts differ in scale by a lognormal factor, and are skewed up or down."""
    rng = np.random.default_rng(4)
    shape = prompts, responses
    scale = np.exp(rng.normal(-1.0, 0.6, (prompts, 1)))
    skewed = np.where(rng.random((prompts, 1)) < 0.5, 1, -1) * (
        rng.gamma(2.0, 1.0, shape) / np.sqrt(2) - np.sqrt(2)
    )
    utilities = scale * (0.8 * skewed + 0.4 * rng.standard_normal(shape))
    rewards = scale * (0.7 * rng.standard_normal(shape) - 0.5 * skewed)
    return Listed("scales", np.stack([rewards, utilities], axis=-1))


def rare(prompts: int = 400, responses: int = 8192) -> Listed:
    """Responses that do great harm are rare (2% on average) and rewarded."""
    rng = np.random.default_rng(3)
    shape = prompts, responses
    bad = rng.random(shape) < rng.beta(0.6, 30, prompts)[:, None]
    own = 0.3 * rng.standard_normal(shape)
    rewards = 0.4 * rng.standard_normal(shape) + np.where(bad, 1.2, -0.2 * own)
    return Listed("rare", np.stack([rewards, own - bad * (3 + rng.exponential(1.0, shape))], axis=-1))


def categories(prompts: int = 400, responses: int = 4096) -> Listed:
    """Two categories with 30% and 70% of the prompts, a constraint each; the smaller one is the less safe."""
    rng = np.random.default_rng(5)
    shape = prompts, responses
    member = np.stack([np.arange(prompts) < 0.3 * prompts, np.arange(prompts) >= 0.3 * prompts], axis=1)
    rate = np.where(member[:, :1], rng.beta(1, 1, (prompts, 1)), rng.beta(0.5, 2, (prompts, 1)))
    unsafe = rng.random(shape) < rate
    severity = np.where(unsafe, np.exp(rng.normal(-0.5, 0.6, shape)), 0.0)
    utility = np.where(unsafe, -severity, 0.5) + 0.3 * rng.standard_normal(shape)
    rewards = 0.35 * _t4(rng, shape) + 0.4 * severity
    exposure = member / member.mean(axis=0)
    scores = np.concatenate([rewards[..., None], utility[..., None] * exposure[:, None]], axis=-1)
    return Listed("categories", scores, exposure)
