"""Whether the learner's way through a model gives what the model's own forward pass gives: asked before step 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from azero.errors import UserError, first_line
from azero.loss import MicroBatch, pack
from azero.types import TrainRow
from learner.net import PolicyNet, fp32_products, full_norm

AGREED = 1e-5  # of log-probs in fp32, in nats or of the largest of them, whichever is more: a 7B model rounds more
GRADIENT_AGREED = 1e-3  # of the gradient's length
ROUNDINGS = 2.0  # of bf16 products: what two ways through a model may differ by, beside ROUNDED
ROUNDED = 0.02  # nats, a mean
TEMPERATURE = 0.7  # sharper than 1, so that differences show
LENGTHS = {9: (1, 6, 3), 4: (5, 2)}  # tokens of a prompt: those of its completions


@dataclass(frozen=True, slots=True)
class Plain:
    """Holds what the model's own forward pass gives, one sequence after the other."""

    exact: Tensor  # [tokens] log-probs in fp32
    rounded: Tensor  # [tokens] in `model.dtype`
    norm: float  # of the gradient in fp32


def require_agreement(net: PolicyNet) -> None:
    """Choose a way through the model that gives what its own forward pass gives. Raises UserError where none does.

    The fastest comes first: fused attention where there is a GPU, and each prompt run once for all of its completions.
    """
    model = net.model
    rows = _rows(model.get_input_embeddings().weight.shape[0])
    batch = pack(rows, range(len(rows)))
    attention = model.config._attn_implementation
    ways = dict.fromkeys((a, s) for a in (attention, "eager") for s in (net.shares_prompts, False))
    try:
        model.set_attn_implementation("eager")  # which leaves nothing out
        plain, wrong = _plain(net, rows), ""
    except Exception as e:  # each architecture has errors of its own
        raise UserError(_refusal(net, f"its own forward pass fails ({first_line(e)})")) from e
    for attention, net.shares_prompts in ways:
        model.set_attn_implementation(attention)
        try:
            wrong = _difference(net, batch, plain)
        except Exception as e:
            wrong = f"a batch of prompts and completions fails ({type(e).__name__}: {first_line(e)})"
        net.zero_grad(set_to_none=True)
        if not wrong:
            return
    raise UserError(_refusal(net, wrong))


def _refusal(net: PolicyNet, wrong: str) -> str:
    return (
        f"model.path={net.model.name_or_path}: the learner cannot train {type(net.model).__name__}: {wrong}; "
        "choose a model of another architecture"
    )


def _plain(net: PolicyNet, rows: Sequence[TrainRow]) -> Plain:
    exact, rounded = [], []
    for row in rows:
        ids, n = row.prompt_ids + row.token_ids, len(row.token_ids)
        with fp32_products(net):
            logprobs = net.plain(ids, row.temperature)[-n:]
            logprobs.sum().backward()
        exact.append(logprobs.detach())
        with torch.no_grad():
            rounded.append(net.plain(ids, row.temperature)[-n:])
        net.forget_forward()
    norm = _gradient_norm(net)
    net.zero_grad(set_to_none=True)
    return Plain(torch.cat(exact), torch.cat(rounded), norm)


def _difference(net: PolicyNet, batch: MicroBatch, plain: Plain) -> str:
    """Return what is wrong with the learner's log-probs or gradient of the batch; empty where nothing is."""
    with fp32_products(net):
        exact, _ = net(batch)
        exact.sum().backward()
    gap, allowed = _largest(exact.detach() - plain.exact), AGREED * max(1.0, _largest(plain.exact))
    if not gap <= allowed:  # nan is wrong too
        return f"its log-probs in fp32 differ from a plain forward pass by {gap:.2g} nats (allowed: {allowed:.1g})"
    ratio = _gradient_norm(net) / plain.norm
    if not abs(ratio - 1) <= GRADIENT_AGREED:
        return f"its gradient in fp32 is {ratio:.4g} times as long as that of a plain forward pass (allowed: 1)"
    if net.dtype == "float32":
        return ""
    with torch.no_grad():
        rounded, _ = net(batch)
    net.forget_forward()
    gap = float((rounded - plain.rounded).abs().mean())
    allowed = ROUNDED + ROUNDINGS * float((plain.rounded - plain.exact).abs().mean())
    if not gap <= allowed:
        return (
            f"its log-probs in {net.dtype} differ from a plain forward pass by {gap:.2g} nats in the mean "
            f"(allowed: {allowed:.1g}; model.dtype=float32 agrees)"
        )
    return ""


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _gradient_norm(net: PolicyNet) -> float:
    return full_norm([p.grad for p in net.parameters() if p.grad is not None])


def _rows(vocabulary: int) -> list[TrainRow]:
    """Prompts and completions of different lengths, of the same random tokens everywhere."""
    draw = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (n,), generator=draw).tolist())

    rows = []
    for width, lengths in LENGTHS.items():
        prompt = ids(width)
        for n in lengths:
            tokens = ids(n)
            rows.append(
                TrainRow(
                    prompt_ids=prompt,
                    token_ids=tokens,
                    behaviour=(0.0,) * n,
                    temperature=TEMPERATURE,
                    advantage=0.0,
                    part="",
                )
            )
    return rows
