"""What can be asked of a policy: a constraint's six ways to ask, and the test of what was asked."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from alignjax.config.fields import group, setting

WAYS_TO_ASK = ("margin", "level", "fraction", "rate", "tail", "groups")  # of a constraint
_A_PROBABILITY = "it is the mean probability of a safe response"


@dataclasses.dataclass(frozen=True)
class TailSettings:
    """The mean cost of the worst `share` of the responses is at most `cost`; the cost is minus the score."""

    share: float | None = setting(None, above=0, below=1)
    cost: float | None = None  # in units of the calibrated scores

    @property
    def given(self) -> tuple[str, ...]:
        """The fields that are set; both or neither."""
        fields = {"share": self.share, "cost": self.cost}
        return tuple(name for name, value in fields.items() if value is not None)


@dataclasses.dataclass(frozen=True)
class GroupSettings:
    """A constraint for each category of prompts: exactly one of the three, for all alike or by category."""

    column: str = "category"  # of the data: the category of a row's prompt
    margin: float | Mapping[str, float] | None = None
    level: float | Mapping[str, float] | None = None
    rate: float | Mapping[str, float] | None = setting(None, above=0, below=1, note=_A_PROBABILITY)

    @property
    def given(self) -> tuple[str, ...]:
        """The ways to ask that are set."""
        fields = {"margin": self.margin, "level": self.level, "rate": self.rate}
        return tuple(name for name, value in fields.items() if value is not None)

    def asked_of(self, category: str) -> float | None:
        """What is asked of one category, in the unit that `given` names; None: nothing."""
        asked = next((value for value in (self.margin, self.level, self.rate) if value is not None), None)
        return asked.get(category) if isinstance(asked, Mapping) else asked


@dataclasses.dataclass(frozen=True)
class ConstraintSettings:
    """What is asked of one dimension: exactly one of the six."""

    margin: float | None = None  # mean score above the reference's, in units of the calibrated score
    level: float | None = None  # mean score
    fraction: float | None = setting(
        None, above=0, below=1, note="it is a share of the margin that the safety-only tilt has at this beta"
    )
    rate: float | None = setting(None, above=0, below=1, note=_A_PROBABILITY)
    tail: TailSettings = group(TailSettings)
    groups: GroupSettings = group(GroupSettings)

    @property
    def given(self) -> tuple[str, ...]:
        """The ways to ask that are used; a group of fields counts where any of its numbers is set."""
        fields = {"margin": self.margin, "level": self.level, "fraction": self.fraction, "rate": self.rate}
        groups = {"tail": self.tail.given, "groups": self.groups.given}
        plain = tuple(name for name, value in fields.items() if value is not None)
        return plain + tuple(name for name, given in groups.items() if given)

    @property
    def needs_rate(self) -> bool:
        """Whether a probability of a safe response is asked for; labels of single responses calibrate it."""
        return self.rate is not None or self.groups.rate is not None


@dataclasses.dataclass(frozen=True)
class TestSettings:
    """The test of what was asked, on prompts that nothing else uses."""

    # pytest takes classes of this name for tests.
    __test__: ClassVar[bool] = False

    share: float = setting(0.2, above=0, below=1)  # files: share of the prompts that are kept for the test
    # How many of them are used; every policy is evaluated on these. None: evaluation.num_prompts.
    prompts: int | None = setting(None, least=2, most=10**7)
    reward: float | None = None  # ask as well that the mean reward is at least so much above the reference's
    kl: float | None = setting(None, above=0, note="it is the largest KL from the reference, in nats")
    labels: str | None = None  # JSON Lines of human labels on responses; the verdicts then rest on them
