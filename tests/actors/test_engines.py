"""Both engines against transformers' own forward pass, and against each other. Log-probs agree within 1e-4 nats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import at, generate, publication

from actors import vllm_worker
from actors.engines import build_engine
from actors.proof import SyncProof
from azero.config import ModelConfig, RolloutConfig
from azero.errors import SyncError, UserError
from azero.models.loading import load_tokenizer
from azero.models.weights import digest, flatten, owned_state, unflatten
from azero.types import SHARED, Completion, ProbeSet, Sampling

CLOSE = 1e-4  # nats
PROMPTS = ("3 + 5 = ", "a", "Write a problem:\n12 - 7\n9 * 8\n", "ab ab  ab")
FREE = Sampling(temperature=0.7, max_new_tokens=12)


def prompt_ids(engine: Any) -> list[tuple[int, ...]]:
    return [engine.encode(p) for p in PROMPTS]


def flat(groups: Sequence[Sequence[Completion]]) -> list[Completion]:
    return [c for group in groups for c in group]


@torch.no_grad()
def reference_logprobs(model: Any, ids: Sequence[int], temperature: float = 1.0) -> list[float]:
    """Of tokens 1.. ."""
    tensor = torch.tensor([list(ids)])
    logits = model(input_ids=tensor).logits[0, :-1] / temperature
    return logits.log_softmax(-1).gather(-1, tensor[0, 1:, None])[:, 0].tolist()


def gap(model: Any, completions: Sequence[Completion], temperature: float) -> float:
    """Largest |engine - transformers| of the sampled tokens' log-probs, in nats."""
    gaps = []
    for c in completions:
        expected = reference_logprobs(model, c.prompt_ids + c.token_ids, temperature)[len(c.prompt_ids) - 1 :]
        gaps += [abs(a - b) for a, b in zip(c.logprobs, expected, strict=True)]
    return max(gaps)


def score_gap(engine: Any, model: Any, sequences: Sequence[Sequence[int]]) -> float:
    pairs = zip(engine.score(sequences), (reference_logprobs(model, s) for s in sequences), strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


def random_sequences(count: int, length: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(2, 99, size=length).tolist()) for _ in range(count)]


def moved(model: Any, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """Change every weight of the model in place; its state."""
    torch.manual_seed(1)
    state = owned_state(model)
    for tensor in state.values():
        tensor.add_(scale * torch.randn_like(tensor))
    return state


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.5])
def test_logprobs_of_samples_are_those_of_the_softmax_that_was_sampled(
    engine: Any, model: Any, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, max_new_tokens=12)
    completions = flat(generate(engine, prompt_ids(engine), 4, sampling))
    assert len(completions) == 16
    assert gap(model, completions, temperature or 1.0) <= CLOSE


def test_greedy_and_sampled_requests_may_share_a_batch(engine: Any, model: Any) -> None:
    samplings = {
        "cold": Sampling(temperature=0.0, max_new_tokens=8),
        "hot": Sampling(temperature=1.3, max_new_tokens=8),
    }
    for name, sampling in samplings.items():
        for i, prompt in enumerate(prompt_ids(engine)):
            engine.submit((name, i), prompt, 2, sampling)
    found: dict[Any, Any] = {}
    while engine.busy():
        found.update(engine.step())
    assert len(found) == 2 * len(PROMPTS)
    for (name, i), completions in found.items():
        assert completions[0].prompt_ids == engine.encode(PROMPTS[i])
        assert gap(model, completions, samplings[name].temperature or 1.0) <= CLOSE
        assert (completions[0] == completions[1]) >= (name == "cold")


def test_score_is_that_of_transformers_at_temperature_one(engine: Any, model: Any) -> None:
    sequences = [*random_sequences(3, 40), *random_sequences(2, 2), *random_sequences(1, 300)]
    assert score_gap(engine, model, sequences) <= CLOSE
    with pytest.raises(ValueError, match="two tokens"):
        engine.score([(5,)])


@pytest.mark.slow
def test_greedy_is_the_same_in_both_engines(vllm_engine: Any, hf_engine: Any) -> None:
    sampling = Sampling(temperature=0.0, max_new_tokens=40, stop=("7",))
    one, other = (flat(generate(e, prompt_ids(e), 1, sampling)) for e in (vllm_engine, hf_engine))
    for a, b in zip(one, other, strict=True):
        assert (a.token_ids, a.text, a.finish_reason, a.version) == (b.token_ids, b.text, b.finish_reason, b.version)


def test_ids_hold_the_stop_and_text_does_not(engine: Any) -> None:
    """One token of the vocabulary is `ab`, so the stop string `a` can end in the middle of a token."""
    tokenizer, seen = engine.tokenizer, set()
    sampling = Sampling(temperature=2.0, max_new_tokens=24, stop=("a", "1", "= "))
    for c in flat(generate(engine, prompt_ids(engine), 64, sampling)):
        assert len(c.token_ids) == len(c.logprobs) <= 24
        whole, last = tokenizer.decode(c.token_ids, skip_special_tokens=True), tokenizer.decode(c.token_ids[-1:])
        before = tokenizer.decode(c.token_ids[:-1], skip_special_tokens=True)
        assert not any(s in before for s in sampling.stop)
        if c.token_ids[-1] in engine.eos_ids:
            assert c.finish_reason == "stop" and c.text == whole
            seen.add("eos")
        elif any(s in whole for s in sampling.stop):
            assert c.finish_reason == "stop"
            assert whole.startswith(c.text) and whole[len(c.text) :].startswith(sampling.stop)
            seen.add(last)
        else:
            assert c.finish_reason == "length" and len(c.token_ids) == 24 and c.text == whole
            seen.add("length")
    assert {"eos", "a", "ab", "1", "length"} <= seen


def test_a_stop_on_the_last_allowed_token_is_a_stop(engine: Any) -> None:
    completions = flat(
        generate(engine, [engine.encode("a")], 600, Sampling(temperature=2.0, max_new_tokens=1, stop=("b",)))
    )
    stopped = [c for c in completions if c.finish_reason == "stop" and c.token_ids[0] not in engine.eos_ids]
    assert {engine.tokenizer.decode(c.token_ids): c.text for c in stopped} == {"b": "", "ab": "a"}


def test_more_samples_than_fit_at_once(engine: Any, model: Any) -> None:
    groups = generate(engine, prompt_ids(engine), 40, FREE)  # 160 samples, 32 at once
    assert [len(g) for g in groups] == [40] * len(PROMPTS)
    for group, prompt in zip(groups, prompt_ids(engine), strict=True):
        assert {c.prompt_ids for c in group} == {prompt}
        assert len({c.token_ids for c in group}) > 20
    assert gap(model, flat(groups)[::8], FREE.temperature) <= CLOSE


def test_samples_follow_the_distribution(engine: Any, model: Any) -> None:
    """First tokens of 4,000 samples against the softmax: total variation within what chance allows."""
    prompt, n = engine.encode("3 + 5 = "), 4000
    (group,) = generate(engine, [prompt], n, Sampling(temperature=1.0, max_new_tokens=1))
    counts = np.bincount([c.token_ids[0] for c in group], minlength=99)
    expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    noise = np.sqrt(expected * (1 - expected) / n).sum()  # about 1.25 times the expected sum of absolute deviations
    assert np.abs(counts / n - expected).sum() <= 1.25 * noise


def test_a_seed_fixes_all_later_samples(engine: Any) -> None:
    def play() -> list[Completion]:
        return flat(
            [*generate(engine, prompt_ids(engine), 4, FREE), *generate(engine, prompt_ids(engine)[::-1], 3, FREE)]
        )

    engine.reseed(7)
    first, second = play(), play()
    engine.reseed(7)
    assert play() == first != second
    engine.reseed(2**63 - 1)
    assert play() not in (first, second)


def test_finished_requests_come_back_in_the_order_of_submission(engine: Any) -> None:
    for i in range(20):
        engine.submit(("tag", i), engine.encode("x" * (20 - i)), 1 + i % 3, Sampling(temperature=1.0, max_new_tokens=3))
    while engine.busy():
        tags = [i for (_, i), completions in engine.step() if len(completions) == 1 + i % 3]
        assert tags == sorted(tags)


def test_nothing_may_be_in_flight_when_the_engine_changes(engine: Any, model: Any) -> None:
    engine.submit("x", engine.encode("1"), 1, FREE)
    for change in (
        lambda: engine.load(at(1), owned_state(model)),
        lambda: engine.reseed(1),
        lambda: engine.score([(1, 2)]),
    ):
        with pytest.raises(RuntimeError, match="in flight"):
            change()
    while engine.busy():
        engine.step()


def test_engines_follow_every_tensor(engine: Any, model: Any) -> None:
    """Each weight in turn is changed for good; the embedding is the tied head too."""
    sequences = random_sequences(4, 24)
    state, gaps = owned_state(model), {}
    assert len(state) == 26 and "lm_head.weight" not in state
    before = engine.score(sequences)
    for version, (name, tensor) in enumerate(state.items(), start=1):
        tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(version)))
        engine.load(at(version), state)
        after = engine.score(sequences)
        change = max(abs(a - b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
        gaps[name] = score_gap(engine, model, sequences)
        assert change > 1e-3 and gaps[name] <= CLOSE, (name, change, gaps[name])
        before = after
    assert gap(model, flat(generate(engine, prompt_ids(engine), 2, FREE)), FREE.temperature) <= CLOSE


def test_loaded_weights_are_copies_and_numpy_will_do(engine: Any, model: Any) -> None:
    buffer, manifest = flatten(moved(model), torch.float32)
    shared = buffer.view()
    shared.flags.writeable = False  # as Ray's shared memory
    engine.load(at(1), unflatten(shared, manifest, "float32"))
    sequences = random_sequences(2, 20)
    first = engine.score(sequences)
    buffer[:] = 0
    assert engine.score(sequences) == first
    engine.load(at(2), {name: tensor.numpy() for name, tensor in owned_state(model).items()})
    assert engine.score(sequences) == first


def test_every_completion_carries_the_version_of_its_weights(engine: Any, model: Any) -> None:
    for version in (0, 5, 6):
        engine.load(at(version), moved(model))
        assert engine.version == at(version)
        assert {c.version for c in flat(generate(engine, prompt_ids(engine), 2, FREE))} == {version}


def test_weights_that_do_not_fit_are_refused_and_change_nothing(engine: Any, model: Any) -> None:
    sequences, state = random_sequences(1, 20), dict(owned_state(model))
    before = engine.score(sequences)
    name = "model.layers.1.mlp.up_proj.weight"
    wrong = {
        r"1 missing \(model.layers.1.mlp.up_proj.weight\)": {k: v for k, v in state.items() if k != name},
        r"1 unknown \(lm_head.weight\)": state | {"lm_head.weight": state["model.embed_tokens.weight"]},
        r"has shape \(64, 128\), not \(128, 64\)": state | {name: state[name].T},
    }
    for message, weights in wrong.items():
        with pytest.raises(SyncError, match=message):
            engine.load(at(3), weights)
    assert engine.version == at(0) and engine.score(sequences) == before


def long_prompts(engine: Any) -> list[tuple[int, ...]]:
    """A shared beginning of 280 tokens, longer than two blocks of vLLM's cache on CPU (128 tokens each)."""
    shared = random_sequences(1, 280, seed=9)[0]
    return [shared + tail for tail in random_sequences(3, 4, seed=10)]


def test_no_sample_uses_cached_prefixes_of_old_weights(engine: Any, model: Any) -> None:
    prompts = long_prompts(engine)
    for version in (1, 2):
        state = moved(model)
        engine.load(at(version), state)
        for _ in range(2):
            completions = flat(generate(engine, prompts, 2, FREE))
            assert gap(model, completions, FREE.temperature) <= CLOSE


@pytest.mark.slow
def test_without_the_reset_a_stale_prefix_would_be_used(
    vllm_engine: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above does hit the cache."""
    prompts = long_prompts(vllm_engine)
    generate(vllm_engine, prompts, 2, FREE)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_engine, "_reset_prefix_cache", lambda: None)
        vllm_engine.load(at(1), moved(model))
        assert gap(model, flat(generate(vllm_engine, prompts, 2, FREE)), FREE.temperature) > 0.01
        assert score_gap(vllm_engine, model, prompts) <= CLOSE  # scoring is blind to it
    vllm_engine.reseed(0)
    assert gap(model, flat(generate(vllm_engine, prompts, 2, FREE)), FREE.temperature) <= CLOSE


@pytest.mark.slow
def test_the_proof_sees_a_tied_head_that_kept_its_old_weights(
    vllm_engine: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = tuple(random_sequences(4, 24))

    def prove(version: int, state: Any) -> float:
        logprobs = tuple(tuple(reference_logprobs(model, s)) for s in sequences)
        probes = ProbeSet(sequences=sequences, logprobs=logprobs, digests={n: digest(t) for n, t in state.items()})
        published_as = publication(version, "float32")
        load = partial(vllm_engine.load, at(version), state)
        return proof.load_and_prove(vllm_engine, published_as, load, lambda: {SHARED: probes}).gap_max

    proof = SyncProof(CLOSE)
    state = moved(model)
    assert prove(1, state) <= CLOSE
    state = moved(model)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_worker, "refresh_head", lambda model: None)
        with pytest.raises(SyncError, match=r"version 2: 1 of 26 tensors .*: model.embed_tokens.weight$"):
            prove(2, state)
    assert vllm_engine.version is None
    assert prove(2, state) <= CLOSE


@pytest.mark.slow
def test_vllm_refuses_what_it_would_cut_short(vllm_engine: Any) -> None:
    with pytest.raises(UserError, match=r"rollout.max_model_len=320: a prompt of 310 tokens and 12 new ones need 322"):
        vllm_engine.submit("x", (5,) * 310, 1, FREE)
    for temperature in (0.001, 2.5):
        with pytest.raises(UserError, match=rf"temperature {temperature}: vLLM allows 0 \(greedy\), or 0.01 to 2"):
            vllm_engine.submit("x", (5,), 1, Sampling(temperature=temperature, max_new_tokens=1))
    assert not vllm_engine.busy()


@pytest.mark.slow
def test_vllm_leaves_the_process_its_thread_count(vllm_engine: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    changed = torch.get_num_threads()
    torch.set_num_threads(before)
    assert changed == before + 1


def test_spaces_survive_saving_and_auto_tokenizer(tmp_path: Path) -> None:
    """AutoTokenizer rebuilds the pre-tokenizer of a `qwen2` model: a character tokenizer would lose its spaces here."""
    from benchmarks.pretraining import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    build_model(len(tokenizer), seed=0, width=128, layers=4).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    for text in ("12 + 34 = ", "  two  spaces \n\n and (3 - -5) * 2.5\n ", " ", "".join(map(chr, range(32, 127)))):
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids and len(ids) == len(text)
        assert again.decode(ids) == tokenizer.decode(ids) == text


def test_a_chat_template_is_asked_for_or_missed(hf_engine: Any) -> None:
    with pytest.raises(UserError, match=r"no chat template; use task.protocol=raw"):
        hf_engine.chat_template("hello")
    hf_engine.tokenizer.chat_template = "{% for m in messages %}<|end|>{{ m.content }}\n{% endfor %}"
    hf_engine.tokenizer.bos_token = "<|end|>"
    assert hf_engine.encode(hf_engine.chat_template("ab")) == (
        0,
        hf_engine.encode("ab")[-1],
        hf_engine.encode("\n")[-1],
    )


def test_build_engine_gives_the_configured_one(tiny_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build_engine(ModelConfig(path=tiny_path), RolloutConfig(engine="hf"), seed=3)
    assert type(engine).__name__ == "HfEngine" and engine.version is None
    first = generate(engine, [(5, 6)], 2, FREE)
    engine.reseed(3)
    assert generate(engine, [(5, 6)], 2, FREE) == first
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"vllm is not installed; install azero\[cpu\] or azero\[gpu\], or use rollout.engine=hf"
    ):
        build_engine(ModelConfig(path=tiny_path), RolloutConfig(engine="vllm"), seed=3)
