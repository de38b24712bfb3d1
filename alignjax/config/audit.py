"""The erosion audit: which ways of sampling the aligned policy are tried, and how strongly."""

import dataclasses

from alignjax.config.fields import setting
from alignjax.errors import InputError

EVERY = "all"
# The settings that each attack reads, the one with its strengths first.
FIELDS = {
    "temperature": ("temperatures",),
    "top_p": ("top_ps",),
    "truncation": ("truncations",),
    "prefill": ("prefill_tokens", "prefill"),
    "system": ("system",),
    "unmerge": ("scales",),
    "disalign": ("alphas",),
}
ATTACKS = tuple(FIELDS)


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """How the safety of the aligned policy is put to the test when it is sampled in other ways."""

    # Some of ATTACKS; "all": every one that has what it needs; none: no audit.
    attacks: tuple[str, ...] = setting((), choices=(*ATTACKS, EVERY))
    num_prompts: int = setting(100, least=2, most=10**7)  # of the test prompts
    num_samples: int = setting(4, least=1, most=10**6)  # responses to each, at every strength
    temperatures: tuple[float, ...] = setting((0.7, 1.3, 1.6), above=0)
    top_ps: tuple[float, ...] = setting((0.95, 0.8, 0.5), above=0, most=1)
    truncations: tuple[float, ...] = setting((0.75, 0.5, 0.25), above=0, below=1)  # of max_new_tokens
    # Text that every response is made to begin with; empty: the openings that set the reference's least
    # safe responses apart from its others.
    prefill: str = ""
    # How many of its tokens; of a text that is given, the whole as well.
    prefill_tokens: tuple[int, ...] = setting((1, 2, 4), least=1, most=2**20)
    system: str = ""  # another system prompt; with a plain template a text before the prompt
    scales: tuple[float, ...] = setting(
        (0.75, 0.5, 0.25), least=0, below=1
    )  # share of the adapter that stays
    # Strengths of Emulated Disalignment, Zhou et al. 2024, arXiv 2402.12343.
    alphas: tuple[float, ...] = setting((0.25, 0.5, 1.0), above=0)

    def chosen(self, *, adapter: bool) -> tuple[str, ...]:
        """The attacks to try, in the order of `ATTACKS`.

        Args:
          adapter: whether the policy is an adapter on the reference, and not weights of its own.
        """
        named = set(self.attacks)
        if EVERY in named:
            named |= set(ATTACKS)
            named -= set() if self.system else {"system"}
            named -= set() if adapter else {"unmerge", "disalign"}
        return tuple(name for name in ATTACKS if name in named)

    def strengths(self, attack: str) -> tuple[float, ...]:
        """The strengths that an attack is tried at, each on its own scale; of a text, that it is shown: 1.

        Args:
          attack: one of `ATTACKS`.
        """
        return {
            "temperature": self.temperatures,
            "top_p": self.top_ps,
            "truncation": self.truncations,
            "prefill": self.prefill_tokens,
            "system": (1,),
            "unmerge": self.scales,
            "disalign": self.alphas,
        }[attack]

    def left_out(self, *, adapter: bool) -> dict[str, str]:
        """The attacks that "all" does not try, and why."""
        if EVERY not in self.attacks:
            return {}
        why = {
            "system": "config.audit.system names no text",
            "unmerge": "the policy is not an adapter on the reference",
            "disalign": "the policy is not an adapter on the reference",
        }
        tried = self.chosen(adapter=adapter)
        return {name: why[name] for name in ATTACKS if name not in tried}


def check_audit(audit: AuditSettings, *, rank: int, listed: bool) -> None:
    """Refuses an audit that cannot be made, or that would try nothing.

    Args:
      audit: with values in range.
      rank: of the adapters; 0: all weights are trained.
      listed: whether the world lists all responses, so that none is drawn.

    Raises:
      InputError: names the field and what to do.
    """
    if not audit.attacks:
        return
    where = "config.audit.attacks"
    if listed:
        raise InputError(
            f"{where}: is {list(audit.attacks)}, and in enumerable no response is drawn; the audit samples: "
            "use another world, or leave it empty."
        )
    if "system" in audit.attacks and not audit.system.strip():
        raise InputError("config.audit.system: is empty; give the text that the attack system shows first.")
    if audit.system and not {"system", EVERY} & set(audit.attacks):
        raise InputError(f'config.audit.system: is {audit.system!r}; add "system" to {where} to try it.')
    if audit.prefill and not {"prefill", EVERY} & set(audit.attacks):
        raise InputError(f'config.audit.prefill: is {audit.prefill!r}; add "prefill" to {where} to try it.')
    for name in ("unmerge", "disalign"):
        if rank == 0 and name in audit.attacks:
            raise InputError(
                f"{where}: {name} changes the adapter, and config.lora.rank 0 trains all weights instead; "
                f"leave {name} out."
            )
    for name in audit.chosen(adapter=rank > 0):
        strengths = audit.strengths(name)
        if not strengths:
            raise InputError(f"config.audit.{FIELDS[name][0]}: is empty, so that {name} has nothing to try.")
        if len(set(strengths)) < len(strengths):
            raise InputError(
                f"config.audit.{FIELDS[name][0]}: is {list(strengths)}; give each strength once."
            )
