"""What a long computation is told by the run that asks for it."""

from pathlib import Path
from typing import NamedTuple


class Look(NamedTuple):
    """One look at prompts that are kept for a test.

    Attributes:
      number: of this look at these prompts, from 1.
      share: of the test's error that it may spend, in (0, 1).
      spent: share that all looks up to this one have spent.
    """

    number: int
    share: float
    spent: float


class Work(NamedTuple):
    """What a computation is given by the run that asks for it.

    Attributes:
      fingerprint: of the stage's settings and inputs; what is cached for its result carries it.
      scratch: folder for what an interrupted computation resumes from; None: nothing is kept.
      look: of a stage that tests; None: it does not.
    """

    fingerprint: str
    scratch: Path | None
    look: Look | None = None

    def file(self, name: str) -> Path | None:
        """A file of the scratch folder, whose folder is made; None where nothing is kept."""
        if self.scratch is None:
            return None
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch / name
