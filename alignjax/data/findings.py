"""What a reader must know of the data before believing what is learned from them, in sentences."""

from collections.abc import Mapping

# Share of prompts or responses that are cut from which it is said.
MANY_CUT = 0.05


def cut_findings(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Sets of texts of which many are too long.

    Args:
      counts: by set, with `pairs` or `prompts` and `prompts_cut`, `responses_cut`, as `Preferences.counts`.

    Returns:
      A sentence for each set, with the setting to raise.
    """
    found = []
    for name, numbers in counts.items():
        rows = numbers.get("pairs", numbers.get("prompts", 0))
        cut, ended = numbers.get("prompts_cut", 0), numbers.get("responses_cut", 0)
        if cut > MANY_CUT * rows:
            found.append(
                f"{name}: {cut:,} of {rows:,} prompts ({cut / rows:.0%}) are longer than "
                "max_prompt_length and lose their beginning; raise config.model.max_prompt_length."
            )
        if ended > MANY_CUT * 2 * rows:
            found.append(
                f"{name}: {ended:,} of {2 * rows:,} responses ({ended / (2 * rows):.0%}) do not fit "
                "max_length and lose their end, so that they teach no end; raise config.model.max_length."
            )
    return found
