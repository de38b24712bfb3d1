"""The rules for policies that a run has without a final training."""

from alignjax.config.settings import Config
from alignjax.errors import InputError


def check_dial(config: Config) -> None:
    """Refuses a product of policies that the run does not have, or that cannot answer what it asks.

    Raises:
      InputError: names the field.
    """
    wants = [f"config.dial: {name}" for name in config.dial if name != "best_of"]
    wants += ["config.align.skip: the product of policies"] * config.align.skip
    if not wants:
        return
    if config.lora.rank == 0:
        raise InputError(
            f"{wants[0]} needs adapters, and config.lora.rank is 0: policies of all weights cannot be "
            "multiplied; give a rank."
        )
    if config.method == "mocan" and not config.baselines.single:
        raise InputError(
            f"{wants[0]} needs policies aligned to single scores; set config.baselines.single=True."
        )
    for name, one in config.constraints.items():
        if one.tail.given or one.groups.given:
            field = "tail" if one.tail.given else "groups"
            raise InputError(
                f"{wants[0]} has one weight for all prompts and is linear in the scores, and "
                f"config.constraints.{name}.{field} is not; ask for a margin, a level or a rate."
            )


def has_product(config: Config) -> bool:
    """Whether the product of policies of single dimensions can answer what the run asks."""
    plain = not any(one.tail.given or one.groups.given for one in config.constraints.values())
    return plain and config.lora.rank > 0 and (config.method == "pecan" or config.baselines.single)
