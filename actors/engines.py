"""Which engine a configuration means: of one model, or several as one."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from azero.config import ModelConfig, RolloutConfig
from azero.engine import Engine, Texts, of_each
from azero.errors import UserError
from azero.models.loading import resolve_model_path
from azero.policies import Policies, Policy, one_policy
from azero.types import ROLES, SHARED, Completion, HeldWeights, Role, Sampling, WeightVersion


def build_engine(
    model: ModelConfig,
    rollout: RolloutConfig,
    seed: int,
    policies: Policies | None = None,
    roles: Collection[Role] = ROLES,
) -> Engine:
    """A warm engine of those of the policies (None: one, of `model.path`) that play the roles, seeded: one a net.

    It measures texts of the other policies too, without their weights. Raises UserError.
    """
    policies = policies or one_policy(resolve_model_path(model.path))
    played = policies.playing(roles)
    nets = played.nets
    engines = {name: _build(model, rollout, seed, name, players, len(nets)) for name, players in nets.items()}
    if len(engines) == 1 and played == policies:
        (engine,) = engines.values()
    else:
        from actors.base import ModelTexts

        served = {part: engines[name] for name, players in nets.items() for part in Policies(players).parts}
        others = [policy for policy in policies.all if policy not in played.all]
        engine = EngineGroup(served, {p.name: ModelTexts(p.model, rollout.max_model_len) for p in others})
    engine.reseed(seed)
    return engine


def _build(
    model: ModelConfig, rollout: RolloutConfig, seed: int, net: str, players: Sequence[Policy], engines: int
) -> Engine:
    """`engines`: how many there are in this process."""
    path, adapters = players[0].model, {p.name: p.adapter for p in players if p.adapter}
    limits = {"max_model_len": rollout.max_model_len, "max_num_seqs": rollout.max_num_seqs}
    own: dict[str, Any] = {"net": net, "adapters": adapters, "seed": seed, **limits}
    if rollout.engine == "hf":
        from actors.hf_engine import HfEngine

        return HfEngine(path, model.dtype, device="cuda" if rollout.gpus_per_actor else "cpu", **own)
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine=vllm: the package vllm is not installed; install azero[cpu] or azero[gpu], "
            "or use rollout.engine=hf"
        )
    from actors.vllm_engine import VllmEngine

    engine = VllmEngine(
        path,
        model.dtype,
        kv_cache_gib=rollout.kv_cache_gib,
        gpu_memory_utilization=rollout.gpu_memory_utilization / engines,
        tensor_parallel=rollout.tensor_parallel,
        sleep=rollout.sleep,
        transfer="" if rollout.transfer == "store" else rollout.transfer,
        **own,
    )
    engine.warm_up()
    return engine


class EngineGroup(Engine):
    """Several engines as one: each policy, or base, is served by one of them. They run in turns."""

    def __init__(self, engines: Mapping[str, Engine], absent: Mapping[str, Texts] | None = None) -> None:
        """`engines`: by name of what each serves; one may stand under several names.

        `absent`: by name, policies that others serve, and whose texts are measured here.
        """
        self.by_policy, self.texts = dict(engines), {**(absent or {}), **engines}
        self.engines = list(dict.fromkeys(engines.values()))
        self.max_tokens = min(texts.max_tokens for texts in self.texts.values())

    @property
    def version(self) -> WeightVersion | None:
        held = {engine.version for engine in self.engines}
        return held.pop() if len(held) == 1 else None

    def encode(self, text: str, rendered: bool = False, policy: str = SHARED) -> tuple[int, ...]:
        return self.texts[policy].encode(text, rendered, policy)

    def chat_template(self, user_message: str, policy: str = SHARED) -> str:
        return self.texts[policy].chat_template(user_message, policy)

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        self.by_policy[policy].submit(tag, prompt_ids, n, sampling, policy)

    def step(self) -> list[tuple[Hashable, tuple[Completion, ...]]]:
        return [ended for engine in self.engines if engine.busy() for ended in engine.step()]

    def busy(self) -> bool:
        return any(engine.busy() for engine in self.engines)

    def score(self, sequences: Sequence[Sequence[int]], policy: str | Sequence[str] = SHARED) -> list[list[float]]:
        found: dict[int, list[float]] = {}
        asked = of_each(sequences, policy)
        for engine in self.engines:
            mine = [i for i, (_, name) in enumerate(asked) if self.by_policy[name] is engine]
            if mine:
                scores = engine.score([asked[i][0] for i in mine], [asked[i][1] for i in mine])
                found.update(zip(mine, scores, strict=True))
        return [found[i] for i in range(len(asked))]

    def load(self, version: WeightVersion, weights: Mapping[str, Any], policy: str = SHARED) -> None:
        self.by_policy[policy].load(version, weights, policy)

    def keep(self, version: WeightVersion, policy: str = SHARED) -> None:
        self.by_policy[policy].keep(version, policy)

    def held(self, policy: str = SHARED) -> HeldWeights:
        return self.by_policy[policy].held(policy)

    def forget(self) -> None:
        for engine in self.engines:
            engine.forget()

    def reseed(self, seed: int) -> None:
        for i, engine in enumerate(self.engines):
            engine.reseed(seed + i)  # vLLM engines of one process share a generator, which the last one then seeds

    def sleep(self) -> None:
        for engine in self.engines:
            engine.sleep()

    def wake(self) -> None:
        for engine in self.engines:
            engine.wake()

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
