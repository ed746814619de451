"""A whole run on a domain that is no arithmetic: nothing outside azero/domains knows which one it is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from azero.domains import sorting
from cluster.cli import main
from cluster.records.rundir import read_jsonl

SMALL = [
    "rollout.engine=hf",
    "rollout.problems_per_step=6",
    "rollout.solutions_per_problem=4",
    "rollout.max_new_tokens=16",
    "rollout.max_proposal_tokens=20",
    "rollout.max_tries=1",
    "eval.data=dev",
    "eval.max_new_tokens=16",
    "eval.samples=0",
    "run.steps=2",
    "run.eval_every=0",
    "run.checkpoint_every=0",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "source"),
    [
        pytest.param("sorting", "selfplay", id="built in", marks=pytest.mark.long),
        pytest.param("my_domain:Sorting", "random", id="a user's file"),
    ],
)
def test_train_on_sorting(domain: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's file lies in the working directory only, from where the rollout actors import it too."""
    shutil.copy(str(sorting.__file__), tmp_path / "my_domain.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    keys = [f"task.domain={domain}", f"task.source={source}", "run.dir=run"]
    assert main(["train", "local", *SMALL, *keys]) == 0
    metrics = read_jsonl("run/metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, 1, 2]
    assert {"eval/accuracy/easy", "eval/accuracy/medium", "eval/accuracy/hard"} <= metrics[0].keys()
    evals = read_jsonl("run/evals.jsonl")
    assert [(e["step"], e["n"]) for e in evals] == [(0, 120), (2, 120)]
    assert set(evals[0]["by_operation"]) == {f"{n} letters" for n in range(3, 9)}
    samples = read_jsonl("run/samples.jsonl")
    assert {s["step"] for s in samples} == {1, 2}
    if source == "selfplay":
        for sample in samples:
            task, tier = sample["requested_cell"].split("/")
            assert task == "sorting" and sample["proposal"]["prompt"].startswith(f"Different {tier} lists")
        return  # the embedded model has seen nothing but arithmetic: its proposals need not be lists of letters
    assert len(samples) == 12
    for sample in samples:
        problem = sample["problem"]
        assert sorted(problem["text"].split()) == problem["answer"].split()
        assert sample["solver"]["prompt"] == f"Sort: {problem['text']} = " and len(sample["solver"]["completions"]) == 4


GROWING = '''
from dataclasses import replace
from azero.domains.base import Proposal
from azero.domains.sorting import Sorting, make_problem
from azero.types import Verdict

class Growing(Sorting):
    """Every proposal is a problem, four times as long as the longest that it was shown."""

    def read(self, completion, request, exclude, version):
        references = [problem.statement for problem in request.references]
        if not references:
            return super().read(completion, request, exclude, version)
        text = " ".join([max(references, key=len)] * 4)
        seed = make_problem("d b a", version)
        return Proposal(verdict=Verdict.VALID, problem=replace(seed, statement=text, canonical=text))
'''


@pytest.mark.long
def test_problems_that_outgrow_the_engine_are_rejected_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "growing_domain.py").write_text(GROWING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    keys = ["task.domain=growing_domain:Growing", "run.dir=run", "run.steps=6", "rollout.max_model_len=160"]
    assert main(["train", "local", *SMALL, *keys]) == 0
    samples = read_jsonl("run/samples.jsonl")
    assert {s["step"] for s in samples} == set(range(1, 7))
    reasons = [s["proposal"]["reason"] for s in samples]
    assert "too_long" in reasons and "" in reasons
    assert all(len(s["proposal"]["prompt"]) + 20 <= 160 for s in samples)  # a token a character
    assert main(["train", "local", *SMALL, *keys[:2], "run.dir=short", "rollout.max_model_len=40"]) == 2
