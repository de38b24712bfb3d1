"""Which steps of a run are traced."""

import dataclasses

from alignjax.config.fields import setting


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """Traces of training steps in WORKDIR/profile, for TensorBoard's profiler and for Perfetto."""

    # How many steps of every training are traced; 0: none. A trace takes megabytes a step.
    steps: int = setting(0, least=0, most=1000, affects_result=False)
    # The first of them, counted from the start of the command; the first steps compile.
    first: int = setting(10, least=1, affects_result=False)
