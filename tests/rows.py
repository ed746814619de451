"""Random training rows for the tiny model."""

from __future__ import annotations

import numpy as np
from helpers import sample

from azero.batch import TrainRow
from azero.types import Role


def random_rows(count: int = 24, seed: int = 0) -> list[TrainRow]:
    rng = np.random.default_rng(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(2, 97, n))

    prompts = [ids(int(rng.integers(3, 20))) for _ in range(count // 3 + 1)]  # a third as many: groups share them
    return [
        TrainRow(
            sample=sample(
                role=Role.PROPOSER if i % 4 == 0 else Role.SOLVER,
                prompt=prompts[int(rng.integers(len(prompts)))],
                tokens=ids(int(rng.integers(1, 9))),
                logprob=-4.5,
            ),
            advantage=float(rng.normal()),
        )
        for i in range(count)
    ]
