"""From samples to tensors: rows with an advantage, packed into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azero.types import Role, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One sample with its advantage, as the loss needs it."""

    sample: Sample
    advantage: float

    @property
    def length(self) -> int:
        """Tokens, prompt and completion."""
        return len(self.sample.completion.prompt_ids) + len(self.sample.completion.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """Right-padded rows. Completion token t of row r sits at ids[r, t]; its log-prob comes from hidden state t - 1."""

    ids: Tensor  # [rows, width] int64
    attention: Tensor  # [rows, width] int64, 1 on real tokens
    mask: Tensor  # [rows, width - 1] bool, true where ids[:, 1:] is a completion token
    behaviour: Tensor  # [tokens] float32, in row order: log-probs under the sampling temperature
    advantages: Tensor  # [tokens] float32
    row_of: Tensor  # [tokens] int64, the row of each token
    indices: tuple[int, ...]  # of the rows in the sequence that was packed

    @property
    def targets(self) -> Tensor:
        """Completion token ids, [tokens]."""
        return self.ids[:, 1:][self.mask]


def pack(rows: Sequence[TrainRow], indices: Sequence[int], pad_id: int = 0) -> TrainBatch:
    """One micro-batch of rows[i] for i in indices."""
    chosen = [rows[i] for i in indices]
    width = max(r.length for r in chosen)
    ids = torch.full((len(chosen), width), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(chosen), width), dtype=torch.int64)
    mask = torch.zeros((len(chosen), width - 1), dtype=torch.bool)
    for r, row in enumerate(chosen):
        c = row.sample.completion
        ids[r, : row.length] = torch.tensor(c.prompt_ids + c.token_ids)
        attention[r, : row.length] = 1
        mask[r, len(c.prompt_ids) - 1 : row.length - 1] = True
    counts = torch.tensor([len(r.sample.completion.token_ids) for r in chosen])
    return TrainBatch(
        ids=ids,
        attention=attention,
        mask=mask,
        behaviour=torch.tensor([p for r in chosen for p in r.sample.completion.logprobs], dtype=torch.float32),
        advantages=torch.tensor([r.advantage for r in chosen], dtype=torch.float32).repeat_interleave(counts),
        row_of=torch.arange(len(chosen)).repeat_interleave(counts),
        indices=tuple(indices),
    )


def microbatches(rows: Sequence[TrainRow], indices: Sequence[int], tokens: int) -> Iterator[TrainBatch]:
    """Rows of similar length together, at most `tokens` padded tokens each (a longer row goes alone)."""
    order = sorted(indices, key=lambda i: (rows[i].length, i), reverse=True)
    start = 0
    while start < len(order):
        width = rows[order[start]].length
        count = max(1, tokens // width)
        yield pack(rows, order[start : start + count])
        start += count


def completion_tokens(rows: Sequence[TrainRow], role: Role) -> int:
    """The denominator of a role's mean: all of its completion tokens in the update, trained on or not."""
    return sum(len(r.sample.completion.token_ids) for r in rows if r.sample.role is role)
