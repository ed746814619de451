"""From the policies of a run to models in memory: one a policy, or one that several wear their adapters on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from azero.config import AdapterConfig, AlgorithmConfig, LearnerConfig, ModelConfig
from azero.policies import Policies
from learner.agreement import require_agreement
from learner.net import PolicyNet
from learner.policy import CPU, PolicyOptimizer
from learner.workers import Workers


def assemble(
    policies: Policies,
    *,
    model: ModelConfig,
    algorithm: AlgorithmConfig,
    learner: LearnerConfig,
    workers: Workers | None = None,
    device: torch.device = CPU,
    folders: Mapping[str, str] | None = None,
) -> dict[str, PolicyOptimizer]:
    """Each policy with its net, checked, and with the frozen reference of its KL term, which is what it started from.

    `folders`: of a checkpoint, the model folders of policies that have weights of their own. Raises UserError.
    """
    workers, found = workers or Workers(), dict[str, PolicyOptimizer]()

    def load(path: str, adapters: Mapping[str, AdapterConfig] | None = None) -> PolicyNet:
        return PolicyNet(
            path,
            dtype=model.dtype,
            device=device,
            recompute=learner.gradient_checkpointing,
            workers=workers,
            adapters=adapters,
        )

    for name, players in policies.nets.items():
        adapters = {p.name: p.adapter for p in players if p.adapter}
        net = load((folders or {}).get(name, players[0].model), adapters=adapters)
        with net.wearing(players[0].name):
            require_agreement(net)
        trains = any(p.trains for p in players)
        reference = None
        if algorithm.kl_beta > 0 and trains:
            reference = net if adapters else load(players[0].model).requires_grad_(False)
            reference.run_like(net)
        if not trains:
            net.requires_grad_(False)
        for policy in players:
            found[policy.name] = PolicyOptimizer(
                policy=policy,
                net=net,
                reference=reference if policy.trains else None,
                algorithm=algorithm,
                learner=learner,
                workers=workers,
            )
    return {name: found[name] for name in policies.names}
