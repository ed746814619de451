"""Draw evaluation accuracy over steps or solver samples, one colour an arm, one line a seed; `-` prints it instead.

python benchmarks/learning_curve.py [--samples] OUT.png|- ARM=RUN_DIR[,RUN_DIR...] [ARM=...]
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import accumulate
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from cluster.records.rundir import read_jsonl


def curve(run: Path, by_samples: bool) -> tuple[list[int], list[float]]:
    """(steps, or solver samples trained on until then; greedy accuracy in per cent)."""
    evals = read_jsonl(run / "evals.jsonl")
    x, y = [e["step"] for e in evals], [100 * e["accuracy"] for e in evals]
    if by_samples:
        counts = Counter[int]()
        for record in read_jsonl(run / "samples.jsonl"):
            counts[record["step"]] += len(record["solver"]["tokens"]) if record["solver"] else 0
        total = list(accumulate(counts[step] for step in range(max(x) + 1)))
        x = [total[step] for step in x]
    return x, y


def draw(out: Path, arms: dict[str, list[Path]], by_samples: bool) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), dpi=120)
    for i, (arm, runs) in enumerate(arms.items()):
        for j, run in enumerate(runs):
            label = arm if j == 0 else None
            axes.plot(*curve(run, by_samples), color=f"C{i}", alpha=0.8, linewidth=1.5, label=label)
    axes.set(xlabel="solver samples" if by_samples else "learner step", ylabel="greedy accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", action="store_true", help="over solver samples instead of steps")
    parser.add_argument("out", metavar="OUT.png|-")
    parser.add_argument("arms", nargs="+", metavar="ARM=RUN_DIR[,RUN_DIR...]")
    given = parser.parse_args()
    if not all("=" in a for a in given.arms):
        parser.error(f"{' '.join(given.arms)}: each has to be ARM=RUN_DIR[,RUN_DIR...]")
    arms = {n: [Path(r) for r in runs.split(",")] for n, _, runs in (a.partition("=") for a in given.arms)}
    if given.out != "-":
        draw(Path(given.out), arms, given.samples)
        return
    for runs in arms.values():
        for run in runs:
            print(run, "  ".join(f"{x}: {y:.1f}" for x, y in zip(*curve(run, given.samples), strict=True)))


if __name__ == "__main__":
    main()
