"""Random training rows for the tiny model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from azero.types import SHARED, TrainBatch, TrainRow

WEIGHTS = {"proposer": 0.5, "solver": 1.0}  # of the one policy's parts


def row(
    prompt: Sequence[int] = (5, 6),
    tokens: Sequence[int] = (7, 8),
    *,
    logprob: float = -1.0,
    advantage: float = 0.0,
    part: str = "solver",
    temperature: float = 0.7,
) -> TrainRow:
    return TrainRow(
        prompt_ids=tuple(prompt),
        token_ids=tuple(tokens),
        behaviour=(logprob,) * len(tokens),
        temperature=temperature,
        advantage=advantage,
        part=part,
    )


def train_batch(rows: Sequence[TrainRow], step: int = 0, measured: str = "") -> TrainBatch:
    return TrainBatch(step=step, rows={SHARED: rows}, weights={SHARED: WEIGHTS}, measured=measured)


def random_rows(count: int = 24, seed: int = 0) -> list[TrainRow]:
    rng = np.random.default_rng(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(2, 97, n))

    prompts = [ids(int(rng.integers(3, 20))) for _ in range(count // 3 + 1)]  # a third as many: groups share them
    return [
        row(
            part="proposer" if i % 4 == 0 else "solver",
            prompt=prompts[int(rng.integers(len(prompts)))],
            tokens=ids(int(rng.integers(1, 9))),
            logprob=-4.5,
            advantage=float(rng.normal()),
        )
        for i in range(count)
    ]
