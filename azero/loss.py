"""From rows to the loss: micro-batches by a token budget, and what each token of them adds.

The samples of a group share their prompt, and many of them are equal, the more so the surer the model is. Each distinct
prompt and each distinct completion goes through the model once; the loss is still taken row by row.

The loss is the clipped policy gradient, per token (ALGORITHM "Loss"; PPO arXiv 1707.06347 eq. 7; dual clip arXiv
1912.09729 eq. 5; the KL estimate is k3 of http://joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from azero.types import TrainRow

# exp() of a log-ratio beyond this is no estimate of anything; it only overflows.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows with their distinct prompts and completions. `tokens` counts those of the rows, in row order."""

    prompts: Tensor  # [prompts, prompt width] int64, padded on the left, so that completions follow at one place
    prompt_mask: Tensor  # [prompts, prompt width] int64, 1 on real tokens
    prompt_of: Tensor  # [completions] int64, the prompt of each completion
    completions: Tensor  # [completions, completion width] int64, distinct (for their prompt), padded on the right
    mask: Tensor  # [completions, completion width] bool, true on real tokens
    temperatures: Tensor  # [distinct tokens] float32: under which each was sampled
    behaviour: Tensor  # [tokens] float32: log-probs under the sampling temperature
    advantages: Tensor  # [tokens] float32
    token_of: Tensor  # [tokens] int64, where in completions[mask] each token is
    row_of: Tensor  # [tokens] int64, the row of each token
    indices: tuple[int, ...]  # of the rows in the sequence that was packed

    @property
    def targets(self) -> Tensor:
        """Token ids of the distinct completions, [distinct tokens]."""
        return self.completions[self.mask]


def pack(rows: Sequence[TrainRow], indices: Sequence[int]) -> MicroBatch:
    """One micro-batch of rows[i] for i in indices."""
    chosen = [rows[i] for i in indices]
    prompts = {p: i for i, p in enumerate(dict.fromkeys(r.prompt_ids for r in chosen))}
    distinct = {key: i for i, key in enumerate(dict.fromkeys(map(_computed, chosen)))}
    prompt_ids, prompt_mask = padded(list(prompts), left=True)
    completions, mask = padded([tokens for _, tokens, _ in distinct], left=False)
    lengths = mask.sum(1)
    starts = lengths.cumsum(0) - lengths
    first = [int(starts[distinct[_computed(r)]]) for r in chosen]
    counts = torch.tensor([len(r.token_ids) for r in chosen])
    return MicroBatch(
        prompts=prompt_ids,
        prompt_mask=prompt_mask,
        prompt_of=torch.tensor([prompts[p] for p, _, _ in distinct]),
        completions=completions,
        mask=mask.bool(),
        temperatures=torch.tensor([t for _, _, t in distinct], dtype=torch.float32).repeat_interleave(lengths),
        behaviour=torch.tensor([p for r in chosen for p in r.behaviour], dtype=torch.float32),
        advantages=torch.tensor([r.advantage for r in chosen], dtype=torch.float32).repeat_interleave(counts),
        token_of=torch.tensor([t for f, r in zip(first, chosen, strict=True) for t in range(f, f + len(r.token_ids))]),
        row_of=torch.arange(len(chosen)).repeat_interleave(counts),
        indices=tuple(indices),
    )


def _computed(row: TrainRow) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """Return what the model has to be run for: rows that agree in it share one pass."""
    return row.prompt_ids, row.token_ids, row.temperature


def padded(sequences: Sequence[tuple[int, ...]], left: bool) -> tuple[Tensor, Tensor]:
    """(ids, mask), both [sequences, longest] int64."""
    width = max(map(len, sequences))
    ids, mask = torch.zeros((2, len(sequences), width), dtype=torch.int64)
    for i, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[i, place], mask[i, place] = torch.tensor(sequence), 1
    return ids, mask


def microbatches(rows: Sequence[TrainRow], indices: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """`indices` in parts of at most `tokens` padded tokens, what rows share counted once (a longer row goes alone).

    Rows of one prompt stay together, prompts and completions of similar length too.
    """

    def order(i: int) -> tuple[Any, ...]:
        r = rows[i]
        return -len(r.prompt_ids), r.prompt_ids, -len(r.token_ids), r.token_ids, r.temperature, i

    taken: list[int] = []
    prompts = completions = prompt_width = width = 0  # of what is taken: distinct ones, and the longest
    last: tuple[tuple[int, ...], tuple[int, ...], float] = (), (), 0.0  # equal ones follow each other
    for i in sorted(indices, key=order):
        r = rows[i]
        prompts += r.prompt_ids != last[0]
        completions += _computed(r) != last
        prompt_width, width = max(prompt_width, len(r.prompt_ids)), max(width, len(r.token_ids))
        if taken and prompts * prompt_width + completions * width > tokens:
            yield taken
            taken, prompts, completions, prompt_width, width = [], 1, 1, len(r.prompt_ids), len(r.token_ids)
        last = _computed(r)
        taken.append(i)
    if taken:
        yield taken


def shares(rows: Sequence[TrainRow], indices: Sequence[int], tokens: int, workers: int) -> list[list[list[int]]]:
    """Return the micro-batches of `indices` by worker: about as many tokens, and equally many, the last ones empty.

    The longest prompt group goes to the worker that has least so far, so that shares differ by a group at most.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in indices:
        groups.setdefault(rows[i].prompt_ids, []).append(i)
    sizes = {
        prompt: len(prompt) + sum(map(len, {rows[i].token_ids for i in group})) for prompt, group in groups.items()
    }
    parts: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for prompt in sorted(groups, key=lambda p: -sizes[p]):
        lightest = loads.index(min(loads))
        parts[lightest] += groups[prompt]
        loads[lightest] += sizes[prompt]
    plans = [list(microbatches(rows, part, tokens)) for part in parts]
    longest = max(map(len, plans))
    return [plan + [[]] * (longest - len(plan)) for plan in plans]


def completion_tokens(rows: Sequence[TrainRow], part: str) -> int:
    """The denominator of a part's mean: all of its completion tokens in the step, trained on or not."""
    return sum(len(r.token_ids) for r in rows if r.part == part)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    loss: Tensor  # [tokens]
    ratio: Tensor  # [tokens], pi_theta / pi_behaviour, detached
    clipped: Tensor  # [tokens] bool: the gradient of this token is cut off


def policy_loss(
    logprobs: Tensor, behaviour: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, ratio_cap: float
) -> PolicyLoss:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), and for A < 0 at most -ratio_cap A.

    All arguments are [tokens]; both log-probs are under the sampling temperature, `behaviour` as the engine logged it.
    """
    log_ratio = (logprobs - behaviour).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    plain = -ratio * advantages
    bounded = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = torch.maximum(plain, bounded)
    cap = -ratio_cap * advantages
    negative = advantages < 0
    capped = negative & (loss > cap)
    clipped = (bounded > plain) | capped
    loss = torch.where(capped, cap, loss)
    return PolicyLoss(loss=loss, ratio=ratio.detach(), clipped=clipped.detach())


def kl_estimate(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi_theta, [tokens]: estimates KL(pi_theta || pi_ref), never negative."""
    d = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.exp() - d - 1


def token_logprobs(logits: Tensor, targets: Tensor, temperatures: Tensor | float) -> tuple[Tensor, Tensor]:
    """(log-probs of `targets`, detached entropy), both [tokens], fp32, of logits [tokens, vocabulary] / temperature.

    `temperatures`: [tokens], or one for all.
    """
    scaled = logits.float() / (temperatures if isinstance(temperatures, float) else temperatures[:, None])
    logprobs = scaled.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy
