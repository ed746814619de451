"""Build the embedded code model: `make code-model`, two workers of one thread each.

The documents are of benchmarks/code_model/corpus.py, the loop of benchmarks/pretraining.py.
"""

from __future__ import annotations

import random
from functools import cache

from azero.domains.code.evaluation import SEEDS, generated
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION
from benchmarks.code_model.corpus import CAREFUL, Corpus, Crowd
from benchmarks.code_model.words import WORDS
from benchmarks.pretraining import Batch, Phase, main

WIDTH, LAYERS = 128, 4
SOLVED_A_STEP = {DEDUCTION: 6, ABDUCTION: 6, INDUCTION: 5}  # documents of each worker
LISTS_A_STEP, DESCRIBED_A_STEP = 2, 3  # of each worker
PROMPT_WEIGHT = 0.2  # a prompt shows what programs are like, which a proposer has to know


@cache
def corpus() -> Corpus:
    """The corpus without the generated evaluation sets."""
    return Corpus(item.problem for name in SEEDS for item in generated(name))


def phase(*, steps: int, peak_lr: float, muon_lr: float, crowd: Crowd) -> Phase:
    """A phase whose solutions come from this crowd."""

    def draw(rng: random.Random) -> list[Batch]:
        batches = [
            Batch("lists", [corpus().listed(rng) for _ in range(LISTS_A_STEP)], 0.5),
            Batch("described", [corpus().described(rng) for _ in range(DESCRIBED_A_STEP)], 0.5),
        ]
        for task, number in SOLVED_A_STEP.items():
            batches.append(Batch(task, [corpus().solved(rng, task, crowd) for _ in range(number)], 1.0, PROMPT_WEIGHT))
        return batches

    return Phase(steps=steps, peak_lr=peak_lr, muon_lr=muon_lr, draw=draw)


# First right answers, from which the model learns what programs do, then the crowd.
PHASES = (
    phase(steps=2400, peak_lr=3e-3, muon_lr=1e-2, crowd=CAREFUL),
    phase(steps=800, peak_lr=2e-3, muon_lr=5e-3, crowd=Crowd(likely=0.65, unlikely=0.25)),
)

if __name__ == "__main__":
    main(__doc__, PHASES, WORDS, width=WIDTH, layers=LAYERS, out=None, threads=1)
