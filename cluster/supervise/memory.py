"""What a run holds in memory, part by part, from config files alone: no process is started and no weight is read.

Weights, gradients and moments of the learner are fp32, as its master weights are; engines have `model.dtype`.
Activations are an upper estimate: a layer keeps 34 h bytes a token in 16 bits (Korthikanti et al., arXiv 2205.05198,
eq. 1, without the attention matrix), and logits and their gradients three fp32 numbers a token and word.
"""

from __future__ import annotations

import json
import math
import os
import re
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from azero.config import BASE, SHAPES, Config, PolicyConfig
from azero.errors import UserError
from azero.models.gguf import is_gguf
from azero.models.loading import resolve_model_path
from azero.policies import Policies, Policy, policies_of
from azero.types import ROLES, Role
from cluster.records import machine

MIB, GIB = 1024**2, 1024**3
PUBLISHED = "published bytes"  # in the host's memory
ASKED_S = 3.0  # how long the Hub is waited for
GPU_BYTES = 80 * 10**9  # of a GPU where none is seen
SIZES = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size"),
)
FAMILY = {  # Qwen2.5 by billions of parameters: SIZES
    0.5: (24, 896, 4864, 14, 2, 64, 151936),
    1.5: (28, 1536, 8960, 12, 2, 128, 151936),
    3.0: (36, 2048, 11008, 16, 2, 128, 151936),
    7.0: (28, 3584, 18944, 28, 4, 128, 152064),
    14.0: (48, 5120, 13824, 40, 8, 128, 152064),
    32.0: (64, 5120, 27648, 40, 8, 128, 152064),
    72.0: (80, 8192, 29568, 64, 8, 128, 152064),
}
TIED = 3.0  # billions, up to which the head is the embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder that memory depends on."""

    parameters: int
    layers: int
    hidden: int
    feed_forward: int
    queries: int  # width of all heads
    keys: int  # width of all key-value heads
    vocabulary: int
    known_from: str  # for a person

    def adapter(self, rank: int) -> int:
        """Parameters of an adapter on every linear layer."""
        h, f, q, k = self.hidden, self.feed_forward, self.queries, self.keys
        return self.layers * rank * ((h + q) + 2 * (h + k) + (q + h) + 3 * (h + f))


@lru_cache
def shape_of(model: str) -> ModelShape | None:
    """The shape of a folder's or Hub id's model; if its config.json cannot be had, a guess from its name, or None."""
    config, known_from = _config_of(model), "its config.json"
    if not config:
        billions = re.search(r"(?<![\dx.])(\d+(?:\.\d+)?)[bB]\b", model)
        if not billions or not float(billions[1]):
            return None
        size = min(FAMILY, key=lambda known: abs(math.log(known / float(billions[1]))))
        config = dict(zip(SIZES, FAMILY[size]), tie_word_embeddings=size <= TIED)
        known_from = f"a guess from its name, as of Qwen2.5 {size:g}B"
    layers, hidden, feed_forward, heads = (config[key] for key in SIZES[:4])
    head, vocabulary = config.get("head_dim") or hidden // heads, config["vocab_size"]
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    blocks = layers * (hidden * (2 * queries + 2 * keys) + 3 * hidden * feed_forward)
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings", True) else 2)
    return ModelShape(
        parameters=count_parameters(Path(model)) or blocks + embeddings,
        layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        queries=queries,
        keys=keys,
        vocabulary=vocabulary,
        known_from=known_from,
    )


def _config_of(model: str) -> dict[str, Any]:
    """The config.json of a folder, of the Hub's cache or of the Hub; empty where none of them gives a usable one."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    text = ""
    try:
        if Path(model).is_dir():
            text = (Path(model) / "config.json").read_text(encoding="utf-8")
        elif isinstance(cached := try_to_load_from_cache(model, "config.json"), str):
            text = Path(cached).read_text(encoding="utf-8")
        elif not os.environ.get("HF_HUB_OFFLINE"):
            with urllib.request.urlopen(hf_hub_url(model, "config.json"), timeout=ASKED_S) as answer:
                text = answer.read().decode()
        config = json.loads(text)
    except (OSError, ValueError):  # HTTP errors and an id that is none are of these
        return {}
    needed = set(SIZES) - {"num_key_value_heads", "head_dim"}
    return config if isinstance(config, dict) and all(isinstance(config.get(k), int) for k in needed) else {}


def count_parameters(folder: Path) -> int | None:
    """Count them from the headers of a folder's safetensors files; None if there are none. Raises UserError."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in folder.glob("*.safetensors") if folder.is_dir() else ():
        try:
            with safe_open(file, framework="numpy") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.offset_keys())
        except SafetensorError:
            raise UserError(f"{file}: is no safetensors file, or a part of one; download it again") from None
    return total or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bytes by what they are for: of one worker of the learner, of one actor, and of Ray's object store."""

    learner: dict[str, int]
    actor: dict[str, int]
    store: dict[str, int]
    note: str  # of what the tokens of the KV cache are enough for


def plan(
    config: Config,
    policies: Policies,
    shapes: Mapping[str, ModelShape],
    gpu_bytes: int = GPU_BYTES,
    roles: Collection[Role] = ROLES,
) -> Plan:
    """`shapes`: by the model of a policy. `gpu_bytes`: of the GPU of an actor, if it has one. `roles`: of the actor.

    Of a worker of the learner all is fp32, except for what it publishes and for activations.
    """
    learner, width = config.learner, 4 if config.model.dtype == "float32" else 2
    nets = {name: shapes[players[0].model] for name, players in policies.nets.items()}
    whole = sum(net.parameters for net in nets.values())
    adapters = sum(_adapter(p, shapes) for p in policies.all)
    own = {p.name: _adapter(p, shapes) or shapes[p.model].parameters for p in policies.all}
    trains = [p for p in policies.all if p.trains]
    trained = sum(own[p.name] for p in trains)
    referred = sum(own[p.name] for p in trains if not p.adapter) if config.algorithm.kl_beta > 0 else 0
    of_worker = {
        "weights": 4 * whole // learner.workers,
        "adapters": 4 * adapters // learner.workers,
        # One policy at a time; with two roles in it, that of each role's loss is held.
        "gradients": max(4 * own[p.name] * len(p.roles) for p in trains) // learner.workers,
        "moments": 8 * trained // learner.workers,
        "reference": 4 * referred // learner.workers,
        PUBLISHED: width * (whole + adapters),
        "activations": max(_activations(config, net) for net in nets.values()),
    }
    versions = 2 + config.rollout.max_staleness
    still = sum(nets[BASE].parameters for _ in nets.keys() & {BASE}) + sum(own.values()) - trained
    store = {
        "published versions": (versions * trained + still) * width,
        "copy of the learner's state": 4 * sum(own.values()) + 8 * trained if learner.keep_every else 0,
    }
    actor, note = _actor(config, policies.playing(roles), shapes, width, gpu_bytes)
    return Plan(learner=of_worker, actor=actor, store=store, note=note)


def _actor(
    config: Config, policies: Policies, shapes: Mapping[str, ModelShape], width: int, gpu_bytes: int
) -> tuple[dict[str, int], str]:
    """(bytes of an actor of these policies by use, what the tokens of its KV cache are enough for)."""
    rollout, held = config.rollout, dict[str, int]()
    nets = [shapes[players[0].model] for players in policies.nets.values()]
    held["weights"] = sum(shape.parameters for shape in nets) * width // rollout.tensor_parallel
    held["adapters"] = sum(_adapter(p, shapes) for p in policies.all) * width
    if rollout.gpus_per_actor:
        share = rollout.gpu_memory_utilization * gpu_bytes
        held["KV cache"] = max(0, int(share) - held["weights"] - held["adapters"])
    else:
        held["KV cache"] = int(rollout.kv_cache_gib * GIB) * len(nets)
    per_token = sum(2 * shape.layers * shape.keys * width for shape in nets) / len(nets)
    tokens = int(held["KV cache"] * rollout.tensor_parallel // per_token)
    return held, f"{tokens:,} tokens, {tokens // rollout.max_model_len:,} sequences of {rollout.max_model_len}"


def _activations(config: Config, shape: ModelShape) -> int:
    """Return the bytes that one micro-batch keeps, at most."""
    learner, tokens = config.learner, config.learner.tokens_per_microbatch
    scale = 2 if config.model.dtype == "float32" else 1
    layer = 34 * shape.hidden * tokens * scale
    kept = 2 * shape.hidden * tokens * scale * shape.layers + layer if learner.gradient_checkpointing else 0
    return (kept or layer * shape.layers) + 3 * 4 * tokens * shape.vocabulary


def _adapter(policy: Policy, shapes: Mapping[str, ModelShape]) -> int:
    """Parameters; of one with `targets`, those of an adapter on all layers, which are more."""
    return shapes[policy.model].adapter(policy.adapter.rank) if policy.adapter else 0


def needed_memory(config: Config, policies: Policies) -> list[tuple[str, str]]:
    """(what, how much) for a person, and whether it fits on the GPUs."""
    shapes = {path: shape_of(path) for path in dict.fromkeys(p.model for p in policies.all)}
    known = {path: shape for path, shape in shapes.items() if shape is not None}
    rows = [
        ("model", f"{s.parameters / 1e6:,.2f} million parameters ({s.known_from})" if s else f"{path}: of unknown size")
        for path, s in shapes.items()
    ]
    if len(known) < len(shapes):
        return [*rows, ("memory", "unknown until the model is loaded")]
    plans = _plans(config, policies, known)
    found = max(plans.values(), key=lambda made: sum(made.actor.values()))
    rows += [
        ("memory, learner", _sum(found.learner)),
        *((f"memory, {whose}", f"{_sum(made.actor)}: {made.note}") for whose, made in plans.items()),
        ("memory, Ray's object store", _sum(found.store)),
    ]
    return rows + _on_gpu(config, found)


def _plans(config: Config, policies: Policies, shapes: Mapping[str, ModelShape]) -> dict[str, Plan]:
    """Return a plan with each kind of actor, by what to call one."""
    casts = config.rollout.casts if len(policies.nets) > 1 else [ROLES]  # one net serves both roles
    gpu_bytes = machine.gpu_bytes() or GPU_BYTES
    return {
        "each actor" if roles == ROLES else f"each actor of the {roles[0]}": plan(
            config, policies, shapes, gpu_bytes, roles
        )
        for roles in casts
    }


def memory_of_shapes(config: Config) -> Iterator[tuple[str, str]]:
    """(shape, what learner, actor and object store hold) of the config with each shape of policies that ships."""
    for word, mapping in SHAPES.items():
        policies = {name: PolicyConfig.model_validate(policy) for name, policy in mapping.items()}
        shaped = config.model_copy(update={"policies": policies})
        played = policies_of(shaped, named_model)
        model = played.all[0].model
        shape = shape_of(model)
        if shape is None:
            yield word, "unknown until the model is loaded"
            continue
        plans = _plans(shaped, played, {model: shape})
        made = next(iter(plans.values()))
        actors = {whose: each.actor for whose, each in plans.items()}
        sums = {"learner": made.learner, **actors, "object store": made.store}
        yield word, ", ".join(f"{name} {_sum(parts).partition(' (')[0]}" for name, parts in sums.items())


def named_model(name: str) -> str:
    """Do as `resolve_model_path` does, but convert no .gguf file. Raises UserError."""
    return name if is_gguf(name) else resolve_model_path(name)


def _sum(parts: Mapping[str, int]) -> str:
    total = sum(parts.values())
    unit, name_of_unit = (GIB, "GiB") if total >= GIB else (MIB, "MiB")
    inside = ", ".join(f"{name} {size / unit:.2f}" for name, size in parts.items() if size)
    return f"{total / unit:.2f} {name_of_unit} ({inside})"


def _on_gpu(config: Config, found: Plan) -> list[tuple[str, str]]:
    """Whether learner and actor fit on their GPUs, by the plan."""
    size = machine.gpu_bytes()
    capacity, whose = size or GPU_BYTES, "the GPU here" if size else "a GPU of 80 GB"
    learner = sum(found.learner.values()) - found.learner[PUBLISHED]  # those are in the host's memory
    actor = sum(found.actor.values())
    if config.cluster.layout == "colocated":
        both = {
            "learner beside weights that sleep in the host's memory": learner,
            "actor while the learner waits": actor,
        }
        parts = both if config.rollout.sleep else {"learner and actor": learner + actor}
    else:
        parts = {
            "learner": learner * bool(config.learner.gpus_per_worker),
            "actor": actor * bool(config.rollout.gpus_per_actor),
        }
    rows = [f"{name} {'fits' if size <= capacity else 'does not fit'}" for name, size in parts.items() if size]
    return [("on GPUs", f"{', '.join(rows)} on {whose}")] if rows else []
