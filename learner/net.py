"""The model as the loss sees it: log-probs and entropies of completion tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from azero.config import AdapterConfig, Dtype
from azero.errors import UserError
from azero.loss import MicroBatch, token_logprobs
from azero.models.adapters import add_adapters, wear
from azero.models.loading import load_model
from azero.types import ProbeSet
from learner.workers import Workers


class PolicyNet(nn.Module):
    """A causal language model in fp32, run in `dtype`, its parameters split over the learner's workers.

    It stays in eval mode, in training too: dropout and other noise would make ratio, KL and improvement compare two
    different functions.

    With adapters its own weights are frozen, and each policy's part of a step runs while the net is `wearing` its.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: Dtype,
        device: torch.device,
        recompute: bool,
        workers: Workers,
        adapters: Mapping[str, AdapterConfig] | None = None,
    ) -> None:
        super().__init__()
        self._worn: str | None = None
        self.model: Any = load_model(path)
        self.adapters = adapters or {}
        if self.adapters:
            add_adapters(self.model, self.adapters)
            wear(self.model, None)
        self.model.to(device).eval()
        self.dtype, self.device = dtype, device
        self.shares_prompts = not recompute  # which cannot keep keys and values
        self.takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        if device.type == "cpu":  # whose fused attention is slower than the plain one on short sequences
            self.model.set_attn_implementation("eager")
        if recompute:
            recompute_layers(self.model)
        workers.shard(self, blocks(self.model))
        register_fsdp_forward_method(self, "probe")
        register_fsdp_forward_method(self, "plain")

    @contextmanager
    def wearing(self, adapter: str | None) -> Iterator[None]:
        """Within it the net computes with one adapter, with None as if it had none. A net without any is as ever."""
        before = self._worn
        self._worn = adapter
        if self.adapters:
            wear(self.model, adapter)
        try:
            yield
        finally:
            self._worn = before
            if self.adapters:
                wear(self.model, before)

    def run_like(self, other: PolicyNet) -> None:
        """Take the way through the model that the other net takes."""
        self.shares_prompts = other.shares_prompts
        self.model.set_attn_implementation(other.model.config._attn_implementation)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """(log-probs, entropy) of the rows' completion tokens, [tokens].

        Each prompt is run once and its keys and values serve all of its completions, gradients included, where
        `shares_prompts`; each distinct completion is run once. Logits are the model's own, and made for completion
        tokens alone.
        """
        token_of = batch.token_of.to(self.device)
        with self._autocast():
            logits = self._logits(batch)
        temperatures = batch.temperatures.to(self.device)
        logprobs, entropy = token_logprobs(logits, batch.targets.to(self.device), temperatures)
        return logprobs[token_of], entropy[token_of]

    def exact(self, batch: MicroBatch) -> Tensor:
        """The log-probs of `forward` in fp32 throughout, whatever `dtype` is, without a gradient.

        For the difference of two passes: one update moves a weight by less than bf16 tells apart.
        """
        with torch.no_grad(), fp32_products(self):
            logprobs, _ = self(batch)
        self.forget_forward()
        return logprobs

    def forget_forward(self) -> None:
        """End a forward pass that no backward pass follows, on which FSDP counts for that."""
        if isinstance(self, FSDPModule):
            self.reset_iter_state()

    def _logits(self, batch: MicroBatch) -> Tensor:
        """[distinct tokens, vocabulary]: the model's own logits, from which each completion token is drawn."""
        prompts, prompt_mask = batch.prompts.to(self.device), batch.prompt_mask.to(self.device)
        of, wanted = batch.prompt_of.to(self.device), batch.mask.to(self.device)
        completions, mask = batch.completions.to(self.device), wanted.long()
        if completions.shape[1] == 1 and isinstance(self, FSDPModule):
            # Every worker must call the layers equally often: one token of padding, whose state is cut off below.
            completions, mask = functional.pad(completions, (0, 1)), functional.pad(mask, (0, 1))
        inputs, mask = completions[:, :-1], mask[:, :-1]
        both = torch.cat([prompt_mask[of], mask], dim=1)  # [completions, both widths - 1]
        positions = (both.cumsum(-1) - 1).clamp(min=0)
        width, tokens = prompts.shape[1], wanted.shape[1]
        if not self.shares_prompts:
            ids = torch.cat([prompts[of], inputs], dim=1)
            with self._head_sees(lambda states: states[:, width - 1 :][:, :tokens][wanted]):
                return self._run(ids, both, positions, use_cache=False).logits[0]
        first = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
        if not inputs.shape[1]:
            with self._head_sees(lambda states: states[of, -1:][wanted]):
                return self._run(prompts, prompt_mask, first, use_cache=True).logits[0]
        last: list[Tensor] = []

        def keep(states: Tensor) -> Tensor:
            last.append(states[of, -1:])
            return states[0, :0]

        with self._head_sees(keep):
            cache = self._run(prompts, prompt_mask, first, use_cache=True).past_key_values
        cache.reorder_cache(of)
        with self._head_sees(lambda states: torch.cat([last[0], states], dim=1)[:, :tokens][wanted]):
            return self._run(inputs, both, positions[:, width:], past_key_values=cache, use_cache=True).logits[0]

    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor, **options: Any) -> Any:
        if self.takes_positions:
            options["position_ids"] = positions
        return self.model(input_ids=ids, attention_mask=mask, **options)

    @contextmanager
    def _head_sees(self, chosen: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Give the model's head chosen(states) [n, hidden] for [rows, width, hidden]: logits are [1, n, vocabulary].

        All that the model does before and after its head stays as it is.
        """

        def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (chosen(inputs[0]).unsqueeze(0), *inputs[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(narrow)
        try:
            yield
        finally:
            handle.remove()

    def probe(self, sequences: Sequence[Sequence[int]]) -> ProbeSet:
        """Log-probs of tokens 1.. of each sequence at temperature 1, under what the net wears now."""
        lengths = torch.tensor([len(s) for s in sequences])
        ids = nn.utils.rnn.pad_sequence([torch.tensor(list(s)) for s in sequences], batch_first=True).to(self.device)
        # Padding follows what counts, and attention looks back only.
        inside = (torch.arange(ids.shape[1])[None] < lengths[:, None]).to(self.device)
        wanted = inside[:, 1:]
        with torch.no_grad(), self._autocast(), self._head_sees(lambda states: states[:, :-1][wanted]):
            logits = self.model(input_ids=ids, use_cache=False).logits[0]
        logprobs = token_logprobs(logits, ids[:, 1:][wanted], 1.0)[0].cpu()
        found = [tuple(part.tolist()) for part in logprobs.split((lengths - 1).tolist())]
        return ProbeSet(sequences=tuple(tuple(s) for s in sequences), logprobs=tuple(found))

    def plain(self, ids: Sequence[int], temperature: float) -> Tensor:
        """[tokens - 1]: log-probs of tokens 1.. by the model's forward pass as it is."""
        sequence = torch.tensor([list(ids)], device=self.device)
        with self._autocast():
            logits = self.model(input_ids=sequence, use_cache=False).logits[0, :-1]
        return token_logprobs(logits, sequence[0, 1:], temperature)[0]

    def _autocast(self) -> AbstractContextManager[None]:
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@contextmanager
def fp32_products(net: PolicyNet) -> Iterator[None]:
    """Within it the net runs in fp32, without the GPU's or CPU's shortcuts through shorter formats."""
    dtype, precision, convolutions = net.dtype, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    net.dtype = "float32"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        net.dtype, torch.backends.cudnn.allow_tf32 = dtype, convolutions
        torch.set_float32_matmul_precision(precision)


def full_norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm of all elements of all tensors, sharded ones too."""
    return whole_number(nn.utils.get_total_norm(tensors))


def whole_number(norm: Tensor) -> float:
    """Return a norm as a number; that of sharded gradients is a sharded tensor too."""
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def blocks(model: Any) -> Iterator[nn.Module]:
    """The layers that repeat, as transformers names them: what is worth gathering one at a time."""
    names = set(model._no_split_modules or ())
    yield from (m for m in model.modules() if type(m).__name__ in names)


def recompute_layers(model: Any) -> None:
    """Have each layer run again in the backward pass. transformers' own way works in train mode alone, with its noise.

    Raises UserError where the model has no such layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"learner.gradient_checkpointing=true: {type(model).__name__} has no layers to recompute; set it to false"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
