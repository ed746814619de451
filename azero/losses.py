"""The clipped policy-gradient loss, per token (ALGORITHM "Loss"; PPO arXiv 1707.06347 eq. 7; dual clip arXiv 1912.09729
eq. 5; the KL estimate is k3 of http://joschu.net/blog/kl-approx.html)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# exp() of a log-ratio beyond this is no estimate of anything; it only overflows.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    loss: Tensor  # [tokens]
    ratio: Tensor  # [tokens], pi_theta / pi_behaviour, detached
    clipped: Tensor  # [tokens] bool: the gradient of this token is cut off


def policy_loss(
    logprobs: Tensor, behaviour: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, ratio_cap: float
) -> PolicyLoss:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), and for A < 0 at most -ratio_cap A.

    All arguments are [tokens]; both log-probs are under the sampling temperature, `behaviour` as the engine logged it.
    """
    log_ratio = (logprobs - behaviour).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    plain = -ratio * advantages
    bounded = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = torch.maximum(plain, bounded)
    cap = -ratio_cap * advantages
    negative = advantages < 0
    capped = negative & (loss > cap)
    clipped = (bounded > plain) | capped
    loss = torch.where(capped, cap, loss)
    return PolicyLoss(loss=loss, ratio=ratio.detach(), clipped=clipped.detach())


def kl_estimate(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi_theta, [tokens]: estimates KL(pi_theta || pi_ref), never negative."""
    d = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.exp() - d - 1


def token_logprobs(logits: Tensor, targets: Tensor, temperatures: Tensor | float) -> tuple[Tensor, Tensor]:
    """(log-probs of `targets`, detached entropy), both [tokens], fp32, of logits [tokens, vocabulary] / temperature.

    `temperatures`: [tokens], or one for all.
    """
    scaled = logits.float() / (temperatures if isinstance(temperatures, float) else temperatures[:, None])
    logprobs = scaled.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy
