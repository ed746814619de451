"""The loop that pre-trains both embedded models: a character tokenizer, a small Qwen2 model, phases of documents.

A document is a prompt and its completion, then perhaps the next prompt, its completion, and so on; the loss is on the
completions. Seeded; weights can differ in rounding between machines, thread counts and versions of torch.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.nn.functional import cross_entropy

END, PAD = "<|end|>", "<|pad|>"
CHARACTERS = [10, *range(32, 127)]  # a newline, and what is printable in ASCII
MAX_TOKENS = 512
WARMUP = 100  # steps
IGNORE = -100

Document: TypeAlias = tuple[str, ...]  # prompt, completion, prompt, completion, ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Some documents of one kind; the loss of a step is the sum over batches of weight * mean over their tokens."""

    name: str
    documents: Sequence[Document]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training with an optimizer and a random stream of its own."""

    steps: int
    peak_lr: float
    draw: Callable[[random.Random], Sequence[Batch]]  # the documents of one step


def build_tokenizer() -> Any:
    """One token a printable ASCII character or newline.

    Byte-level without merges, because AutoTokenizer rebuilds the pre-tokenizer of a `qwen2` model: only a byte-level
    alphabet survives that with its spaces (tests/actors/test_engines.py holds it to this).
    """
    from transformers import Qwen2Tokenizer

    byte_to_char = {10: "\u010a", 32: "\u0120"} | {b: chr(b) for b in range(33, 127)}
    vocab = {END: 0, PAD: 1} | {c: i + 2 for i, (_, c) in enumerate(sorted(byte_to_char.items()))}
    return Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token=None, eos_token=END, pad_token=PAD, model_max_length=MAX_TOKENS
    )


def build_model(vocab_size: int, seed: int, *, width: int, layers: int) -> Any:
    """A Qwen2 model with random weights: four heads, tied embeddings, three times the width inside its MLPs."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
            use_cache=True,
        )
    )


def tensorise(documents: Sequence[Document], encode: Callable[[str], list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and labels, both [documents, longest]; labels are IGNORE on prompts and padding."""
    rows = [[encode(text) for text in document] for document in documents]
    width = max(sum(map(len, row)) for row in rows)
    ids = torch.full((len(rows), width), 1)
    labels = torch.full((len(rows), width), IGNORE)
    for i, row in enumerate(rows):
        start = 0
        for k, part in enumerate(row):
            end = start + len(part)
            ids[i, start:end] = torch.tensor(part)
            if k % 2:
                labels[i, start:end] = torch.tensor(part)
            start = end
    return ids, labels


def answer_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labelled tokens; logits are made for those alone."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    labelled = labels[:, 1:] != IGNORE
    return cross_entropy(model.lm_head(hidden[labelled]), labels[:, 1:][labelled])


def learning_rate(step: int, phase: Phase) -> float:
    """The rate of a step: linear warm-up, then a cosine to 2 % of the peak."""
    warm = min(1.0, (step + 1) / WARMUP)
    return phase.peak_lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / phase.steps)))


def train(model: Any, tokenizer: Any, phase: Phase, seed: int) -> None:
    """Run one phase in place."""
    rng = random.Random(seed)
    table = {c: tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in map(chr, CHARACTERS)}

    def encode(text: str) -> list[int]:
        return [table[c] for c in text]

    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    began = time.monotonic()
    for step in range(phase.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, phase)
        losses = []
        for batch in phase.draw(rng):
            loss = answer_loss(model, *tensorise(batch.documents, encode))
            (batch.weight * loss).backward()
            losses.append(f"{batch.name} {loss.item():.3f}")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == phase.steps - 1:
            print(f"step {step:5d}  {'  '.join(losses)}  {time.monotonic() - began:.0f} s", flush=True)


def build(phases: Sequence[Phase], *, width: int, layers: int, seed: int, out: Path, threads: int) -> None:
    """All phases, one after another, the first with the random stream of `seed`; writes a transformers folder."""
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), seed, width=width, layers=layers)
    for i, phase in enumerate(phases):
        train(model, tokenizer, phase, seed + i)
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(about: str | None, phases: Sequence[Phase], *, width: int, layers: int, out: Path | None) -> None:
    """Build from the command line: --out (needed where there is no default), --seed, --threads."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=out, required=out is None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    build(phases, width=width, layers=layers, seed=args.seed, out=args.out, threads=args.threads)
