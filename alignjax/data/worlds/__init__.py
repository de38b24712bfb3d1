"""Embedded worlds: small preference data whose true scores are known."""

from alignjax.data.worlds import assistant, enumerable
from alignjax.data.worlds.world import Enumeration, Sampler, World
from alignjax.errors import InputError

__all__ = ["WORLDS", "Enumeration", "Sampler", "World", "world_for"]

WORLDS = ("assistant", "enumerable")


def world_for(name: str, *, world_seed: int = 0) -> World:
    """Makes an embedded world.

    Args:
      name: "assistant" or "enumerable".
      world_seed: >= 0; it decides which prompts are held out, and which tested, in `assistant`, and the true
        scores in `enumerable`.

    Returns:
      The world.

    Raises:
      InputError: no such world.
    """
    if name == "assistant":
        return assistant.make_world(world_seed)
    if name == "enumerable":
        return enumerable.make_world(world_seed)
    raise InputError(f"world: there is no world {name!r}; choose from {', '.join(WORLDS)}.")
