"""Tiny random models of many architectures: the learner beside plain transformers, and whole runs.

    python -m benchmarks.architectures            a table: agrees, or is refused with one line
    python -m benchmarks.architectures --train    `azero train`, two steps with each engine: ok, or the one line

Logit scales, soft caps, dropout, sliding windows and sinks are strong enough that leaving one out shows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from azero.config import Dtype
from azero.errors import UserError
from azero.loss import pack
from azero.models.loading import EMBEDDED, load_model, load_tokenizer
from azero.types import TrainRow
from learner.agreement import AGREED, require_agreement
from learner.net import PolicyNet
from learner.workers import Workers

VOCABULARY = 98  # the embedded model's: its tokenizer serves all
WINDOW = 6  # tokens: shorter than the prompts below
TEMPERATURE = 0.7
RUN = [
    "run.steps=2", "run.eval_every=0", "run.checkpoint_every=1", "run.sinks=[]", "rollout.problems_per_step=2",
    "rollout.solutions_per_problem=2", "task.protocol=raw",
]  # fmt: skip

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
GROUPED = SHAPE | {"num_key_value_heads": 1}
HEADS = GROUPED | {"head_dim": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SLIDING = {"sliding_window": WINDOW}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], **SLIDING}
NOISE = {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512}
MAMBA = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
MAMBA2 = {"num_heads": 4, "head_dim": 32, "n_groups": 1, "chunk_size": 8}

# name -> its transformers config class without "Config", and what differs from that class's defaults
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("Qwen2", GROUPED | {"tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", HEADS),
    "Qwen2-MoE": ("Qwen2Moe", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 1}),
    "Qwen3-MoE": ("Qwen3Moe", HEADS | EXPERTS | {"decoder_sparse_step": 1}),
    "Qwen3-Next": ("Qwen3Next", HEADS | EXPERTS | {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2, "linear_num_key_heads": 2,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "shared_expert_intermediate_size": 32}),
    "Llama": ("Llama", GROUPED),
    "Mistral": ("Mistral", HEADS | SLIDING),
    "Mixtral": ("Mixtral", GROUPED | {"num_local_experts": 4, "router_jitter_noise": 0.5, "sliding_window": None}),
    "Gemma": ("Gemma", HEADS),
    "Gemma-2": ("Gemma2", HEADS | MIXED | {
        "query_pre_attn_scalar": 8, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}),
    "Gemma-3": ("Gemma3Text", HEADS | MIXED | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0}),
    "Granite": ("Granite", GROUPED | {
        "logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
        "attention_multiplier": 0.05}),
    "Granite-MoE": ("GraniteMoe", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 8.0}),
    "Cohere": ("Cohere", GROUPED | {"logit_scale": 0.0625}),
    "Cohere-2": ("Cohere2", GROUPED | MIXED | {"logit_scale": 0.25}),
    "Phi": ("Phi", SHAPE | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1}),
    "Phi-3": ("Phi3", GROUPED | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1}),
    "GPT-2": ("GPT2", GPT | NOISE),
    "GPT-Neo": ("GPTNeo", {
        "hidden_size": 64, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW, "attention_dropout": 0.1, "embed_dropout": 0.1}),
    "GPT-NeoX": ("GPTNeoX", SHAPE | {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "GPT-J": ("GPTJ", GPT | NOISE | {"rotary_dim": 16}),
    "GPT-BigCode": ("GPTBigCode", GPT | NOISE),
    "CodeGen": ("CodeGen", GPT | NOISE | {"rotary_dim": 16, "n_head": 4}),
    "OPT": ("OPT", {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 128, "word_embed_proj_dim": 32,
        "dropout": 0.1, "do_layer_norm_before": False, "layerdrop": 0.5}),
    "Bloom": ("Bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 2, "hidden_dropout": 0.1}),
    "Falcon": ("Falcon", SHAPE | {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "Falcon-ALiBi": ("Falcon", SHAPE | {"alibi": True, "multi_query": False}),
    "MPT": ("Mpt", {"d_model": 64, "n_heads": 2, "n_layers": 2, "logit_scale": 0.5, "resid_pdrop": 0.1}),
    "StableLM": ("StableLm", GROUPED | {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "StarCoder-2": ("Starcoder2", GROUPED | SLIDING | {"residual_dropout": 0.1, "embedding_dropout": 0.1}),
    "OLMo": ("Olmo", GROUPED | {"clip_qkv": 2.0}),
    "OLMo-2": ("Olmo2", GROUPED | {"attention_dropout": 0.1}),
    "OLMoE": ("Olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "DeepSeek-V3": ("DeepseekV3", SHAPE | {
        "num_key_value_heads": 2, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 1, "n_shared_experts": 1}),
    "GPT-OSS": ("GptOss", HEADS | MIXED | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": {"rope_type": "default",
                                                                               "rope_theta": 10000.0}}),
    "SmolLM3": ("SmolLM3", GROUPED | {"no_rope_layers": [1, 0]}),
    "ERNIE-4.5": ("Ernie4_5", HEADS),
    "GLM-4": ("Glm4", HEADS | {"attention_dropout": 0.1}),
    "Helium": ("Helium", HEADS),
    "Nemotron": ("Nemotron", HEADS | {"attention_dropout": 0.1, "hidden_dropout": 0.1}),
    "MiniMax": ("MiniMax", HEADS | {"num_local_experts": 4, "layer_types": ["linear_attention", "full_attention"],
                                    "block_size": 8}),
    "Mamba": ("Mamba", MAMBA),
    "Mamba-2": ("Mamba2", MAMBA | MAMBA2),
    "Jamba": ("Jamba", GROUPED | {
        "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False}),
    "Falcon-H1": ("FalconH1", HEADS | {
        "mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 8,
        "mamba_chunk_size": 8, "lm_head_multiplier": 0.25}),
    "LFM-2": ("Lfm2", GROUPED | {"layer_types": ["conv", "full_attention"]}),
    "RWKV": ("Rwkv", {"hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64,
                      "intermediate_size": 128}),
    "RecurrentGemma": ("RecurrentGemma", HEADS | {
        "lru_width": 64, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"],
        "logits_soft_cap": 2.0}),
}  # fmt: skip


def build(name: str, seed: int = 0) -> Any:
    """The model, with weights that make each of its parts count."""
    import transformers

    kind, options = ARCHITECTURES[name]
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    config = getattr(transformers, f"{kind}Config")(**(tokens | options))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:  # zero and one by default, which would hide much
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        model.get_input_embeddings().weight.normal_(std=0.2)
    return model


def write(name: str, folder: Path) -> str:
    """A model folder with the embedded model's tokenizer."""
    build(name).save_pretrained(folder)
    load_tokenizer(str(EMBEDDED)).save_pretrained(folder)
    return str(folder)


def rows(seed: int = 0) -> list[TrainRow]:
    """Three prompts of different lengths, each with four completions of different lengths, two of them equal."""
    draw = torch.Generator().manual_seed(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, VOCABULARY, (n,), generator=draw).tolist())

    def row(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> TrainRow:
        return TrainRow(
            prompt_ids=prompt,
            token_ids=tokens,
            behaviour=(-4.0,) * len(tokens),
            temperature=TEMPERATURE,
            advantage=1.0,
            part="solver",
        )

    made = []
    for prompt in (ids(11), ids(3), ids(8)):
        made += [row(prompt, ids(n)) for n in (1, 7, 4)]
        made.append(made[-1])
    return made


def plain(model: Any, chosen: Sequence[TrainRow], dtype: Dtype) -> Tensor:
    """[tokens]: log-probs of the rows' completions, one sequence after the other through transformers' own forward."""
    found = []
    for row in chosen:
        ids = torch.tensor([row.prompt_ids + row.token_ids])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(row.token_ids) - 1 : -1]
        scores = (logits.float() / TEMPERATURE).log_softmax(-1)
        found.append(scores.gather(-1, torch.tensor(row.token_ids)[:, None])[:, 0])
    return torch.cat(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One line of the table. Differences of log-probs are in nats."""

    fp32: float = float("nan")  # the largest
    gradient: float = float("nan")  # length of the gradient, over that of plain transformers
    apart: float = float("nan")  # length of the two gradients' difference, over that of plain transformers
    bf16: float = float("nan")  # mean, both under autocast
    rounding: float = float("nan")  # mean, of plain transformers under autocast and in fp32
    shared: bool = True  # whether a prompt is run once for all of its completions
    refused: str = ""

    @property
    def agrees(self) -> bool:
        return self.fp32 <= AGREED and abs(self.gradient - 1) <= 1e-4


def compare(name: str, folder: Path, recompute: bool = False) -> Found:
    """The learner's log-probs and gradient beside those of plain transformers on the same rows."""
    path = write(name, folder)
    net = PolicyNet(
        path,
        dtype="float32",
        device=torch.device("cpu"),
        recompute=recompute,
        workers=Workers(),
    )
    try:
        require_agreement(net)
    except UserError as e:
        return Found(refused=str(e))
    reference = load_model(path).eval()
    reference.set_attn_implementation("eager")
    chosen = rows()
    batch = pack(chosen, range(len(chosen)))
    ours, theirs = net(batch)[0], plain(reference, chosen, "float32")
    weights = torch.linspace(-1, 1, len(ours))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    pairs = zip(net.model.parameters(), reference.parameters(), strict=True)
    got, expected = (
        torch.cat([g.reshape(-1) for g in side])
        for side in zip(*((_gradient(a), _gradient(b)) for a, b in pairs), strict=True)
    )
    net.dtype = "bfloat16"
    with torch.no_grad():
        rounded, plainly = net(batch)[0], plain(reference, chosen, "bfloat16")
    return Found(
        fp32=float((ours - theirs).detach().abs().max()),
        gradient=float(got.norm() / expected.norm()),
        apart=float((got - expected).norm() / expected.norm()),
        bf16=float((rounded - plainly).abs().mean()),
        rounding=float((plainly - theirs).abs().mean()),
        shared=net.shares_prompts,
    )


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def table(names: Sequence[str]) -> Iterator[str]:
    yield "| architecture | fp32, nats | gradient's length | gradients apart | bf16, nats | rounding | prompts | |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(name, Path(folder))
        verdict = "agrees" if found.agrees else f"refused: {found.refused}" if found.refused else "DIFFERS"
        prompts = "once" if found.shared else "each time"
        yield (
            f"| {name} | {found.fp32:.1e} | {found.gradient:.6f} | {found.apart:.1e} | {found.bf16:.4f} "
            f"| {found.rounding:.4f} | {prompts} | {verdict} |"
        )


def runs(names: Sequence[str]) -> Iterator[str]:
    """Of `azero train` with each engine: "ok", or exit status and last line."""
    yield "| architecture | engine | exit | lines | |"
    yield "|---|---|---|---|---|"
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = write(name, Path(folder) / "model")
            for engine in ("hf", "vllm"):
                settings = [*RUN, f"model.path={path}", f"run.dir={folder}/{engine}", f"rollout.engine={engine}"]
                run = subprocess.run(
                    [sys.executable, "-m", "cluster.cli", "train", "local", *settings],
                    capture_output=True,
                    text=True,
                )
                said = run.stderr.strip().splitlines() or [""]
                last = "ok" if run.returncode == 0 else said[-1].replace(folder, "")
                yield f"| {name} | {engine} | {run.returncode} | {len(said)} | {last} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parser.add_argument("--train", action="store_true", help="run `azero train` (a minute an architecture)")
    arguments = parser.parse_args()
    for line in (runs if arguments.train else table)(arguments.names or list(ARCHITECTURES)):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
