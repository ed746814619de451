"""Parts of a user's own, in a file outside the packages: those of docs/your-own-parts.md, and wrong ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import episode

from azero.config import AlgorithmConfig, BaselineConfig, RewardConfig, TaskConfig
from azero.config.kinds import EstimatorName, GroupingName, LearnabilityName
from azero.credit.advantages import ESTIMATORS, GROUPINGS
from azero.credit.credit import Credit
from azero.credit.rewards import SHAPES
from azero.domains.expression import CELLS
from azero.errors import RunFailed, UserError
from azero.types import SHARED, Verdict
from cluster.run.recorder import ExtraMetrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-own-parts.md").read_text()
R, W = Verdict.RIGHT, Verdict.WRONG
STEP = [
    episode("0.0", [R, W, W, W], text="1 + 2"),
    episode("0.1", [R, R, R, R], text="2 + 2"),
    episode("0.2", None, proposal=Verdict.UNPARSEABLE),
]
WRONG = """
three, word, oops = (lambda p: "three"), (lambda sample: 3), (lambda p: 1 / 0)
class Estimator:
    def __init__(self, baseline, grouping): pass
    def advantages(self, rows): return self.given
    def state(self): return {}
    def load(self, state): pass
class Few(Estimator): given = [0.0]
class Nan(Estimator): given = [float("nan")] * 11
class Text(Estimator): given = "abc"
class Plain:
    def __init__(self): pass
text = lambda episodes: "many"
nan = lambda episodes: {"own/mean": float("nan")}
taken = lambda episodes: {"step": 3}
good = lambda episodes: {"own/episodes": len(episodes)}
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's file and a wrong one in the working directory, in which Python does not look by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_parts.py").write_text(source)
    (tmp_path / "wrong_parts.py").write_text(WRONG)
    return source


def credit(shape: str = "variance", **baseline: Any) -> Credit:
    reward = RewardConfig(learnability=shape, diversity=0.0)
    algorithm, task = AlgorithmConfig(), TaskConfig()
    return Credit(reward, BaselineConfig(**baseline), algorithm, task, cells=CELLS, temperature=1.0)


def assigned(c: Credit) -> tuple[list[float], list[float]]:
    """(rewards of the proposals, advantages of all rows)."""
    found = c.assign(STEP, 0)
    return [e.proposal.reward for e in found.episodes if e.proposal], [r.advantage for r in found.batch.rows[SHARED]]


def test_the_parts_of_the_page_by_hand(parts: str) -> None:
    c = credit("my_parts:squared", by="my_parts:per_problem", estimator="my_parts:Rloo")
    rewards, advantages = assigned(c)
    # 1 -0.5 -0.5 -0.5: the others' mean is -0.5 for the right one, 0 for each wrong one; all right: 0
    assert advantages[:8] == pytest.approx([1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0])
    # (1 - 1/4)^2, 0 where p is 1, and the floor; each minus the mean of the other two
    assert rewards == [0.5625, 0.0, -1.0]
    assert advantages[8:] == pytest.approx([0.5625 + 0.5, 0 + 0.21875, -1 - 0.28125])
    assert c.baseline.baselines() == {} and c.state()["baseline"] == {}
    c.load(c.state())
    assert ExtraMetrics(["my_parts:longest"]).of(STEP, {"step": 1}, print) == {"step": 1, "solver/longest": 2.0}


def test_built_in_estimator_with_a_grouping_of_ones_own(parts: str) -> None:
    c = credit(by="my_parts:per_problem", min_groups=1)
    assert assigned(c)[1][:4] == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], abs=1e-4)
    assert set(c.baseline.baselines()) == {"solver/0.0", "solver/0.1", "proposer"}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            {"shape": "wrong_parts:three"},
            "reward.learnability=wrong_parts:three returns 'three' (str); it must return a fi",
        ),
        (
            {"shape": "wrong_parts:oops"},
            "reward.learnability=wrong_parts:oops fails with ZeroDivisionError: division by",
        ),
        ({"by": "wrong_parts:word"}, "baseline.by=wrong_parts:word returns 3 (int); it must return the name of a cell"),
        (
            {"estimator": "wrong_parts:Few"},
            "baseline.estimator=wrong_parts:Few: Few.advantages returns an array of shape [1]",
        ),
        ({"estimator": "wrong_parts:Nan"}, "Nan.advantages returns nan among its advantages"),
        (
            {"estimator": "wrong_parts:Text"},
            "Text.advantages returns 'abc' (str); it must return 11 numbers, one a row",
        ),
    ],
)
def test_a_wrong_value_is_told_by_name_and_place(made: dict[str, Any], says: str, parts: str) -> None:
    with pytest.raises(RunFailed) as error:
        assigned(credit(**made))
    assert says in str(error.value) and "\n" not in str(error.value)
    if "oops" in says:
        assert "wrong_parts.py:2" in str(error.value)


def test_a_class_that_cannot_be_made_is_told_before_the_run(parts: str) -> None:
    with pytest.raises(
        UserError, match=r"wrong_parts:Plain: Plain\(\) fails with .*arguments BaselineConfig, function"
    ):
        credit(estimator="wrong_parts:Plain")


def test_a_metric_that_is_none_is_told_once_and_left_out(parts: str) -> None:
    told: list[str] = []
    names = [f"wrong_parts:{name}" for name in ("text", "nan", "taken", "good")]
    extra = ExtraMetrics(names)
    for step in range(3):
        assert extra.of(STEP, {"step": step}, told.append) == {"step": step, "own/episodes": 3.0}
    assert [t.partition(" ")[0] for t in told] == [f"run.metrics={name}" for name in names[:3]]
    assert "returns 'many' (str)" in told[0] and "own/mean=nan" in told[1] and "a metric already" in told[2]


def test_the_config_allows_the_names_that_there_are() -> None:
    def names(kind: Any) -> set[str]:
        return set(kind.__metadata__[0].func.names)

    assert names(LearnabilityName) == {"improvement", *SHAPES}
    assert names(GroupingName) == set(GROUPINGS) and names(EstimatorName) == set(ESTIMATORS)


@pytest.mark.slow
def test_the_example_of_the_docs_trains(parts: str, tmp_path: Path) -> None:
    from cluster.cli import main
    from cluster.records.rundir import read_jsonl

    (command,) = re.findall(r"```sh\nazero (train .*?)```", PAGE, re.DOTALL)
    small = ["rollout.engine=hf", "rollout.problems_per_step=4", "rollout.solutions_per_problem=2", "eval.samples=0"]
    threads = ["rollout.threads=1", "learner.threads=1"]
    assert main([*command.replace("\\\n", " ").split(), f"run.dir={tmp_path}/run", *small, *threads]) == 0
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in lines] == [0, 1, 2]
    assert all(m["solver/longest"] > 0 and np.isfinite(m["learnability/mean"]) for m in lines[1:])
    assert not [key for m in lines for key in m if key.startswith("baseline/")]
