"""vLLM's sampling on CPU, in our way: the same distribution and log-probs as vLLM's own."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow  # importing vLLM


def test_draws_follow_probabilities_even_of_rare_words() -> None:
    from actors.vllm_sampler import draw

    torch.manual_seed(0)
    probabilities = torch.tensor([0.0, 0.5, 1e-3, 0.0, 0.3, 0.199, 0.0])
    count = 400_000
    found = torch.bincount(draw(probabilities.log().expand(count, -1)), minlength=len(probabilities))
    error = (found / count - probabilities).abs()
    assert (error <= 5 * (probabilities * (1 - probabilities) / count).sqrt()).all(), found  # 0 where it is 0


def test_a_large_vocabulary_loses_no_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Added up in fp32, 200,000 equal words would be off by tens of words."""
    from actors.vllm_sampler import draw

    words, at = 200_000, torch.linspace(0, 0.999, 64).unsqueeze(1)
    monkeypatch.setattr(torch, "rand", lambda *_: at)
    drawn = draw(torch.zeros(64, words).log_softmax(-1))
    assert (drawn - (1 - at.squeeze(1)) * words).abs().max() <= 2
    one_by_one = torch.full((words,), 1 / words).numpy().cumsum(dtype="float32")
    assert abs(one_by_one[-1] - 1) * words > 10


def test_a_row_of_nan_draws_a_word_and_keeps_its_nan() -> None:
    """So that it comes to light where log-probs are checked, not as an index out of range."""
    from actors.vllm_sampler import draw

    logprobs = torch.full((1, 5), torch.nan).log_softmax(-1)
    assert logprobs.gather(-1, draw(logprobs).unsqueeze(-1)).isnan().all()


def test_log_probs_are_those_of_vllm_and_ranks_come_only_where_asked() -> None:
    from vllm.v1.sample.sampler import Sampler

    from actors.vllm_sampler import CpuSampler

    logprobs, ids = torch.randn(4, 50).log_softmax(-1), torch.tensor([3, 0, 49, 7])
    theirs, ours = (s.gather_logprobs(logprobs, 0, ids) for s in (Sampler, CpuSampler))
    assert torch.equal(ours.logprob_token_ids, theirs.logprob_token_ids)
    assert torch.equal(ours.logprobs, theirs.logprobs)
    more = CpuSampler.gather_logprobs(logprobs, 2, ids)
    assert torch.equal(more.selected_token_ranks, theirs.selected_token_ranks)
