"""Values worked out by hand. rho = 2 is a log-ratio of ln 2."""

from math import exp, log

import pytest
import torch

from azero.loss import kl_estimate, policy_loss, token_logprobs

BOUNDS = {"clip_low": 0.2, "clip_high": 0.3, "ratio_cap": 3.0}


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.0, -2.0, 2.0, False),
        (2.0, 1.0, -1.3, True),  # above 1 + clip_high with A > 0: no more credit
        (0.5, 1.0, -0.5, False),  # below with A > 0: the min keeps the smaller, full gradient
        (0.5, -1.0, 0.8, True),  # below 1 - clip_low with A < 0: no more blame
        (2.0, -1.0, 2.0, False),  # above with A < 0: full gradient ...
        (5.0, -1.0, 3.0, True),  # ... up to the dual clip
        (4.0, 0.0, 0.0, False),
    ],
)
def test_policy_loss(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprob = torch.tensor([log(ratio) - 1.0], requires_grad=True)
    out = policy_loss(logprob, torch.tensor([-1.0]), torch.tensor([advantage]), **BOUNDS)
    assert out.loss.item() == pytest.approx(loss, abs=1e-6)
    assert out.ratio.item() == pytest.approx(ratio, rel=1e-6)
    assert bool(out.clipped) is clipped
    (gradient,) = torch.autograd.grad(out.loss.sum(), logprob)
    assert gradient.item() == pytest.approx(0.0 if clipped else -ratio * advantage, abs=1e-5)


def test_extreme_ratios_stay_finite() -> None:
    logprob = torch.tensor([500.0, -500.0], requires_grad=True)
    out = policy_loss(logprob, torch.zeros(2), torch.tensor([-1.0, 1.0]), **BOUNDS)
    assert torch.isfinite(out.loss).all() and torch.isfinite(torch.autograd.grad(out.loss.sum(), logprob)[0]).all()


def test_kl_estimate() -> None:
    # d = log pi_ref - log pi = ln 2: 2 - ln 2 - 1; d = -ln 2: 0.5 + ln 2 - 1; d = 0: 0
    d = torch.tensor([log(2), -log(2), 0.0])
    expected = [1 - log(2), log(2) - 0.5, 0.0]
    assert kl_estimate(torch.zeros(3), d).tolist() == pytest.approx(expected, abs=1e-6)


def test_kl_estimate_is_unbiased_for_the_kl() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    expected = (p * (p / q).log()).sum()
    assert (p * kl_estimate(p.log(), q.log())).sum().item() == pytest.approx(expected.item(), rel=1e-5)


def test_token_logprobs_under_a_temperature() -> None:
    # logits (0, ln 3) at temperature 0.5 are (0, 2 ln 3): probabilities 1/10 and 9/10
    logprobs, entropy = token_logprobs(torch.tensor([[0.0, log(3)]] * 2), torch.tensor([0, 1]), 0.5)
    assert [exp(v) for v in logprobs.tolist()] == pytest.approx([0.1, 0.9], rel=1e-5)
    assert entropy[0].item() == pytest.approx(-(0.1 * log(0.1) + 0.9 * log(0.9)), rel=1e-5)
