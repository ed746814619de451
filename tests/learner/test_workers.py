"""Several learner workers on gloo: the result does not depend on their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_group import everything, run

SIZES = (2, pytest.param(4, marks=pytest.mark.long))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Groups(dict[int, list[dict[str, Any]]]):
    """By size of the group: what `everything` gave in each worker; made when it is first asked for."""

    def __init__(self, model: str, folder: Path) -> None:
        super().__init__()
        self.model, self.folder = model, folder
        self[1]  # whose checkpoint the others go on from

    def __missing__(self, size: int) -> list[dict[str, Any]]:
        self[size] = run(size, everything, self.model, self.folder)
        return self[size]


@pytest.fixture(scope="module")
def groups(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Groups:
    return Groups(tiny_model, tmp_path_factory.mktemp("alone"))


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensors[name].reshape(-1).astype(np.float64) for name in sorted(tensors)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "what",
    [
        "gradient",
        "recomputed",
        "few rows",  # some workers have nothing to do, and yet take part
        "one token",  # at one worker, whose layers must run as often as the others'
    ],
)
def test_the_gradient_does_not_depend_on_the_number_of_workers(groups: Any, size: int, what: str) -> None:
    expected = flat(groups[1][0][what])
    first, *others = (worker[what] for worker in groups[size])
    assert not any(others)  # gathered once, not once a worker
    assert np.linalg.norm(flat(first) - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", SIZES)
def test_updates_do_not_depend_on_the_number_of_workers(groups: Any, size: int) -> None:
    steps, weights, probes = groups[1][0]["updates"]
    theirs = groups[size][0]["updates"][1]
    resumed = groups[1][0]["resumed False"][1]
    a_step = np.linalg.norm(flat(resumed) - flat(weights))
    assert np.linalg.norm(flat(theirs) - flat(weights)) <= 0.03 * a_step
    for worker in groups[size]:  # every worker knows the same
        results, _, scored = worker["updates"]
        for (metrics, logprobs), (expected, expected_logprobs) in zip(results, steps, strict=True):
            assert metrics == pytest.approx(expected, rel=2e-3, abs=1e-5)
            assert logprobs == pytest.approx(expected_logprobs, abs=2e-3)
        for ours, expected in zip(scored, probes, strict=True):
            assert ours == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", ["adapters", "separate"])
def test_policies_of_their_own_do_not_depend_on_the_number_of_workers(groups: Any, size: int, shape: str) -> None:
    steps, weights, probes = groups[1][0][shape]
    for worker in groups[size]:
        found, theirs, scored = worker[shape]
        for metrics, expected in zip(found, steps, strict=True):
            assert metrics == pytest.approx(expected, rel=2e-3, abs=1e-5)
        assert scored.keys() == probes.keys()
        for part, sequences in probes.items():
            for ours, expected_logprobs in zip(scored[part], sequences, strict=True):
                assert ours == pytest.approx(expected_logprobs, abs=2e-3)
    theirs = groups[size][0][shape][1]
    assert theirs.keys() == weights.keys()
    assert np.linalg.norm(flat(theirs) - flat(weights)) <= 1e-3 * np.linalg.norm(flat(weights))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("from_memory", [False, True])
def test_a_checkpoint_resumes_with_another_number_of_workers(groups: Any, size: int, from_memory: bool) -> None:
    what = f"resumed {from_memory}"
    (expected, weights), (metrics, theirs) = groups[1][0][what], groups[size][0][what]
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert np.abs(flat(theirs) - flat(weights)).max() <= 2e-5
