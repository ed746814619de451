"""Build the embedded code model: `python -m benchmarks.code_model.pretrain --out DIR --seed 0`.

The documents are of benchmarks/code_model/corpus.py, the loop of benchmarks/pretraining.py.
"""

from __future__ import annotations

import random
from functools import cache

from azero.domains.code.evaluation import SEEDS, generated
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION
from benchmarks.code_model.corpus import Corpus, Crowd
from benchmarks.pretraining import Batch, Phase, main

WIDTH, LAYERS = 128, 4
SOLVED_A_STEP = {DEDUCTION: 24, ABDUCTION: 24, INDUCTION: 12}  # documents; the long ones of induction teach quickly
LISTS_A_STEP = 3


@cache
def corpus() -> Corpus:
    """The corpus without the generated evaluation sets."""
    return Corpus(item.problem for name in SEEDS for item in generated(name))


def phase(*, steps: int, peak_lr: float, crowd: Crowd) -> Phase:
    """A phase whose solutions come from this crowd."""

    def draw(rng: random.Random) -> list[Batch]:
        solved = [corpus().solved(rng, crowd) for _ in range(max(SOLVED_A_STEP.values()))]
        lists = [corpus().listed(rng) for _ in range(LISTS_A_STEP)]
        batches = [Batch("lists", lists, 0.5)]
        for task, number in SOLVED_A_STEP.items():  # in halves: short documents beside long ones are mostly padding
            documents = sorted((documents[task] for documents in solved[:number]), key=lambda d: len(d[0] + d[1]))
            half = number // 2
            batches += [Batch(f"{task} short", documents[:half], 0.5), Batch("long", documents[half:], 0.5)]
        return batches

    return Phase(steps=steps, peak_lr=peak_lr, draw=draw)


# First mostly right answers, from which the model learns what programs do, then the crowd.
PHASES = (
    phase(steps=900, peak_lr=3e-3, crowd=Crowd(likely=0.1, unlikely=0.1)),
    phase(steps=200, peak_lr=1e-3, crowd=Crowd(likely=0.65, unlikely=0.25)),
)

if __name__ == "__main__":
    main(__doc__, PHASES, width=WIDTH, layers=LAYERS, out=None)
