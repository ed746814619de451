"""Build the embedded base model: `make base-model`, or `python -m benchmarks.base_model.pretrain --out DIR --seed 0`.

A Qwen2-architecture model of under a million parameters with a character tokenizer, pre-trained from scratch on the
documents of benchmarks/base_model/corpus.py by the loop of benchmarks/pretraining.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from azero.domains.arithmetic import Arithmetic
from benchmarks.base_model.corpus import problem_list, worked_problem
from benchmarks.pretraining import Batch, Phase, main

OUT = Path(__file__).parents[2] / "azero" / "base_model"
WIDTH, LAYERS = 128, 4
WORKED_A_STEP, LISTS_A_STEP = 256, 16  # documents


def phase(
    *, steps: int, peak_lr: float, sum_slips: float, product_slips: float, cell_weights: Sequence[float]
) -> Phase:
    """A phase with these shares of careless answers, to single products and quotients and to all others.

    `cell_weights` are those of the worked problems: easy, medium, hard.
    """
    domain = Arithmetic()

    def draw(rng: random.Random) -> list[Batch]:
        worked = [worked_problem(domain, rng, sum_slips, product_slips, cell_weights) for _ in range(WORKED_A_STEP)]
        lists = [problem_list(domain, rng) for _ in range(LISTS_A_STEP)]
        return [Batch("worked", worked), Batch("lists", lists, 0.5)]

    return Phase(steps=steps, peak_lr=peak_lr, draw=draw)


# First most combinations (they are hard), then a more careless crowd, after which the slips that have a system (dropped
# carry, lost sign) are likelier than the right answer.
PHASES = (
    phase(steps=1400, peak_lr=3e-3, sum_slips=0.6, product_slips=0.6, cell_weights=(0.15, 0.25, 0.6)),
    phase(steps=500, peak_lr=2e-3, sum_slips=0.75, product_slips=0.4, cell_weights=(0.25, 0.4, 0.35)),
)

if __name__ == "__main__":
    main(__doc__, PHASES, width=WIDTH, layers=LAYERS, out=OUT)
