"""Alignment: losses, relabelling, the optimizer, the train step and the loop around it.

`preference_training.align` does all of it in one call. `held_out`, `recorder` and `step` are internal.
"""
