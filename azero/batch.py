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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """Rows whose prompts stand apart, each prompt once: a group's samples share the work that its prompt takes."""

    prompts: Tensor  # [prompts, prompt width] int64, padded on the left, so that completions follow at one place
    prompt_mask: Tensor  # [prompts, prompt width] int64, 1 on real tokens
    prompt_of: Tensor  # [rows] int64, the prompt of each row
    completions: Tensor  # [rows, completion width] int64, padded on the right
    mask: Tensor  # [rows, completion width] bool, true on real tokens
    behaviour: Tensor  # [tokens] float32, in row order: log-probs under the sampling temperature
    advantages: Tensor  # [tokens] float32
    row_of: Tensor  # [tokens] int64, the row of each token
    indices: tuple[int, ...]  # of the rows in the sequence that was packed

    @property
    def targets(self) -> Tensor:
        """Completion token ids, [tokens]."""
        return self.completions[self.mask]


def pack(rows: Sequence[TrainRow], indices: Sequence[int]) -> TrainBatch:
    """One micro-batch of rows[i] for i in indices."""
    chosen = [rows[i] for i in indices]
    made = [r.sample.completion for r in chosen]
    distinct = {p: i for i, p in enumerate(dict.fromkeys(c.prompt_ids for c in made))}
    prompts, prompt_mask = _padded(list(distinct), left=True)
    completions, mask = _padded([c.token_ids for c in made], left=False)
    counts = mask.sum(1)
    return TrainBatch(
        prompts=prompts,
        prompt_mask=prompt_mask,
        prompt_of=torch.tensor([distinct[c.prompt_ids] for c in made]),
        completions=completions,
        mask=mask.bool(),
        behaviour=torch.tensor([p for c in made for p in c.logprobs], dtype=torch.float32),
        advantages=torch.tensor([r.advantage for r in chosen], dtype=torch.float32).repeat_interleave(counts),
        row_of=torch.arange(len(chosen)).repeat_interleave(counts),
        indices=tuple(indices),
    )


def _padded(sequences: Sequence[tuple[int, ...]], left: bool) -> tuple[Tensor, Tensor]:
    """(ids, mask), both [sequences, longest] int64."""
    width = max(map(len, sequences))
    ids, mask = torch.zeros((2, len(sequences), width), dtype=torch.int64)
    for i, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[i, place], mask[i, place] = torch.tensor(sequence), 1
    return ids, mask


def microbatches(rows: Sequence[TrainRow], indices: Sequence[int], tokens: int) -> Iterator[TrainBatch]:
    """At most `tokens` padded tokens each, a prompt that rows share counted once (a longer row goes alone).

    Rows of one prompt stay together, prompts and completions of similar length too.
    """

    def order(i: int) -> tuple[int, tuple[int, ...], int, int]:
        c = rows[i].sample.completion
        return -len(c.prompt_ids), c.prompt_ids, -len(c.token_ids), i

    taken: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    prompt_width = width = 0
    for i in sorted(indices, key=order):
        c = rows[i].sample.completion
        prompts.add(c.prompt_ids)
        prompt_width, width = max(prompt_width, len(c.prompt_ids)), max(width, len(c.token_ids))
        if taken and len(prompts) * prompt_width + (len(taken) + 1) * width > tokens:
            yield pack(rows, taken)
            taken, prompts, prompt_width, width = [], {c.prompt_ids}, len(c.prompt_ids), len(c.token_ids)
        taken.append(i)
    if taken:
        yield pack(rows, taken)


def completion_tokens(rows: Sequence[TrainRow], role: Role) -> int:
    """The denominator of a role's mean: all of its completion tokens in the update, trained on or not."""
    return sum(len(r.sample.completion.token_ids) for r in rows if r.sample.role is role)
