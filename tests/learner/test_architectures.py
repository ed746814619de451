"""Many architectures, tiny and random: the learner is plain transformers, or says at start that it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM

from azero.config import Dtype
from azero.errors import UserError
from benchmarks.architectures import ARCHITECTURES, Found, compare, write
from learner.agreement import require_agreement
from learner.net import PolicyNet
from learner.workers import Workers

REFUSED = {"RWKV", "RecurrentGemma"}  # neither leaves out the padding before a prompt
EACH_TIME = {"Qwen3-Next", "MiniMax", "Mamba", "Mamba-2", "Jamba"}  # their states cannot serve several completions

# Nats. On an idle machine all are under 1e-5; on a busy one fewer threads share a sum, and it rounds otherwise: 1.1e-5
# was seen (Qwen3-Next, whose linear attention adds up over the whole sequence).
FP32 = 2e-5


def net(path: str, dtype: Dtype = "float32") -> PolicyNet:
    return PolicyNet(path, dtype=dtype, device=torch.device("cpu"), recompute=False, workers=Workers())


def agrees(found: Found, shared: bool = True) -> None:
    assert found.refused == ""
    assert found.fp32 <= FP32 and found.gradient == pytest.approx(1, abs=1e-4) and found.apart <= 1e-4
    assert found.bf16 <= 0.02 + 2 * found.rounding
    assert found.shared is shared


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - REFUSED))
def test_the_learner_is_plain_transformers(name: str, tmp_path: Path) -> None:
    agrees(compare(name, tmp_path), name not in EACH_TIME)


@pytest.mark.parametrize("name", ["Gemma-2", "GPT-2", "Granite", "Falcon-H1"])
def test_it_is_so_where_layers_are_recomputed(name: str, tmp_path: Path) -> None:
    agrees(compare(name, tmp_path, recompute=True), shared=False)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_architecture_that_disagrees_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    line = compare(name, tmp_path).refused
    assert f"cannot train {type(net(str(tmp_path)).model).__name__}: its log-probs in fp32 differ" in line
    assert "nats (allowed: " in line and "another architecture" in line and "\n" not in line


def test_one_that_fails_is_refused_in_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = net(write("Gemma-2", tmp_path))
    inside = Gemma2ForCausalLM.forward

    def forward(self, *args, attention_mask=None, **options):  # type: ignore[no-untyped-def]
        assert attention_mask is None, "no masks\nhere"
        return inside(self, *args, **options)

    monkeypatch.setattr(Gemma2ForCausalLM, "forward", forward)
    with pytest.raises(UserError, match=r"a batch of prompts and completions fails \(AssertionError: no masks\)") as e:
        require_agreement(made)
    assert "\n" not in str(e.value)


def test_a_gradient_that_is_lost_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = net(write("Qwen2", tmp_path))
    inside = PolicyNet._run

    def detached(self, *args, **options):  # type: ignore[no-untyped-def]
        out = inside(self, *args, **options)
        for layer in out.past_key_values.layers if out.past_key_values else ():
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return out

    monkeypatch.setattr(PolicyNet, "_run", detached)
    require_agreement(made)
    assert not made.shares_prompts  # which needs no cache, and is right
    monkeypatch.setattr(PolicyNet, "shares_prompts", property(lambda _: True, lambda *_: None), raising=False)
    with pytest.raises(UserError, match=r"its gradient in fp32 is 0\.\d+ times as long"):
        require_agreement(made)


@pytest.mark.parametrize("name", ["Gemma-2", "RecurrentGemma", "Qwen2"])
def test_attention_is_one_that_keeps_a_soft_cap(name: str, tmp_path: Path) -> None:
    from azero.models.loading import load_model

    capped = name == "Gemma-2"
    assert (load_model(write(name, tmp_path)).config._attn_implementation == "eager") >= capped
