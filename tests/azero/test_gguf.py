"""GGUF files, read by transformers from one that this test writes with the `gguf` package."""

import importlib.util
import json

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import azero.models.gguf as under_test
from azero.errors import UserError
from azero.models.gguf import converted
from azero.models.loading import resolve_model_path
from benchmarks.real_model import packaged

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def tiny_llama(seed):
    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=258, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=128, **shape
        )
    )


def permuted(weight, heads):
    """Rows of the query and key projections in the order that llama.cpp's rotary embedding wants."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, model):
    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<|end|>", *byte_characters(), "ab"])
    writer.add_token_types([3, *[1] * 257])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(c.num_hidden_layers):
        for theirs, ours in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            weight = permuted(weight, heads[ours]) if ours in heads else weight
            writer.add_tensor(f"blk.{layer}.{ours}.weight", weight.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "azero"


def test_the_folder_holds_the_same_model_and_tokenizer(tmp_path, cache, monkeypatch):
    file, source = tmp_path / "tiny.gguf", tiny_llama(0)
    write_gguf(file, source)
    folder = converted(file)
    assert folder.parent == cache and folder.name.startswith("tiny-")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Calculate: 12 + 7 = \nab", return_tensors="pt").input_ids
    assert ids.shape[1] == 22 and tokenizer.decode(ids[0]) == "Calculate: 12 + 7 = \nab"  # "ab" is one token
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, source.eval()(ids).logits, rtol=0, atol=1e-5)
    assert tokenizer.chat_template == TEMPLATE and model.generation_config.eos_token_id == 0

    monkeypatch.setattr(under_test, "_convert", lambda *_: pytest.fail("converted a second time"))
    assert converted(file) == folder and resolve_model_path(str(file)) == str(folder)


def test_a_file_of_the_same_name_with_other_weights_gets_a_folder_of_its_own(tmp_path, cache):
    (tmp_path / "other").mkdir()
    write_gguf(tmp_path / "tiny.gguf", tiny_llama(0))
    write_gguf(tmp_path / "other" / "tiny.gguf", tiny_llama(1))
    assert converted(tmp_path / "tiny.gguf") != converted(tmp_path / "other" / "tiny.gguf")


def test_a_broken_file_is_one_line_and_leaves_nothing(tmp_path, cache):
    file = tmp_path / "broken.gguf"
    write_gguf(tmp_path / "whole.gguf", tiny_llama(0))
    whole = (tmp_path / "whole.gguf").read_bytes()
    for broken in (b"GGUF" + bytes(64), whole[:200], whole[:-1000]):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"broken.gguf: not loadable") as error:
            converted(file)
        assert "\n" not in str(error.value) and not list(cache.iterdir())


def test_what_is_missing_is_named(tmp_path, cache, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        resolve_model_path(str(tmp_path / "none.gguf"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(UserError, match=r"needs gguf; install azero\[gguf\]"):
        converted(tmp_path / "x.gguf")


def test_a_file_in_an_installed_package_is_found():
    assert packaged("azero/base_model/config.json").is_file()
    for name in ("azero/none.gguf", "no_such_package/x.gguf"):
        with pytest.raises(UserError, match="no such file in an installed package"):
            packaged(name)
