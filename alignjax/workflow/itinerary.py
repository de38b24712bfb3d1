"""Which stages a run will come to, told from its configuration before any is done."""

from collections.abc import Collection, Mapping

from alignjax.config import Config, ScoreSettings
from alignjax.config.dial import has_product
from alignjax.data import worlds
from alignjax.stages.timetable import Planned

Counts = Mapping[str, Mapping[str, int]]

# Kinds of work whose time grows with an amount; every other stage is of the kind STATISTICS, each the same.
TRAINING, SCORE_TRAINING = "pairs trained on", "pairs trained on by score models"
SAMPLING, SCORING, STATISTICS = "tokens sampled", "tokens scored", "statistics"
JUDGING = "questions to judges"


def itinerary(config: Config, counts: Counts, met: Collection[str] = ()) -> tuple[Planned, ...]:
    """The stages of a run, as `pecan` and `mocan` come to them; the names are those of run.json.

    Args:
      config: of the run.
      counts: of its data, as data.json holds them; empty before the data are read.
      met: names of the stages that the run has come to; a further round's stages follow once it has begun.
    """
    amounts = _Amounts(config, counts)
    names = config.dimensions
    score_names = [name for name in names if not config.scores.get(name, ScoreSettings()).given]
    sampled = Planned("samples", SAMPLING, amounts.sampled(config.sampling.max_new_tokens))
    found = [Planned("reference", "reference", 1.0), Planned("data", "data", 1.0)]
    if config.method == "pecan":
        found += [
            Planned(name, TRAINING, amounts.pairs(f"{name} train", config.prealign.epochs)) for name in names
        ]
        found += [sampled]
        others = ["reference", *names]
    else:
        epochs = config.score_training.epochs
        found += [sampled]
        found += [
            Planned(name, SCORE_TRAINING, amounts.pairs(f"{name} train", epochs)) for name in score_names
        ]
        others = ["reference", *config.baseline_weights()]
    found += [
        Planned("scores", SCORING, amounts.scored("reference")),
        *(Planned(name, STATISTICS, 1.0) for name in ("calibration", "dual")),
        *_answering(config, amounts),
    ]
    found += amounts.measured(others, "baselines")
    found += [*amounts.measured(["aligned"], "aligned"), Planned("test", STATISTICS, 1.0)]
    for number in range(2, config.rounds.count + 1):
        if f"rounds/{number - 1} samples" not in met:
            break
        again = f"round-{number}"
        found += [
            Planned(
                f"rounds/{number - 1} samples", SAMPLING, amounts.sampled(config.sampling.max_new_tokens)
            ),
            Planned(f"rounds/{number - 1}.json", SCORING, amounts.scored("aligned")),
            Planned(f"product/{number}", STATISTICS, 1.0)
            if config.align.skip
            else amounts.aligned(f"rounds/{number}"),
            *amounts.measured([again], again),
            Planned(f"test/{number}", STATISTICS, 1.0),
        ]
    labelled = [Planned("test/human labels", STATISTICS, 1.0)] if config.test.labels is not None else []
    return (
        *found,
        *labelled,
        *_judged(config, [*others, *(["one-shot"] if "rounds/1 samples" in met else []), "aligned"]),
        Planned("evaluation", STATISTICS, 1.0),
        *_audit(config, amounts),
        *_dial(config, amounts),
    )


def _judged(config: Config, policies: Collection[str]) -> list[Planned]:
    """Judges that are asked in stages of their own; how much they read is not known before."""
    found = []
    for name, judge in config.judges.items():
        if judge.prompts:
            found += [Planned(f"evaluation samples for {name}/{one}", SAMPLING, None) for one in policies]
        if judge.preset is not None or judge.prompts:
            found.append(Planned(f"evaluation by the judge of {name}", JUDGING, None))
    return found


def _answering(config: Config, amounts: "_Amounts") -> list[Planned]:
    """From the multiplier to the aligned policy."""
    skip, mocan = config.align.skip, config.method == "mocan"
    shown = [Planned("preview", STATISTICS, 1.0)] if config.align.preview and has_product(config) else []
    known = config.relabel.pairs == "samples"  # their scores are those of the samples
    pairs = (STATISTICS, 1.0) if known else (SCORING, amounts.pairs_scored())
    labels = [Planned("pair_scores", *pairs), Planned("labels", STATISTICS, 1.0)]
    trained = [amounts.aligned(f"baselines/{name}") for name in config.baseline_weights()] if mocan else []
    if skip:
        return [*(labels if mocan else []), *trained, Planned("product", STATISTICS, 1.0)]
    last = [amounts.aligned("policy")]
    return [*labels, *trained, *shown, *last] if mocan else [*shown, *labels, *last]


def _audit(config: Config, amounts: "_Amounts") -> list[Planned]:
    """Attacks on the aligned policy; most of their time is that of sampling."""
    audit = config.audit
    chosen = audit.chosen(adapter=config.lora.rank > 0)
    found = [
        Planned(f"audit/{name}", SAMPLING, amounts.audited(len(audit.strengths(name)))) for name in chosen
    ]
    return [*found, Planned("audit", STATISTICS, 1.0)] if found else []


def _dial(config: Config, amounts: "_Amounts") -> list[Planned]:
    """Policies of the same multiplier beside the aligned one."""
    if not config.dial:
        return []
    drawn = [name for name in dict.fromkeys(config.dial) if name != "best_of"]
    drawn = [name for name in drawn if name != "product"] if config.align.skip else drawn
    found = [Planned("product", STATISTICS, 1.0)] if drawn and not config.align.skip else []
    return [*found, *(amounts.measured(drawn, "dial") if drawn else []), Planned("dial", STATISTICS, 1.0)]


class _Amounts:
    """Amounts of work by configuration and counts; None where the counts are not known yet."""

    def __init__(self, config: Config, counts: Counts):
        self._config, self._counts = config, counts
        name = config.data.world
        self._listed = name is not None and worlds.world_for(name).enumeration is not None

    def pairs(self, part: str, epochs: float) -> float | None:
        """Pairs of a part of the data, times epochs."""
        count = self._counts.get(part, {}).get("pairs")
        return None if count is None else count * epochs

    def aligned(self, name: str) -> Planned:
        """A final alignment."""
        count = self._aligned_on()
        return Planned(name, TRAINING, None if count is None else count * self._config.align.epochs)

    def sampled(self, tokens: int) -> float | None:
        """Tokens of the reference's samples."""
        prompts = self._prompts("prompts to sample", self._config.sampling.num_prompts)
        return None if prompts is None else float(prompts * self._config.sampling.num_samples * tokens)

    def audited(self, strengths: int) -> float | None:
        """Tokens of the responses under one attack."""
        audit, drawn = self._config.audit, self._config.evaluation_sampling
        prompts = self._prompts("prompts to test", min(audit.num_prompts, drawn.num_prompts))
        tokens = strengths * audit.num_samples * drawn.max_new_tokens
        return None if prompts is None else float(prompts * tokens)

    def scored(self, policy: str) -> float | None:
        """Tokens that are read to score a policy's responses to the prompts of the dual."""
        sampled = self.sampled(self._width(self._config.sampling.max_new_tokens))
        return None if sampled is None else sampled * self._passes(policy)

    def pairs_scored(self) -> float | None:
        """Tokens of both responses of every pair, by every score."""
        pairs = self._aligned_on()
        passes = len(self._config.dimensions) + (self._config.method == "pecan")  # and by the reference
        return None if pairs is None else 2.0 * pairs * self._config.model.max_length * passes

    def measured(self, policies: Collection[str], name: str) -> list[Planned]:
        """Samples of policies on test prompts, and their scores and divergences from the reference."""
        drawn = self._config.evaluation_sampling
        prompts = self._prompts("prompts to test", drawn.num_prompts)
        responses = None if prompts is None else float(prompts * drawn.num_samples)
        tokens = self._width(drawn.max_new_tokens)
        samples = None if responses is None else responses * drawn.max_new_tokens
        passes = len(policies) + 2 if self._listed else sum(map(self._passes, policies))
        scored = None if responses is None else responses * tokens * passes
        kind = "all responses scored" if self._listed else SCORING
        stages = (
            []
            if self._listed
            else [Planned(f"evaluation samples/{one}", SAMPLING, samples) for one in policies]
        )
        return [*stages, Planned(f"evaluation scores/{name}", kind, scored)]

    def _aligned_on(self) -> int | None:
        """Pairs of a final alignment, at most."""
        settings, sampling = self._config.relabel, self._config.sampling
        count = self._counts.get("align", {}).get("pairs")
        if settings.pairs == "samples":
            prompts = self._prompts("prompts to sample", sampling.num_prompts)
            each = min(settings.pairs_per_prompt, sampling.num_samples // 2)
            count = None if prompts is None else prompts * each
        return count if count is None or settings.max_pairs is None else min(count, settings.max_pairs)

    def _prompts(self, part: str, most: int) -> int | None:
        count = self._counts.get(part, {}).get("prompts")
        return None if count is None else min(count, most)

    def _width(self, new_tokens: int) -> int:
        return self._config.model.max_prompt_length + new_tokens

    def _passes(self, policy: str) -> int:
        """Times that a policy's responses are read: by every score, and twice for their divergence.

        Of the reference there is none. The two passes of the divergence, by the policy and by the reference,
        are the same that log-ratios are made of.
        """
        scores = len(self._config.dimensions)
        if policy == "reference":
            return scores
        own = self._config.method == "pecan" and policy in self._config.dimensions
        return scores + 2 - own
