"""The loop that pre-trains both embedded models: a character tokenizer, a small Qwen2 model, phases of documents.

A document is a prompt and its completion, then perhaps the next prompt, its completion, and so on; the loss is on the
completions, and with a weight of their own on the prompts. Under torchrun each worker draws its own documents, and the
gradient is the mean over workers. Seeded; weights can differ in rounding between machines, thread counts and versions
of torch.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

END, PAD = "<|end|>", "<|pad|>"
CHARACTERS = [10, *range(32, 127)]  # a newline, and what is printable in ASCII
MAX_TOKENS = 512
WARMUP = 100  # steps
IGNORE, PADDING = -100, 1  # a label, and the id of PAD
TOGETHER = 8  # documents of similar length in one pass, so that little of it is padding

Document: TypeAlias = tuple[str, ...]  # prompt, completion, prompt, completion, ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Some documents of one kind.

    The loss of a step is the sum over batches of weight * (answers + prompt_weight * prompts), of which both are means
    over the tokens of the batch.
    """

    name: str
    documents: Sequence[Document]
    weight: float = 1.0
    prompt_weight: float = 0.0  # of the tokens of prompts, beside 1 for those of completions


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training with optimizers and a random stream of its own."""

    steps: int
    peak_lr: float
    muon_lr: float = 0.0  # of the layers' matrices, by Muon; 0: AdamW trains them too
    draw: Callable[[random.Random], Sequence[Batch]]  # the documents of one step


def build_tokenizer(words: Sequence[str] = ()) -> Any:
    """One token a printable ASCII character or newline, and one for each of `words`.

    Byte-level without merges, because AutoTokenizer rebuilds the pre-tokenizer of a `qwen2` model: only a byte-level
    alphabet survives that with its spaces (tests/actors/test_engines.py holds it to this).
    """
    from transformers import AddedToken, Qwen2Tokenizer

    byte_to_char = {10: "\u010a", 32: "\u0120"} | {b: chr(b) for b in range(33, 127)}
    vocab = {END: 0, PAD: 1} | {c: i + 2 for i, (_, c) in enumerate(sorted(byte_to_char.items()))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token=None, eos_token=END, pad_token=PAD, model_max_length=MAX_TOKENS
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer


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


def tensorise(documents: Sequence[Document], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and labels, both [documents, longest]; labels are IGNORE on prompts and padding."""
    rows = [tokenizer(list(document), add_special_tokens=False)["input_ids"] for document in documents]
    width = max(sum(map(len, row)) for row in rows)
    ids = torch.full((len(rows), width), PADDING)
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


def losses(model: Any, tokenizer: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean cross-entropy of the completions' tokens, what is to be minimised)."""
    documents = sorted(batch.documents, key=lambda document: sum(map(len, document)))
    passes = [tensorise(documents[i : i + TOGETHER], tokenizer) for i in range(0, len(documents), TOGETHER)]
    hidden = torch.cat([model.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1) for ids, _ in passes])
    next_ids, answered = _flat(ids for ids, _ in passes), _flat(labels for _, labels in passes) != IGNORE
    loss = cross_entropy(model.lm_head(hidden[answered]), next_ids[answered])
    if not batch.prompt_weight:
        return loss, batch.weight * loss
    asked = ~answered & (next_ids != PADDING)
    prompts = cross_entropy(model.lm_head(hidden[asked]), next_ids[asked])
    return loss, batch.weight * (loss + batch.prompt_weight * prompts)


def _flat(passes: Iterable[torch.Tensor]) -> torch.Tensor:
    """[documents, longest] of each pass -> what stands after the first token of each document, in one row."""
    return torch.cat([ids[:, 1:].flatten() for ids in passes])


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix nearest to the momentum (Jordan 2024, kellerjordan.github.io/posts/muon).

    Steps are scaled to the size of AdamW's (arXiv 2502.16982 eq. 4). torch.optim.Muon does the same in bfloat16, which
    CPUs without units for it multiply several times slower.
    """

    MOMENTUM, DECAY, ITERATIONS = 0.95, 0.01, 5

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - self.MOMENTUM)
                direction = orthogonal(matrix.grad.lerp(momentum, self.MOMENTUM), self.ITERATIONS)
                matrix.mul_(1 - group["lr"] * self.DECAY)
                matrix.add_(direction, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor, iterations: int) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: its singular values are about 0.7 to 1.2. The polynomial is Muon's."""
    x = matrix / matrix.norm().clamp(min=1e-7)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def rate(step: int, phase: Phase) -> float:
    """The share of the peak rates at a step: linear warm-up, then a cosine to 2 %."""
    warm = min(1.0, (step + 1) / WARMUP)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / phase.steps)))


def optimizers(model: Any, phase: Phase) -> dict[torch.optim.Optimizer, float]:
    """Each with its peak rate."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2] if phase.muon_lr else []
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    adamw = torch.optim.AdamW(others, lr=phase.peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    return {adamw: phase.peak_lr} | ({Muon(matrices, phase.muon_lr): phase.muon_lr} if matrices else {})


def average_gradients(model: Any) -> None:
    """Make every worker's gradients the mean over workers."""
    gradients = [parameter.grad for parameter in model.parameters()]
    together = parameters_to_vector(gradients)
    dist.all_reduce(together)
    vector_to_parameters(together / dist.get_world_size(), gradients)


def train(model: Any, tokenizer: Any, phase: Phase, seed: int) -> None:
    """Run one phase in place."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    rng = random.Random(f"{seed}, worker {rank}" if rank else seed)
    peaks = optimizers(model, phase)
    began = time.monotonic()
    for step in range(phase.steps):
        for optimizer, peak in peaks.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, phase)
        said = []
        for batch in phase.draw(rng):
            loss, objective = losses(model, tokenizer, batch)
            objective.backward()
            said.append(f"{batch.name} {loss.item():.3f}")
        if dist.is_initialized():
            average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in peaks:
            optimizer.step()
            optimizer.zero_grad()
        if rank == 0 and (step % 100 == 0 or step == phase.steps - 1):
            print(f"step {step:5d}  {'  '.join(said)}  {time.monotonic() - began:.0f} s", flush=True)


def build(
    phases: Sequence[Phase], words: Sequence[str], *, width: int, layers: int, seed: int, out: Path, threads: int
) -> None:
    """All phases in their order, the first with the random stream of `seed`; each writes the transformers folder."""
    torch.set_num_threads(threads)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    is_writer = not dist.is_initialized() or dist.get_rank() == 0
    tokenizer = build_tokenizer(words)
    model = build_model(len(tokenizer), seed, width=width, layers=layers)
    for i, phase in enumerate(phases):
        train(model, tokenizer, phase, seed + i)
        if is_writer:
            out.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    if dist.is_initialized():
        dist.destroy_process_group()


def main(
    about: str | None,
    phases: Sequence[Phase],
    words: Sequence[str] = (),
    *,
    width: int,
    layers: int,
    out: Path | None,
    threads: int = 2,
) -> None:
    """Build from the command line: --out (needed where there is no default), --seed, --threads of each worker."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=out, required=out is None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=threads)
    args = parser.parse_args()
    build(phases, words, width=width, layers=layers, seed=args.seed, out=args.out, threads=args.threads)
