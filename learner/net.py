"""The model as the loss sees it: log-probs and entropies of completion tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.nn import functional

from azero.batch import TrainBatch
from azero.config import Dtype
from azero.losses import token_logprobs
from azero.models import load_model
from learner.workers import Workers


class PolicyNet(nn.Module):
    """A causal language model in fp32, run in `dtype`, its parameters split over the learner's workers."""

    def __init__(
        self, path: str, *, dtype: Dtype, temperature: float, device: torch.device, recompute: bool, workers: Workers
    ) -> None:
        super().__init__()
        self.model: Any = load_model(path).to(device)
        self.dtype, self.temperature, self.device, self.recompute = dtype, temperature, device, recompute
        if device.type == "cpu":  # whose fused attention is slower than the plain one on short sequences
            self.model.set_attn_implementation("eager")
        if recompute:
            self.model.gradient_checkpointing_enable()
        workers.shard(self, blocks(self.model))
        register_fsdp_forward_method(self, "probe")

    def forward(self, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """(log-probs, entropy) of the rows' completion tokens, [tokens].

        Each prompt is run once and its keys and values serve all of its completions, gradients included; each distinct
        completion is run once too. Logits are made for completion tokens alone.
        """
        mask, token_of = batch.mask.to(self.device), batch.token_of.to(self.device)
        with self._autocast():
            hidden = self._hidden(batch)[mask]  # [distinct tokens, hidden]
            logits = self.model.get_output_embeddings()(hidden)
        logprobs, entropy = token_logprobs(logits, batch.targets.to(self.device), self.temperature)
        return logprobs[token_of], entropy[token_of]

    def _hidden(self, batch: TrainBatch) -> Tensor:
        """[completions, completion width, hidden]: the state from which each completion token is predicted."""
        body = self.model.base_model
        prompts, prompt_mask = batch.prompts.to(self.device), batch.prompt_mask.to(self.device)
        of = batch.prompt_of.to(self.device)
        completions, mask = batch.completions.to(self.device), batch.mask.to(self.device).long()
        if completions.shape[1] == 1 and isinstance(self, FSDPModule):
            # Every worker must call the layers equally often: one token of padding, whose state is cut off below.
            completions, mask = functional.pad(completions, (0, 1)), functional.pad(mask, (0, 1))
        inputs, mask = completions[:, :-1], mask[:, :-1]
        both = torch.cat([prompt_mask[of], mask], dim=1)  # [completions, both widths - 1]
        positions = (both.cumsum(-1) - 1).clamp(min=0)
        width = prompts.shape[1]
        if self.recompute:  # which cannot keep keys and values
            ids = torch.cat([prompts[of], inputs], dim=1)
            out = body(input_ids=ids, attention_mask=both, position_ids=positions, use_cache=False)
            return out.last_hidden_state[:, width - 1 :][:, : batch.mask.shape[1]]
        first = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
        out = body(input_ids=prompts, attention_mask=prompt_mask, position_ids=first, use_cache=True)
        last = out.last_hidden_state[of, -1:]
        if not inputs.shape[1]:
            return last
        cache = out.past_key_values
        cache.batch_select_indices(of)
        out = body(
            input_ids=inputs,
            attention_mask=both,
            position_ids=positions[:, width:],
            past_key_values=cache,
            use_cache=True,
        )
        return torch.cat([last, out.last_hidden_state], dim=1)[:, : batch.mask.shape[1]]

    def probe(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probs of tokens 1.. of each sequence at temperature 1."""
        lengths = torch.tensor([len(s) for s in sequences])
        ids = nn.utils.rnn.pad_sequence([torch.tensor(list(s)) for s in sequences], batch_first=True).to(self.device)
        # Padding follows what counts, and attention looks back only.
        inside = (torch.arange(ids.shape[1])[None] < lengths[:, None]).to(self.device)
        with torch.no_grad(), self._autocast():
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][inside[:, 1:]]
            logits = self.model.get_output_embeddings()(hidden)
        logprobs = token_logprobs(logits, ids[:, 1:][inside[:, 1:]], 1.0)[0].cpu()
        return [tuple(part.tolist()) for part in logprobs.split((lengths - 1).tolist())]

    def _autocast(self) -> AbstractContextManager[None]:
        if self.dtype is Dtype.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def blocks(model: Any) -> Iterator[nn.Module]:
    """The layers that repeat, as transformers names them: what is worth gathering one at a time."""
    names = set(model._no_split_modules or ())
    yield from (m for m in model.modules() if type(m).__name__ in names)
