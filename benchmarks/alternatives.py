"""alignjax beside what one would do otherwise, in the world `assistant`, where true scores are known.

    python benchmarks/alternatives.py --peer=PYTHON      all parts, one seed; minutes in benchmarks/README.md
    python benchmarks/alternatives.py --parts pecan soups loop --seeds 0 1 2
    python benchmarks/alternatives.py --draw             the table and docs/result*.svg, from the record

PYTHON is the interpreter of an environment with trl, peft and torch. Every policy is a LoRA adapter on the
same reference, trained by DPO at the same beta, rank, rate and batch. All are measured on the same test
prompts, which no method trained on, by the world's true scores. What was measured is kept in
benchmarks/alternatives.json. Other parts use the reference that the part pecan trained.

  pecan      PeCAN from preference pairs: one folder, asked for each of the margins in turn
  mocan      MoCAN, with reward and cost models that are trained on the same pairs
  dpo        DPO with TRL on the helpfulness labels, on the safety labels, and on both pooled
  soups      rewarded soups: averaged weights of the helpful and the safe policy that PeCAN trained
  loop       primal-dual: align, sample, measure, lambda <- max(0, lambda + eta (asked - margin)), repeat
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alternatives_measure as measuring
import alternatives_picture as picture
import jax
from alternatives_measure import Curve, Point, Truth
from shared import load_preset, read_data

from alignjax.config import Config, from_mapping
from alignjax.data.preferences import Labelled
from alignjax.data.worlds import world_for
from alignjax.errors import InfeasibleError
from alignjax.export import export
from alignjax.models import Model, load_pretrained
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.verdict import TestRecord
from alignjax.runs import run

HERE = Path(__file__).parent
RECORD, DOCS = HERE / "alternatives.json", HERE.parent / "docs"
NAME = "safety"
WEIGHTS = (0.25, 0.5, 0.75)  # of the safe policy in a soup
ROUNDS, ETA = 5, 0.5  # of the loop
GUARD = 0.95  # confidence that the multiplier is guarded with, the default of `config.confidence`
SINGLE = {"reward": "helpfulness pairs", "safety": "safety pairs"}


@dataclasses.dataclass(frozen=True)
class Dpo:
    """What the other environment is told: files, and the run's own numbers."""

    model: str
    train: str
    held_out: str
    output: str
    scratch: str
    beta: float
    rank: int
    alpha: float
    learning_rate: float
    batch_size: int
    epochs: float
    evals: int
    patience: int | None
    warmup_steps: int
    clip_norm: float
    max_length: int
    seed: int


class Bench:
    """One seed's folder: its runs, the exported models, and the reference that all are compared with."""

    def __init__(self, given: argparse.Namespace, seed: int) -> None:
        self.given, self.seed = given, seed
        self.folder = given.workdir / f"seed-{seed}"
        self.models = self.folder / "models"
        self._reference: tuple[Model, Truth] | None = None

    def config(self, method: str, margin: float) -> Any:
        """The preset `tiny`, without baselines, as a ConfigDict; its attributes have no types."""
        config = load_preset(method, "tiny")
        config.seed, config.beta = self.seed, self.given.beta
        config.constraints[NAME].margin = margin
        config.require_verified = False
        if method == "pecan":
            config.beta_pre = self.given.beta
        else:
            config.baselines.single, config.baselines.lams = False, ()
        return config

    @property
    def reference(self) -> tuple[Model, Truth]:
        """pi_ref, which the PeCAN run trained, and its true scores."""
        if self._reference is None:
            model = load_pretrained(self.folder / "pecan" / "reference")
            self._reference = model, measuring.truth_of(model, model)
        return self._reference

    def exported(self, workdir: Path, name: str, stage: str = "") -> Path:
        """A model of a run as a folder, written once."""
        path = self.models / name
        if not (path / "config.json").exists():
            export(workdir, path, adapter_only=False, stage=stage)
        return path

    def point(self, model: Model | Path, method: str, setting: str, **said: Any) -> Point:
        """Measures a policy; `said` are the other fields of its `Point`."""
        reference, truth = self.reference
        policy = load_pretrained(model) if isinstance(model, Path) else model
        found = measuring.truth_of(policy, reference)
        reward, margin = measuring.gains(found, truth)
        print(f"  {method}, {setting}: reward {reward.mean:+.2f}, safety {margin.mean:+.2f}", flush=True)
        return Point(self.seed, method, setting, reward=reward, margin=margin, kl=found.kl, **said)


def main() -> None:
    """Runs the parts, keeps what they find and prints the table; or only prints it and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--margins", nargs="+", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--peer", default="", help="interpreter with trl; the part dpo needs it")
    parser.add_argument("--workdir", type=Path, default=Path("runs/alternatives"))
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--draw", action="store_true", help="only the table, and the picture")
    given = parser.parse_args()
    found = dataclasses.replace(measuring.read(given.record), beta=given.beta)
    if "dpo" in given.parts and not given.peer and not given.draw:
        parser.error("--parts dpo needs --peer=PYTHON, or leave it out of --parts.")
    missing = [seed for seed in given.seeds if not (given.workdir / f"seed-{seed}" / "pecan").exists()]
    if missing and "pecan" not in given.parts and not given.draw:
        parser.error(f"--parts needs pecan too: {given.workdir} holds no run of seed {missing[0]}.")
    for seed in () if given.draw else given.seeds:
        bench = Bench(given, seed)
        for part in given.parts:
            began = time.perf_counter()
            points = PARTS[part](bench)
            if part == "pecan":
                found = dataclasses.replace(found, curves={**found.curves, str(seed): curve_of(bench)})
            seconds = {**found.seconds, f"{part}, seed {seed}": round(time.perf_counter() - began, 1)}
            found = dataclasses.replace(found.with_points(points), seconds=seconds)
            measuring.write(given.record, found)
    shown = found.of_seeds(given.seeds)
    print(picture.table(shown))
    if given.draw:
        picture.write(shown, DOCS)


def pecan(bench: Bench) -> list[Point]:
    """From pairs. The first question costs three trainings, each further one a training.

    The guard asks for more than the margin, so that it holds with confidence. The last question is asked
    once more without it, as published, since no alternative has one.
    """
    workdir, points = bench.folder / "pecan", list[Point]()
    questions: list[tuple[float, str, float | None]]
    questions = [(margin, "PeCAN", GUARD) for margin in bench.given.margins]
    questions.append((bench.given.margins[-1], "PeCAN, no guard", None))
    for count, (margin, method, confidence) in enumerate(questions, 3):
        config = bench.config("pecan", margin)
        config.confidence = confidence
        points += answered(bench, from_mapping(config.to_dict()), workdir, method, margin, count)
    for name in SINGLE:
        path = bench.exported(workdir, f"single-{name}", name)
        points.append(bench.point(path, "single", SINGLE[name], trainings=1, samples=0))
    return points


def mocan(bench: Bench) -> list[Point]:
    """Ours with score models, at the margin that is asked last; its reference is the same by seed."""
    margin = bench.given.margins[-1]
    config = from_mapping(bench.config("mocan", margin).to_dict())
    return answered(bench, config, bench.folder / "mocan", "MoCAN", margin, 3)


def answered(
    bench: Bench, config: Config, workdir: Path, method: str, margin: float, trainings: int
) -> list[Point]:
    """One answer of a run: none where the margin is told to be out of reach."""
    path = bench.models / f"{method}-{margin:g}"
    try:
        run(config, workdir)
    except InfeasibleError as error:
        print(f"  {method}, margin {margin:g}: {error}", flush=True)
        return []
    bench.exported(workdir, path.name)
    answer = read_record(DualAnswer, workdir / "dual.json")
    test = read_record(TestRecord, workdir / "test.json")
    assert answer.predicted is not None
    forecast = answer.predicted.margins[NAME].mean, answer.predicted.reward_gain.mean
    said = {"trainings": trainings, "samples": drawn_samples(config), "asked": margin, "forecast": forecast}
    return [bench.point(path, method, f"margin {margin:g}", **said, verified=test.accepted)]


def drawn_samples(config: Config) -> int:
    """Responses of one policy that a multiplier is found on."""
    prompts = min(config.sampling.num_prompts, len(world_for("assistant").prompts_train))
    return prompts * config.sampling.num_samples


def curve_of(bench: Bench) -> Curve:
    """The forecasts for other margins that the last answer of the PeCAN run holds."""
    answer = read_record(DualAnswer, bench.folder / "pecan" / "dual.json")
    assert answer.frontier is not None
    rewards = answer.frontier.reward - answer.reference.reward
    margins = answer.frontier.margins[:, 0]
    return Curve(tuple(margins.tolist()), tuple(rewards.tolist()))


def dpo(bench: Bench) -> list[Point]:
    """DPO with TRL: nothing says which margin comes out."""
    config = from_mapping(bench.config("pecan", 1.0).to_dict())
    pairs = read_data(config, bench.folder / "pecan").dimensions
    files, points = bench.folder / "pairs", list[Point]()
    files.mkdir(parents=True, exist_ok=True)
    kinds = {**{name: (name,) for name in SINGLE}, "pooled": tuple(SINGLE)}
    for kind, names in kinds.items():
        output = bench.models / f"trl-{kind}"
        if not (output / "config.json").exists():
            for part in ("train", "held_out"):
                rows = [row for name in names for row in lines(pairs[name]._asdict()[part])]
                (files / f"{kind}.{part}.jsonl").write_text("".join(rows), encoding="utf-8")
            train_with_trl(bench, config, kind, output)
        setting = SINGLE.get(kind, "both, pooled")
        points.append(bench.point(output, "DPO (TRL)", setting, trainings=1, samples=0))
    return points


def lines(labelled: Labelled) -> list[str]:
    """Pairs as JSON Lines for TRL, the preferred response as `chosen`, with the token ids to be compared."""
    world, rows = world_for("assistant"), list[str]()
    for pair, ids, label in zip(labelled.texts, labelled.tokens, labelled.labels, strict=True):
        assert isinstance(pair.prompt, str) and label in (0.0, 1.0)
        responses = [(pair.chosen, ids.chosen_ids), (pair.rejected, ids.rejected_ids)]
        (good, good_ids), (bad, bad_ids) = responses if label == 1.0 else responses[::-1]
        row = {
            "prompt": world.template.text.format(prompt=pair.prompt) + " ",
            "chosen": good,
            "rejected": bad,
            "prompt_ids": ids.prompt_ids.tolist(),
            "chosen_ids": good_ids.tolist(),
            "rejected_ids": bad_ids.tolist(),
        }
        rows.append(json.dumps(row) + "\n")
    return rows


def train_with_trl(bench: Bench, config: Config, kind: str, output: Path) -> None:
    """One training in the other environment, with the numbers of our pre-alignment."""
    files, steps = bench.folder / "pairs", config.prealign
    told = Dpo(
        model=str((bench.folder / "pecan" / "reference").resolve()),
        train=str((files / f"{kind}.train.jsonl").resolve()),
        held_out=str((files / f"{kind}.held_out.jsonl").resolve()),
        output=str(output.resolve()),
        scratch=str((bench.folder / "trl" / kind).resolve()),
        beta=config.beta,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        learning_rate=steps.learning_rate,
        batch_size=steps.batch_size,
        epochs=steps.epochs,
        evals=steps.evals,
        patience=steps.patience,
        warmup_steps=steps.warmup_steps,
        clip_norm=steps.clip_norm,
        max_length=config.model.max_length,
        seed=bench.seed,
    )
    settings = files / f"{kind}.json"
    settings.write_text(json.dumps(dataclasses.asdict(told), indent=1), encoding="utf-8")
    # In matrices of 64 columns more threads cost more than they bring.
    command = [bench.given.peer, str(HERE / "alternatives_trl.py"), str(settings)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def soups(bench: Bench) -> list[Point]:
    """Rewarded soups, Rame et al. 2023, arXiv 2306.04488: two trainings, then any weight for nothing."""
    helpful, safe = (load_pretrained(bench.models / f"single-{name}") for name in SINGLE)
    points = []
    for weight in WEIGHTS:
        mix = lambda a, b, w=weight: (1.0 - w) * a + w * b  # noqa: E731
        model = helpful.replace(params=jax.tree.map(mix, helpful.params, safe.params))
        setting = f"weight of safety {weight:g}"
        points.append(bench.point(model, "rewarded soup", setting, trainings=2, samples=0))
    return points


def loop(bench: Bench) -> list[Point]:
    """The primal-dual loop on our own scores, from lambda = 0; a round begins at the last round's weights."""
    margin, workdir = bench.given.margins[-1], bench.folder / "loop"
    config = bench.config("pecan", margin)
    config.lam, config.confidence = 0.0, None
    config.rounds.count, config.rounds.step = ROUNDS, ETA
    config.test.kl = 1e-9  # refuses every round: no policy but the reference has so small a KL
    settings, points = from_mapping(config.to_dict()), list[Point]()
    if not workdir.exists():  # the reference, the scores and the pairs are those of the part pecan
        shutil.copytree(bench.folder / "pecan", workdir)
    run(settings, workdir)
    drawn = drawn_samples(settings)
    for number in range(1, ROUNDS + 1):
        stage = "policy" if number == 1 else f"rounds/{number}"
        path = bench.exported(workdir, f"loop-{number}", stage)
        said = {"trainings": 2 + number, "samples": number * drawn, "asked": margin}
        points.append(bench.point(path, "primal-dual loop", f"round {number}", **said))
    return points


PARTS: dict[str, Callable[[Bench], list[Point]]] = {
    "pecan": pecan,
    "mocan": mocan,
    "dpo": dpo,
    "soups": soups,
    "loop": loop,
}


if __name__ == "__main__":
    main()
