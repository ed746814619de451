"""What transformers would load with a warning, and fill with noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from azero.errors import UserError
from azero.models.loading import EMBEDDED, generation_file, load_model

Weights = dict[str, Tensor]


def variant(folder: Path, change: Callable[[Weights], Weights], **config: object) -> str:
    """The embedded model with other tensors in its file, or another config."""
    copytree(EMBEDDED, folder, dirs_exist_ok=True)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(written))
    return str(folder)


def same(weights: Weights) -> Weights:
    return weights


def with_one(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.zeros(shape)}


BROKEN = {
    "compiled": (lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}, {}, ["lack 51 weights (lm_head.weight, "]),
    "parallel": (lambda w: {f"module.{k}": v for k, v in w.items()}, {}, ["hold 50 weights (module.model.embed_tok"]),
    "a layer less": (lambda w: {k: v for k, v in w.items() if ".2." not in k}, {},
                     ["lack 12 weights (model.layers.2."]),
    "one tensor less": (lambda w: {k: v for k, v in w.items() if k != "model.norm.weight"}, {},
                        ["they lack 1 weight (model.norm.weight); give"]),
    "no head": (same, {"tie_word_embeddings": False}, ["they lack 1 weight (lm_head.weight); give"]),
    "a layer more": (same, {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
                     ["hold without a place in the model 12 weights (model.layers.3."]),
    "a bias more": (with_one("model.layers.0.self_attn.o_proj.bias", 128), {},
                    ["without a place in the model 1 weight (model.layers.0.self_attn.o_proj.bias)"]),
    "another shape": (with_one("model.norm.weight", 64), {}, ["hold in another shape 1 weight (model.norm.weight)"]),
    "another width": (same, {"intermediate_size": 256}, ["hold in another shape 12 weights ("]),
    "an adapter": (lambda w: {k.replace("q_proj", "q_proj.base_layer"): v for k, v in w.items()}, {},
                   ["lack 8 weights (", "q_proj.base_layer"]),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", BROKEN)
def test_weights_that_would_be_random_are_refused_with_their_names(name: str, device: str, tmp_path: Path) -> None:
    change, config, said = BROKEN[name]
    path = variant(tmp_path, change, **config)
    with pytest.raises(UserError, match="its files do not fit Qwen2ForCausalLM") as e:
        load_model(path, device=device)
    assert "\n" not in str(e.value) and all(s in str(e.value) for s in said), str(e.value)


@pytest.mark.parametrize(
    "change",
    [
        same,
        with_one("model.layers.0.self_attn.rotary_emb.inv_freq", 16),
        with_one("v_head.summary.weight", 1, 128),
        with_one("mtp.layers.0.mlp.up_proj.weight", 2, 2),
    ],
)
def test_a_whole_model_passes(change: Callable[[Weights], Weights], tmp_path: Path) -> None:
    model = load_model(variant(tmp_path, change))
    assert torch.equal(model.lm_head.weight, load_file(EMBEDDED / "model.safetensors")["model.embed_tokens.weight"])


def test_engines_refuse_them_before_they_load(tmp_path: Path) -> None:
    from actors.base import ModelEngine

    path = variant(tmp_path, BROKEN["a layer less"][0])
    with pytest.raises(UserError, match="lack 12 weights"):
        ModelEngine.__init__(object.__new__(type("Some", (ModelEngine,), {"__abstractmethods__": frozenset()})), path)


def test_a_generation_config_is_read_as_it_is(tmp_path: Path) -> None:
    assert generation_file(str(tmp_path)) is None
    (tmp_path / "generation_config.json").write_bytes(b'{ "temperature": 0.6 }')
    assert generation_file(str(tmp_path)) == b'{ "temperature": 0.6 }'
