"""Draw evaluation accuracy over steps, one colour an arm, one line a seed.

python benchmarks/learning_curve.py OUT.png ARM=RUN_DIR[,RUN_DIR...] [ARM=...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from cluster.rundir import read_jsonl


def draw(out: Path, arms: dict[str, list[Path]]) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), dpi=120)
    for i, (arm, runs) in enumerate(arms.items()):
        for j, run in enumerate(runs):
            evals = read_jsonl(run / "evals.jsonl")
            steps, accuracy = [e["step"] for e in evals], [100 * e["accuracy"] for e in evals]
            axes.plot(steps, accuracy, color=f"C{i}", alpha=0.8, linewidth=1.5, label=arm if j == 0 else None)
    axes.set(
        xlabel="learner step", ylabel="greedy accuracy, %", title="Evaluation accuracy (200 problems), three seeds"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    if len(sys.argv) < 3 or not all("=" in a for a in sys.argv[2:]):
        sys.exit(__doc__)
    pairs = [a.partition("=") for a in sys.argv[2:]]
    draw(Path(sys.argv[1]), {name: [Path(r) for r in runs.split(",")] for name, _, runs in pairs})


if __name__ == "__main__":
    main()
