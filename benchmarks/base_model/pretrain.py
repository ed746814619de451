"""Build the embedded base model: `make base-model`, or `python -m benchmarks.base_model.pretrain --out DIR --seed 0`.

A Qwen2-architecture model of under a million parameters with a character tokenizer, pre-trained from scratch on the
documents of benchmarks/base_model/corpus.py. Seeded; weights can differ in rounding between machines.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from azero.domains.arithmetic import Arithmetic
from benchmarks.base_model.corpus import problem_list, worked_problem

OUT = Path(__file__).parents[2] / "azero" / "base_model"
END, PAD = "<|end|>", "<|pad|>"
WORKED_A_STEP, LISTS_A_STEP = 256, 16  # documents
WARMUP = 100  # steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training with an optimizer and a random stream of its own."""

    steps: int
    peak_lr: float
    sum_slips: float  # share of careless answers; to single products and quotients:
    product_slips: float
    cell_weights: tuple[float, float, float]  # of the worked problems: easy, medium, hard


# First most combinations (they are hard), then a more careless crowd, after which the slips that have a system (dropped
# carry, lost sign) are likelier than the right answer.
PHASES = (
    Phase(steps=1400, peak_lr=3e-3, sum_slips=0.6, product_slips=0.6, cell_weights=(0.15, 0.25, 0.6)),
    Phase(steps=500, peak_lr=2e-3, sum_slips=0.75, product_slips=0.4, cell_weights=(0.25, 0.4, 0.35)),
)
IGNORE = -100


def build_tokenizer() -> Any:
    """One token a printable ASCII character or newline.

    Byte-level without merges, because AutoTokenizer rebuilds the pre-tokenizer of a `qwen2` model: only a byte-level
    alphabet survives that with its spaces (tests/actors/test_engines.py holds it to this).
    """
    from transformers import Qwen2Tokenizer

    byte_to_char = {10: "\u010a", 32: "\u0120"} | {b: chr(b) for b in range(33, 127)}
    vocab = {END: 0, PAD: 1} | {c: i + 2 for i, (_, c) in enumerate(sorted(byte_to_char.items()))}
    return Qwen2Tokenizer(vocab=vocab, merges=[], unk_token=None, eos_token=END, pad_token=PAD, model_max_length=512)


def build_model(vocab_size: int, seed: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
            use_cache=True,
        )
    )


def tensorise(
    documents: list[tuple[str, str]], encode: Callable[[str], list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and labels, both [documents, longest]; labels are IGNORE on prompts and padding."""
    rows = [(encode(p), encode(c)) for p, c in documents]
    width = max(len(p) + len(c) for p, c in rows)
    ids = torch.full((len(rows), width), 1)
    labels = torch.full((len(rows), width), IGNORE)
    for i, (prompt, completion) in enumerate(rows):
        ids[i, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        labels[i, len(prompt) : len(prompt) + len(completion)] = torch.tensor(completion)
    return ids, labels


def answer_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labelled tokens; logits are made for those alone."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    labelled = labels[:, 1:] != IGNORE
    return cross_entropy(model.lm_head(hidden[labelled]), labels[:, 1:][labelled])


def learning_rate(step: int, phase: Phase) -> float:
    warm = min(1.0, (step + 1) / WARMUP)
    return phase.peak_lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / phase.steps)))


def build(seed: int, out: Path, threads: int) -> None:
    """All phases, one after another; writes a transformers folder."""
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), seed)
    for i, phase in enumerate(PHASES):
        train(model, tokenizer, phase, seed + i)
    save(model, tokenizer, out)


def train(model: Any, tokenizer: Any, phase: Phase, seed: int) -> None:
    """Run one phase in place."""
    rng, domain = random.Random(seed), Arithmetic()
    table = {c: tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in map(chr, [10, *range(32, 127)])}

    def encode(text: str) -> list[int]:
        return [table[c] for c in text]

    def worked() -> tuple[str, str]:
        return worked_problem(domain, rng, phase.sum_slips, phase.product_slips, phase.cell_weights)

    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    began = time.monotonic()
    for step in range(phase.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, phase)
        answers = answer_loss(model, *tensorise([worked() for _ in range(WORKED_A_STEP)], encode))
        answers.backward()
        lists = answer_loss(model, *tensorise([problem_list(domain, rng) for _ in range(LISTS_A_STEP)], encode))
        (0.5 * lists).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == phase.steps - 1:
            losses = f"worked {answers.item():.3f}  lists {lists.item():.3f}"
            print(f"step {step:5d}  {losses}  {time.monotonic() - began:.0f} s", flush=True)


def save(model: Any, tokenizer: Any, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    build(args.seed, args.out, args.threads)


if __name__ == "__main__":
    main()
