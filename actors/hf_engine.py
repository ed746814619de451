"""Plain transformers as an engine: for laptops without vLLM, and as the reference in tests."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from actors.base import ModelEngine, score_length
from azero.config import AdapterConfig
from azero.engine import of_each
from azero.errors import UserError, first_line
from azero.loss import padded
from azero.models.adapters import adapter_state, add_adapters, wear
from azero.models.loading import load_model
from azero.models.weights import digest, exactly, owned_state
from azero.types import SHARED, Completion, HeldWeights, Sampling, WeightVersion

ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 0.15}  # nats, between a sample in its batch and alone


@dataclass(frozen=True, slots=True)
class Request:
    tag: Hashable
    prompt_ids: tuple[int, ...]
    n: int
    sampling: Sampling
    policy: str


@dataclass(slots=True)
class Row:
    """One sample in the making."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    eos_ids: tuple[int, ...]
    backend: Any  # the tokenizer's Rust half
    stream: DecodeStream = field(init=False)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""

    def __post_init__(self) -> None:
        self.stream = DecodeStream(ids=list(self.prompt_ids), skip_special_tokens=True)

    def add(self, token: int, logprob: float) -> bool:
        """Append one token; whether the sample goes on."""
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if token in self.eos_ids:
            self.finish_reason = "stop"
            return False
        before = len(self.text)
        self.text += self._decode(token)
        ends = []  # (end, start) of each stop string in the new text
        for stop in self.sampling.stop:
            start = self.text.find(stop, max(0, before + 1 - len(stop)))
            if start >= 0:
                ends.append((start + len(stop), start))
        if ends:
            self.text = self.text[: min(ends)[1]]
            self.finish_reason = "stop"
        elif len(self.token_ids) == self.sampling.max_new_tokens:
            self.finish_reason = "length"
        return not self.finish_reason

    def _decode(self, token: int) -> str:
        """The text that this token completes: none in the middle of a character."""
        try:
            return self.stream.step(self.backend, token) or ""
        except Exception as e:  # bytes that are no UTF-8 can leave the stream without a valid prefix
            if not str(e).startswith("Invalid prefix"):
                raise
            self.stream = DecodeStream(skip_special_tokens=True)
            return self.stream.step(self.backend, token) or ""


class HfEngine(ModelEngine):
    """A sampling loop of its own over a left-padded batch with a key-value cache."""

    def __init__(
        self,
        path: str,
        dtype: Literal["float32", "bfloat16"],
        *,
        max_num_seqs: int,
        max_model_len: int | None = None,
        net: str = SHARED,
        adapters: Mapping[str, AdapterConfig] | None = None,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        """`device` None: the GPU where there is one. `max_model_len` None: what the model holds."""
        super().__init__(path, max_model_len, net, adapters)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.max_num_seqs = max_num_seqs
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.model = load_model(path, self.dtype)
        if self.adapters:
            add_adapters(self.model, {n: a.model_copy(update={"alpha": a.rank}) for n, a in self.adapters.items()})
        self.model.to(self.device).eval().requires_grad_(False)
        self._wear(net)
        self._generator = torch.Generator(self.device)
        self._queue: list[Request] = []
        self.reseed(seed)
        self._require_agreement()

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        """Raises UserError where prompt and completion do not fit, KeyError for a policy that is not served here."""
        self.step_of(policy)
        self.require_room(prompt_ids, sampling)
        self._queue.append(Request(tag, tuple(prompt_ids), n, sampling, policy))

    def step(self) -> list[tuple[Hashable, tuple[Completion, ...]]]:
        """Run the oldest request to its end, and with it those like it that fit into `max_num_seqs` samples."""
        if not self._queue:
            return []
        first, samples = self._queue[0], 0
        sampling = first.sampling
        taken: list[Request] = []
        for request in self._queue:
            alike = (request.sampling, request.policy) == (sampling, first.policy)
            if alike and (not taken or samples + request.n <= self.max_num_seqs):
                taken.append(request)
                samples += request.n
        self._wear(first.policy)
        rows = [
            Row(r.prompt_ids, sampling, self.eos_ids, self.tokenizer.backend_tokenizer)
            for r in taken
            for _ in range(r.n)
        ]
        for start in range(0, len(rows), self.max_num_seqs):
            self._generate(rows[start : start + self.max_num_seqs], sampling.temperature)
        done = iter(rows)
        finished = [(r.tag, tuple(self._completion(r.policy, next(done)) for _ in range(r.n))) for r in taken]
        chosen = set(map(id, taken))
        self._queue = [r for r in self._queue if id(r) not in chosen]
        return finished

    def busy(self) -> bool:
        return bool(self._queue)

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]], policy: str | Sequence[str] = SHARED) -> list[list[float]]:
        """Score as the protocol says, one sequence at a time, as the learner does it, so that rounding is the same."""
        self.idle_for("score")
        score_length(sequences)
        found = []
        for sequence, name in of_each(sequences, policy):
            self._wear(name)
            ids = torch.tensor([list(sequence)], device=self.device)
            logprobs = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist())
        return found

    @torch.no_grad()
    def _replace(self, version: WeightVersion, tensors: Mapping[str, Tensor], policy: str) -> None:
        for name, parameter in self._state(policy).items():
            parameter.copy_(tensors[name])

    def held(self, policy: str = SHARED) -> HeldWeights:
        began = time.perf_counter()
        digests = {name: digest(exactly(tensor, self.dtype)) for name, tensor in self._state(policy).items()}
        return HeldWeights(digests=digests, in_order=len(digests), seconds=time.perf_counter() - began)

    def _state(self, policy: str) -> dict[str, Tensor]:
        return adapter_state(self.model, policy) if policy in self.adapters else owned_state(self.model)

    def _wear(self, policy: str) -> None:
        """Have the model compute as a policy; its adapter comes with its factor in B."""
        if self.adapters:
            wear(self.model, policy if policy in self.adapters else None)

    def reseed(self, seed: int) -> None:
        self.idle_for("reseed")
        self._generator.manual_seed(seed)

    def _require_agreement(self) -> None:
        """Raises UserError where samples of a batch are not what the model says of each alone: not all can do it."""
        drawn = torch.randint(self.model.get_input_embeddings().weight.shape[0], (9,), generator=torch.Generator())
        ids = tuple(drawn.tolist())
        try:
            rows = [
                Row(prompt, Sampling(temperature=0.0, max_new_tokens=n), (), self.tokenizer.backend_tokenizer)
                for prompt in (ids, ids[:4])
                for n in (2, 4)
            ]
            self._generate(rows, 0.0)
            scores = self.score([(*r.prompt_ids, *r.token_ids) for r in rows], self.net)
            gaps = [
                abs(a - b)
                for r, s in zip(rows, scores, strict=True)
                for a, b in zip(r.logprobs, s[-len(r.logprobs) :], strict=True)
            ]
            gap, allowed = sum(gaps) / len(gaps), ALLOWED[self.model.dtype]
            wrong = "" if gap <= allowed else f"they are off by {gap:.2g} nats in the mean (allowed: {allowed:g})"
        except Exception as e:  # each architecture has errors of its own
            wrong = f"{type(e).__name__}: {first_line(e)}"
        if wrong:
            raise UserError(
                f"model.path={self.path}: rollout.engine=hf cannot sample from a batch of prompts with "
                f"{type(self.model).__name__} ({wrong}); use rollout.engine=vllm, or another model"
            )

    @torch.inference_mode()
    def _generate(self, rows: Sequence[Row], temperature: float) -> None:
        """Fill the rows. Each prompt is run once, whatever the number of its samples; rows leave when they end."""
        prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
        ids, mask = self._left_padded(prompts)  # [prompts, longest]
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        place = {prompt: i for i, prompt in enumerate(prompts)}
        select = torch.tensor([place[row.prompt_ids] for row in rows], device=self.device)
        cache, logits, mask = out.past_key_values, out.logits[select, -1], mask[select]
        cache.reorder_cache(select)
        while True:
            tokens, logprobs = self._draw(logits, temperature)  # [rows]
            going = [row.add(t, p) for row, t, p in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)]
            if not any(going):
                return
            if not all(going):
                rows = [row for row, goes in zip(rows, going, strict=True) if goes]
                select = torch.tensor(going, device=self.device).nonzero()[:, 0]
                tokens, mask = tokens[select], mask[select]
                cache.reorder_cache(select)
            position = mask.sum(-1, keepdim=True)  # [rows, 1] real tokens before this one
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            out = self.model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[:, -1]

    def _draw(self, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(tokens, log-probs), both [rows], from logits [rows, vocabulary]; at temperature 0 greedy, log-probs at 1."""
        logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)
        if temperature == 0:
            tokens = logprobs.argmax(-1)
        else:
            tokens = torch.multinomial(logprobs.exp(), 1, generator=self._generator)[:, 0]
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]

    def _left_padded(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """(ids, attention mask), both [prompts, longest]."""
        ids, mask = padded(prompts, left=True)
        return ids.to(self.device), mask.to(self.device)

    def _completion(self, policy: str, row: Row) -> Completion:
        return Completion(
            prompt_ids=row.prompt_ids,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            text=row.text,
            policy=policy,
            version=self.step_of(policy),
            finish_reason=row.finish_reason,
        )
