"""An update repeats to the last bit on a CPU, with more threads than cores too."""

from collections.abc import Iterator

import pytest
import torch
from rows import WEIGHTS, random_rows

from azero.config import AlgorithmConfig, LearnerConfig, ModelConfig
from azero.models.loading import EMBEDDED
from azero.policies import one_policy
from azero.types import SHARED
from learner.policy import make_repeatable
from learner.trainer import assemble

THREADS = 8  # on few cores they end in another order each time
REPEATS = 5


@pytest.fixture
def many_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_the_gradient_of_the_same_rows_is_the_same_to_the_last_bit(many_threads: None) -> None:
    make_repeatable(torch.device("cpu"))
    policy = assemble(
        one_policy(str(EMBEDDED)),
        model=ModelConfig(),
        algorithm=AlgorithmConfig(kl_beta=0.1),
        learner=LearnerConfig(tokens_per_microbatch=16384),
    )[SHARED]
    rows = random_rows(512)
    first = policy.gradients(rows, WEIGHTS)
    for _ in range(REPEATS - 1):
        again = policy.gradients(rows, WEIGHTS)
        assert [name for name in first if not torch.equal(first[name], again[name])] == []
