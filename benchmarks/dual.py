"""The dual solver against numpy gradient descent and SciPy, on random problems, and on a table that is large.

python benchmarks/dual.py speed [--repeats 5]     ours, gradient descent as published, L-BFGS-B: in turns
python benchmarks/dual.py solve [--json]          `alignjax solve` as a whole process, cold and warm
python benchmarks/dual.py problems [--count 2000] random problems against float64 references: worst cases
python benchmarks/dual.py large                   1,000,000 x 64 scores, float32: time and memory
python benchmarks/dual.py published               the multipliers and margins of the published 7B run
"""

import argparse
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import scipy.optimize
from scipy.special import logsumexp, softmax
from tables import published_like

from alignjax import dual
from alignjax.scores.table import ScoreTable, write_table

BETA = 0.1
SIZES = ((1000, 128), (10_000, 256))
# lambda, level reached (mean utility): Huang et al. 2024, figures of MoCAN with beta 0.1.
PUBLISHED = ((0.1, -3.026), (0.3511, -1.519), (0.5, -0.405), (0.7547, 1.217), (0.9, 1.862), (1.1263, 2.632),
             (1.25, 2.932), (2.0, 3.786), (3.0, 4.185))  # fmt: skip


def main() -> None:
    """Runs the part that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=("speed", "solve", "problems", "large", "published"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=2000)
    given = measuring.with_json(parser).parse_args()
    if given.part == "speed":
        speed(given)
    elif given.part == "solve":
        whole_command(given)
    elif given.part == "problems":
        problems(given.count)
    elif given.part == "large":
        large()
    else:
        published()


def dual_by_numpy(
    lam: np.ndarray, rewards: np.ndarray, utilities: np.ndarray, levels: np.ndarray, beta: float
) -> tuple[float, np.ndarray]:
    """D and its gradient in float64 numpy, written anew."""
    logits = (rewards + utilities @ lam) / beta
    weights = softmax(logits, axis=1)
    mean = np.einsum("nk,nkm->m", weights, utilities) / len(rewards)
    value = beta * np.mean(logsumexp(logits, axis=1) - np.log(rewards.shape[1]))
    return float(value - lam @ levels), mean - levels


def gradient_descent(
    rewards: np.ndarray, utilities: np.ndarray, levels: np.ndarray, beta: float
) -> np.ndarray:
    """Projected gradient descent with the released code's settings.

    From lambda 1 with step 4; at most 200 steps a round, ended where the last five moved less than 1e-5; the
    step of round i is the one before divided by 2^i; five rounds.
    """
    step, lam = 4.0, np.ones(len(levels))
    for number in range(5):
        step, lam, moved = step / 2**number, np.ones(len(levels)), []
        for _ in range(200):
            _, gradient = dual_by_numpy(lam, rewards, utilities, levels, beta)
            fresh = np.maximum(lam - step * gradient, 0)
            moved.append(fresh)
            lam = fresh
            if len(moved) > 10 and np.max(np.abs(np.array(moved[-6:]) - lam)) < 1e-5:
                return lam
    return lam


def dual_at_once(
    lam: np.ndarray, rewards: np.ndarray, utilities: np.ndarray, levels: np.ndarray, beta: float
) -> tuple[float, np.ndarray]:
    """As `dual_by_numpy`, with the exponentials taken once and in place; utilities are [m, N, K] here."""
    logits = rewards + lam[0] * utilities[0]
    for one, column in zip(lam[1:], utilities[1:], strict=True):
        logits += one * column
    logits /= beta
    top = logits.max(axis=1)
    logits -= top[:, None]
    weights = np.exp(logits, out=logits)
    total = weights.sum(axis=1)
    value = beta * np.mean(top + np.log(total) - np.log(weights.shape[1]))
    mean = [np.mean(np.einsum("nk,nk->n", weights, column) / total) for column in utilities]
    return float(value - lam @ levels), np.array(mean) - levels


def by_scipy(rewards: np.ndarray, utilities: np.ndarray, levels: np.ndarray, beta: float) -> np.ndarray:
    """L-BFGS-B from 0 with the gradient."""
    return scipy.optimize.minimize(
        dual_at_once,
        np.zeros(len(levels)),
        args=(rewards, np.ascontiguousarray(np.moveaxis(utilities, 2, 0)), levels, beta),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(levels),
        options={"ftol": 1e-14, "gtol": 1e-8},
    ).x


def speed(given: argparse.Namespace) -> None:
    """Times in turns, medians; errors against the solution of tightest tolerance."""
    repeats, rows = given.repeats, []
    for (n, k), m in ((size, m) for size in SIZES for m in (1, 2, 4)):
        rewards, utilities = published_like(0, n, k, m)
        means = utilities.mean(axis=(0, 1))
        margins = np.linspace(1.2, 0.8, m)
        problem = rewards, utilities, means + margins, BETA
        begun = time.perf_counter()
        exact = dual.solve(rewards, utilities, beta=BETA, margins=margins).lam
        first = time.perf_counter() - begun
        rivals: dict[str, Callable[[], Any]] = {
            "ours": lambda r=rewards, g=utilities, b=margins: dual.solve(r, g, beta=BETA, margins=b).lam,
            "descent": lambda p=problem: gradient_descent(*p),
            "scipy": lambda p=problem: by_scipy(*p),
        }
        seconds, found = _alternate(rivals, repeats if n < 5000 else 1)
        row = _row(f"{n:,} x {k}, m = {m}", seconds, found, np.asarray(exact))
        rows.append([*row, f"{first:.1f} s"])
        measuring.progress(" ".join(rows[-1]))
    rewards, utilities = published_like(0)
    line = np.linspace(-1.0, 5.5, 100)[:, None]
    means = utilities.mean(axis=(0, 1))
    exact = dual.sweep(rewards, utilities, beta=BETA, margins=line).lam
    sweeps: dict[str, Callable[[], Any]] = {
        "ours": lambda: dual.sweep(rewards, utilities, beta=BETA, margins=line).lam,
        "scipy": lambda: np.array([by_scipy(rewards, utilities, means + b, BETA) for b in line]),
    }
    seconds, found = _alternate(sweeps, max(1, repeats // 2))
    rows.append([*_row("sweep of 100 margins, 1,000 x 128", seconds, found, np.asarray(exact)), ""])
    columns = ["work", "ours", "descent", "ours is", "L-BFGS-B", "ours is"]
    columns += ["error: ours", "descent", "L-BFGS-B", "first call"]
    measuring.finish(given, [measuring.Table("dual", columns, rows)])


def whole_command(given: argparse.Namespace) -> None:
    """`alignjax solve` on 1,000 x 128 scores as a process: programs kept or not, resamples or none."""
    rewards, utilities = published_like(0)
    with tempfile.TemporaryDirectory() as folder:
        write_table(f"{folder}/table.npz", ScoreTable(rewards, utilities, ("safety",)))
        sides = []
        for cache in ("cold", "warm"):
            for resamples in (1000, 0):
                kept = f"{folder}/{cache}{resamples}"
                options = ["--beta=0.1", "--margin=safety=1", f"--resamples={resamples}"]
                options += [f"--scores={folder}/table.npz", f"--compile_cache={kept}"]
                line = shlex.join([sys.executable, "-m", "alignjax.solve", *options])
                before = f"rm -rf {shlex.quote(kept)}; " if cache == "cold" else ""
                command = ("sh", "-c", f"{before}exec {line}")
                sides.append(measuring.Side(f"{cache}, {resamples:,} resamples", command))
        warm = [side for side in sides if side.name.startswith("warm")]
        measuring.whole_processes(warm, 1)  # fills the folders of programs
        measured = measuring.whole_processes(sides, given.repeats)
    rows = []
    for name, found in measured.items():
        each = ", ".join(f"{turn.seconds:.3g}" for turn in found.turns)
        seconds, used = found.median(), found.median("processor")
        rows.append([name, f"{seconds:.2f}", f"{used:.2f}", f"{found.median('peak_mib'):,.0f}", each])
    columns = ["programs", "seconds", "processor s", "peak MiB", "turns, s"]
    measuring.finish(given, [measuring.Table("solve", columns, rows)], runs=measuring.as_json(measured))


def _alternate(
    rivals: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds and result of each, run in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    found = {}
    for _ in range(repeats):
        for name, work in rivals.items():
            begun = time.perf_counter()
            found[name] = np.asarray(work())
            seconds[name].append(time.perf_counter() - begun)
    return {name: float(np.median(times)) for name, times in seconds.items()}, found


def _row(work: str, seconds: dict[str, float], found: dict[str, np.ndarray], exact: np.ndarray) -> list[str]:
    def error(name: str) -> str:
        return f"{np.max(np.abs(found[name] - exact) / (1 + np.abs(exact))):.0e}" if name in found else "-"

    cells = [f"{1e3 * seconds['ours']:.1f} ms"]
    for name in ("descent", "scipy"):
        known = name in seconds
        cells += [f"{1e3 * seconds[name]:.0f} ms" if known else "-"]
        cells += [f"{seconds[name] / seconds['ours']:.1f}" if known else "-"]
    return [work, *cells, error("ours"), error("descent"), error("scipy")]


def problems(count: int) -> None:
    """Random problems: scores of 1e-3 to 1e4, beta of 1e-3 to 10, m of 1 to 4; some infeasible, some free.

    The reference of feasibility is the linear program over policies (HiGHS), of lambda the Newton step that
    is left at ours, in numpy with extended precision: D is convex, so that this is the distance to the
    optimum wherever it is small. Problems within 1e-6 of the boundary are counted and not judged.
    """
    worst = {"float64": 0.0, "float32 scores": 0.0, "float32 traced": 0.0}
    counts = dict.fromkeys(
        ("feasible", "infeasible", "at the boundary", "lambda 0", "wrong", "float32 traced: no answer"), 0
    )
    over = dict.fromkeys(worst, 0)
    narrow = jax.jit(lambda r, g, b, beta: dual.solve(r, g, beta=beta, margins=b))
    for seed in range(count):
        rng = np.random.default_rng(seed)
        m = 1 + seed % 4
        units = 10 ** rng.uniform(-3, 4, 1 + m)
        beta = float(10 ** rng.uniform(-3, 1))
        shape = (8, 12)
        rewards = rng.normal(size=shape) + rng.normal(size=(8, 1))
        utilities = rng.normal(size=(*shape, m)) + rng.uniform(-1, 0.5, m) * rewards[..., None]
        rewards, utilities = rewards * units[0], utilities * units[1:]
        margins = rng.uniform(-0.2, 0.8, m) * np.asarray(dual.reachable(utilities))
        multiple = _largest_multiple(utilities, margins)
        if abs(multiple - 1) < 1e-6:
            counts["at the boundary"] += 1
            continue
        found = dual.solve(rewards, utilities, beta=beta, margins=margins)
        counts["feasible" if multiple > 1 else "infeasible"] += 1
        if bool(found.feasible) != (multiple > 1):
            counts["wrong"] += 1
            print(f"wrong: seed {seed}, multiple {multiple:.8f}, error {float(found.error):.1e}")
            continue
        if multiple < 1:
            continue
        counts["lambda 0"] += int(not found.lam.any())
        small = [a.astype(np.float32) for a in (rewards, utilities, margins)]
        wide = [a.astype(np.float64) for a in small]
        exact = dual.solve(wide[0], wide[1], beta=float(np.float32(beta)), margins=wide[2])
        traced = narrow(*map(jnp.asarray, small), jnp.float32(beta))
        if not exact.feasible or not traced.feasible:
            counts["float32 traced: no answer"] += 1
        errors = {
            "float64": _distance(np.asarray(found.lam), rewards, utilities, margins, beta),
            "float32 scores": _distance(
                np.asarray(dual.solve(small[0], small[1], beta=beta, margins=wide[2]).lam),
                wide[0],
                wide[1],
                wide[2],
                beta,
            ),
            "float32 traced": float(np.max(np.abs(traced.lam - exact.lam) / (1 + np.abs(exact.lam)))),
        }
        over["float32 traced"] += int(errors["float32 traced"] > 1e-4)
        over["float64"] += int(errors["float64"] > 1e-8)
        for name, error in errors.items():
            if error > worst[name]:
                worst[name] = error
                print(f"{name}: {error:.1e} at seed {seed} (m {m}, beta {beta:.1e}, units {units})")
    print(", ".join(f"{name} {n}" for name, n in counts.items()))
    print(f"over 1e-8 in float64: {over['float64']}, over 1e-4 in float32 traced: {over['float32 traced']}")
    print("worst |lambda - lambda*| / (1 + |lambda*|): ", end="")
    print(", ".join(f"{name} {value:.1e}" for name, value in worst.items()))


def _largest_multiple(utilities: np.ndarray, margins: np.ndarray) -> float:
    """Max t such that a policy on the samples has margins t b, by linear programming; inf for b <= 0."""
    if (margins <= 0).all():
        return np.inf
    n, k, m = utilities.shape
    units = utilities.std(axis=(0, 1))
    gained = (utilities - utilities.mean(axis=1, keepdims=True)) / units / n
    found = scipy.optimize.linprog(
        [*np.zeros(n * k), -1.0],
        A_ub=np.column_stack([-gained.reshape(n * k, m).T, margins / units]),
        b_ub=np.zeros(m),
        A_eq=np.column_stack([np.kron(np.eye(n), np.ones(k)), np.zeros(n)]),
        b_eq=np.ones(n),
        bounds=[(0, None)] * (n * k) + [(None, None)],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    return float(-found.fun)


def _distance(
    lam: np.ndarray, rewards: np.ndarray, utilities: np.ndarray, margins: np.ndarray, beta: float
) -> float:
    """Distance from lam to where damped Newton steps from it end, relative to 1 + |lam|; extended precision.

    D is convex: its minimum is wherever no step lowers it any more.
    """
    r = rewards.astype(np.longdouble)
    units = utilities.std(axis=1).mean(axis=0)
    h = (utilities.astype(np.longdouble) - utilities.mean(axis=1, keepdims=True, dtype=np.longdouble)) / units
    b = margins / units

    def at(v: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
        logits = (r + h @ v) / beta
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        total = weights.sum(axis=1, keepdims=True)
        weights /= total
        mean = np.einsum("nk,nkm->nm", weights, h)
        centred = h - mean[:, None]
        hessian = np.einsum("nk,nka,nkb->ab", weights, centred, centred) / len(r) / beta
        return beta * (top + np.log(total)).mean() - v @ b, mean.mean(axis=0) - b, hessian

    start = np.asarray(lam, np.longdouble) * units
    point, damping = start, 0.0
    value, gradient, hessian = at(point)
    for _ in range(200):
        free = np.flatnonzero((point > 0) | (gradient < 0))
        if not free.size or np.abs(gradient[free]).max() < 1e-17:
            break
        inner = hessian[np.ix_(free, free)].astype(np.float64)
        inner += (damping + 1e-15 * np.trace(inner) + 1e-300) * np.eye(len(free))
        step = np.zeros_like(point)
        step[free] = np.linalg.solve(inner, -gradient[free].astype(np.float64))
        fresh = np.maximum(point + step, 0)
        if np.abs(fresh - point).max() < 1e-14 * (1 + np.abs(point).max()):
            break
        tried = at(fresh)
        if tried[0] <= value:
            point, (value, gradient, hessian), damping = fresh, tried, damping / 8
        else:
            damping = max(8 * damping, 1e-3 * float(np.abs(gradient).max()))
    change = np.abs((point - start) / units)
    return float(np.max(change / (1 + np.abs(lam))))


def large() -> None:
    """1,000,000 prompts x 64 responses in float32: the two arrays alone are 512 MB."""
    rng = np.random.default_rng(0)
    rewards = rng.standard_normal((1_000_000, 64), np.float32)
    utilities = rng.standard_normal((1_000_000, 64, 1), np.float32)
    utilities -= 0.5 * rewards[..., None]
    for call in ("first", "second"):
        begun = time.perf_counter()
        found = dual.solve(rewards, utilities, beta=0.5, margins=np.array([0.5]))
        print(
            f"{call} call {time.perf_counter() - begun:.1f} s, lambda {float(found.lam[0]):.8f}, "
            f"{int(found.iterations)} iterations, error {float(found.error):.1e}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.2f} GiB")


def published() -> None:
    """The margins at the published multipliers, on a table with the published means."""
    rewards, utilities = published_like(0)
    lams = np.array([[lam] for lam, _ in PUBLISHED])
    ours = dual.frontier(rewards, utilities, beta=BETA, lams=np.concatenate([[[0.0]], lams]))
    alone = dual.frontier(np.zeros_like(rewards), utilities, beta=BETA, lams=np.ones((1, 1)))
    weights = softmax(utilities[..., 0] / BETA, axis=1)
    print(f"reference {rewards.mean():.2f}, {utilities.mean():.2f}; published -11.70, -1.61")
    print(
        f"helpfulness only {ours.expected_reward[0]:.2f}, {ours.expected_utilities[0, 0]:.2f}; published "
        "-3.27, -3.71"
    )
    print(
        f"safety only {np.sum(weights * rewards) / len(rewards):.2f}, {alone.expected_utilities[0, 0]:.2f}; "
        "published -11.86, 4.96"
    )
    print("| lambda | margin, published samples | margin, ours | reward, ours | KL, ours |")
    for i, (lam, level) in enumerate(PUBLISHED, start=1):
        margin, reward, kl = (float(np.ravel(a[i])[0]) for a in (ours.margins, ours.expected_reward, ours.kl))
        print(f"| {lam} | {level + 1.607:.2f} | {margin:.2f} | {reward:.2f} | {kl:.2f} |")


if __name__ == "__main__":
    main()
