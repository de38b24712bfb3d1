"""Where a run says what it does."""

from collections.abc import Callable
from typing import NamedTuple

from alignjax.runtime.metrics import MetricsWriter


class Log(NamedTuple):
    """Where a run says what it does.

    Attributes:
      say: prints a line for the user.
      metrics: writes metrics.jsonl and draws the same numbers on boards; None: neither.
    """

    say: Callable[[str], None] = print
    metrics: MetricsWriter | None = None

    def rewind(self, stage: str, step: int) -> None:
        """Drops the logged lines of a stage after this step."""
        if self.metrics is not None:
            self.metrics.rewind(stage, step)

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Logs one line."""
        if self.metrics is not None:
            self.metrics.write(stage, step, values)
