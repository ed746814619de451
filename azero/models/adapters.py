"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685, section 4.1) through peft: y = W x + alpha / rank * B (A x).

A tensor of an adapter is named by the layer it belongs to, "model.layers.0.mlp.up_proj.lora_A.weight", and A is
[rank, inputs], B [outputs, rank]. B begins at 0, so a new adapter changes nothing.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azero.config import AdapterConfig
from azero.errors import UserError, first_line
from azero.models.loading import load_model

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of a folder, as peft and vLLM know them
PREFIX = "base_model.model."  # of a tensor's name in such a folder


def add_adapters(model: Any, adapters: Mapping[str, AdapterConfig]) -> None:
    """Wrap the layers of a model, in place; its own weights no longer train. Raises UserError if none is a target.

    Every process that does this gets the same A.
    """
    import torch
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    for name, adapter in adapters.items():
        try:
            with torch.random.fork_rng(devices=()), warnings.catch_warnings(action="ignore"):  # of a second adapter
                torch.manual_seed(zlib.crc32(name.encode()))
                inject_adapter_in_model(_peft_config(adapter), model, name)
            if any("lora_embedding" in key for key, _ in model.named_parameters()):
                raise ValueError("an embedding is no linear layer")
            if hasattr(model.get_output_embeddings(), "lora_A"):
                raise ValueError("engines serve no adapter of the output head")
        except (ValueError, KeyError) as e:  # the second of a name that torch has for itself
            raise UserError(
                f"policies.{name}.adapter: no adapter fits {type(model).__name__} ({first_line(e)}); give "
                "adapter.targets=[...] with names of its linear layers, or adapter.rank=0"
            ) from e
    for name in adapters:
        for tensor in adapter_state(model, name).values():
            tensor.requires_grad_(True)


def _peft_config(adapter: AdapterConfig, base: str = "") -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=list(adapter.targets) or "all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base or None,
    )


def adapter_state(model: Any, name: str) -> dict[str, Tensor]:
    """The adapter's parameters by name."""
    mark = f".{name}.weight"
    return {
        key.removesuffix(mark) + ".weight": parameter
        for key, parameter in model.named_parameters()
        if key.endswith((f".lora_A{mark}", f".lora_B{mark}"))
    }


def wear(model: Any, name: str | None) -> None:
    """Have the model compute with one adapter; with None as if it had none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module._disable_adapters = name is None
            module._active_adapter = [] if name is None else [name]


def scaled(state: Mapping[str, Tensor], adapter: AdapterConfig) -> dict[str, Tensor]:
    """The tensors with alpha / rank multiplied into B: what travels, so that an engine has nothing to multiply."""
    factor = adapter.alpha / adapter.rank
    return {name: tensor * factor if ".lora_B." in name else tensor for name, tensor in state.items()}


def adapter_shapes(config: Any, adapters: Mapping[str, AdapterConfig]) -> dict[str, dict[str, tuple[int, ...]]]:
    """By adapter, name -> shape of each tensor on a model of this config. No memory is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        add_adapters(model, adapters)
    return {name: {k: tuple(t.shape) for k, t in adapter_state(model, name).items()} for name in adapters}


def write_adapter(folder: Path, state: Mapping[str, Tensor], adapter: AdapterConfig, base: str) -> None:
    """Write a folder that peft and vLLM load on top of the model `base`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = _peft_config(adapter, base)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({PREFIX + name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS)


def read_adapter(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix(PREFIX): tensor for name, tensor in load_file(folder / WEIGHTS).items()}


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on, as its folder names it."""
    return str(json.loads((folder / CONFIG).read_text())["base_model_name_or_path"])


def adapter_config(folder: Path) -> AdapterConfig:
    settings = json.loads((folder / CONFIG).read_text())
    named = settings["target_modules"]  # text such as "all-linear", or names
    targets = [] if isinstance(named, str) else sorted(named)
    return AdapterConfig(rank=settings["r"], alpha=settings["lora_alpha"], targets=targets)


def merged(folder: Path) -> Any:
    """The base of an adapter's folder with the adapter multiplied into its weights (weights.py: owned_state)."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base, name = base_of(folder), "merged"
    model = load_model(base)
    add_adapters(model, {name: adapter_config(folder)})
    found, state = read_adapter(folder), adapter_state(model, name)
    if found.keys() != state.keys():
        raise UserError(f"{folder}: its tensors are not those of an adapter on {base}; give the base that it is for")
    with torch.no_grad():
        for key, tensor in state.items():
            tensor.copy_(found[key])
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(adapter_names=[name])
    return model
