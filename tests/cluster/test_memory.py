"""The memory plan: sizes from a config.json, a guess where there is none, and the sum for each shape of policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from azero.config import load_config
from azero.errors import UserError
from azero.models.loading import EMBEDDED
from azero.policies import policies_of
from azero.types import Role
from cluster.commands.doctor import doctor
from cluster.supervise import memory
from cluster.supervise.memory import ModelShape, memory_of_shapes, plan, shape_of
from cluster.supervise.room import needs

QWEN_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shape_of.cache_clear()
    yield
    shape_of.cache_clear()


def of_7b(folder: Path) -> ModelShape:
    (folder / "config.json").write_text(json.dumps(QWEN_7B))
    found = shape_of(str(folder))
    assert found is not None
    return found


def test_sizes_are_those_of_the_config(tmp_path: Path) -> None:
    """The parameters of Qwen2.5-7B, which its card gives as 7.61 billion, 6.53 without embeddings."""
    shape = of_7b(tmp_path)
    assert shape.known_from == "its config.json"
    assert shape.parameters == pytest.approx(7.61e9, rel=0.01)
    assert shape.parameters - 2 * 152064 * 3584 == pytest.approx(6.53e9, rel=0.01)
    assert shape.keys == 4 * 128


def test_an_adapter_has_the_parameters_that_peft_gives_it() -> None:
    from math import prod

    from azero.config import AdapterConfig
    from azero.models.adapters import adapter_shapes
    from azero.models.loading import load_configs

    shape = shape_of(str(EMBEDDED))
    assert shape is not None
    made = adapter_shapes(load_configs(str(EMBEDDED))[0], {"solver": AdapterConfig(rank=16)})["solver"]
    assert shape.adapter(16) == sum(map(prod, made.values()))


def test_a_guess_says_that_it_is_one() -> None:
    for name, billions in (("Qwen/Qwen2-0.5B-Instruct", 0.494), ("a/b-3B", 3.09), ("who/7b", 7.61), ("x/Y-8B", 7.61)):
        shape = shape_of(name)
        assert shape is not None and shape.known_from.startswith("a guess from its name"), name
        assert shape.parameters == pytest.approx(billions * 1e9, rel=0.01)
    assert shape_of("who/knows") is None and shape_of("x/0b") is None and shape_of("x/Mixtral-8x7B") is None


@pytest.mark.parametrize("text", ["[]", "{", '{"hidden_size": 8}', '{"hidden_size": "wide"}'])
def test_a_config_that_is_none_is_no_reason_to_fail(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert shape_of(str(tmp_path)) is None


def test_each_shape_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, in bytes a parameter: fp32 weights 4, gradients 4 a role, moments 8, reference 4, published bf16 2."""
    n, found = of_7b(tmp_path).parameters, {}
    adapter = of_7b(tmp_path).adapter(16)
    for word in ("shared", "adapters", "separate"):
        config = load_config("journal", [f"policies={word}", f"model.path={tmp_path}", "learner.keep_every=0"])
        found[word] = plan(config, policies_of(config), {str(tmp_path.resolve()): of_7b(tmp_path)})
    shared, adapters, separate = (found[w].learner for w in found)
    names = ("weights", "gradients", "moments", "reference")
    assert [shared[name] for name in names] == [4 * n, 8 * n, 8 * n, 4 * n]
    assert [separate[name] for name in names] == [8 * n, 4 * n, 16 * n, 8 * n]
    assert [adapters[name] for name in names] == [4 * n, 4 * adapter, 16 * adapter, 0]
    assert adapters["adapters"] == 8 * adapter and adapters["published bytes"] == 2 * (n + 2 * adapter)
    assert found["adapters"].actor["weights"] == 2 * n and found["separate"].actor["weights"] == 4 * n
    assert found["adapters"].store["published versions"] == 2 * n + 3 * 2 * 2 * adapter  # the base lies there once
    frozen = load_config("journal", ["policies=separate", "policies.proposer.trains=false", f"model.path={tmp_path}"])
    one = plan(frozen, policies_of(frozen), {str(tmp_path.resolve()): of_7b(tmp_path)})
    assert (one.learner["moments"], one.learner["reference"]) == (8 * n, 4 * n)
    assert list(one.store.values()) == [2 * (3 * n + n), 4 * 2 * n + 8 * n]  # the frozen one travels once
    mixed = load_config("journal", ["policies=separate", "policies.proposer.adapter.rank=16", f"model.path={tmp_path}"])
    both = plan(mixed, policies_of(mixed), {str(tmp_path.resolve()): of_7b(tmp_path)})
    assert both.store["published versions"] == 2 * (3 * (n + adapter) + n)


def test_needs_and_doctor_show_it() -> None:
    config = load_config("local", ["policies=adapters"])
    rows = dict(needs(config, policies_of(config)))
    assert "adapter of rank 16" in rows["policies"] and "adapters" in rows["memory, learner"]
    assert [word for word, _ in memory_of_shapes(config)] == ["shared", "adapters", "separate"]
    assert sum(check.name.startswith("memory, policies=") for check in doctor(config="local")) == 3


def test_actors_of_one_role_hold_one_model(tmp_path: Path) -> None:
    n = of_7b(tmp_path).parameters
    given = ["policies=separate", "rollout.actors=4", "rollout.roles.proposer=1", "rollout.roles.solver=3"]
    config = load_config("journal", [*given, f"model.path={tmp_path}", "policies.proposer.adapter.rank=16"])
    policies, shapes = policies_of(config), {str(tmp_path.resolve()): of_7b(tmp_path)}
    held = [plan(config, policies, shapes, roles=(role,)).actor for role in Role]
    assert [actor["weights"] for actor in held] == [2 * n, 2 * n]
    assert [actor["adapters"] for actor in held] == [2 * of_7b(tmp_path).adapter(16), 0]
    assert plan(config, policies, shapes).actor["weights"] == 4 * n
    rows = dict(needs(config, policies))
    assert rows["rollout actors"] == "4: 1 of the proposer, 3 of the solver"
    assert "adapters" in rows["memory, each actor of the proposer"]
    assert "adapters" not in rows["memory, each actor of the solver"] and "memory, each actor" not in rows
    found = dict(memory_of_shapes(config))
    assert "each actor of the solver" in found["separate"] and "each actor of" not in found["shared"]


def test_the_plan_of_a_gpu_says_whether_it_fits() -> None:
    config = load_config("journal", ["model.path=Qwen/Qwen2.5-7B", "policies=shared"])
    rows = dict(needs(config, policies_of(config, lambda name: name)))
    assert "learner does not fit" in rows["on GPUs"] and "actor fits on a GPU of 80 GB" in rows["on GPUs"]
    fits = load_config("journal", ["policies=adapters"])
    assert "learner fits" in dict(needs(fits, policies_of(fits, lambda name: name)))["on GPUs"]


def test_a_broken_file_of_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(UserError, match="is no safetensors file"):
        memory.count_parameters(tmp_path)
