"""Whole steps of credit, with values worked out by hand."""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
from helpers import episode

from azero.config import AlgorithmConfig, BaselineConfig, RewardConfig, Source, TaskConfig
from azero.credit.credit import Credit, SequenceLogprobs, batch_metrics
from azero.domains.expression import CELLS, HARD
from azero.types import SHARED, Episode, Role, Sample, StepResult, TrainRow, Verdict

R, W, M = Verdict.RIGHT, Verdict.WRONG, Verdict.MALFORMED


def credit(
    shape: str = "one_minus_rate", source: Source = "selfplay", by: str = "cell", diversity: float = 0.0
) -> Credit:
    return Credit(
        RewardConfig(learnability=shape, diversity=diversity),
        BaselineConfig(by=by),
        AlgorithmConfig(),
        TaskConfig(source=source),
        cells=CELLS,
        temperature=0.7,
    )


def rows_of(c: Credit, episodes: list[Episode], proposals: list[Sample]) -> list[TrainRow]:
    return c.rows(episodes, proposals)[SHARED]


STEP = [
    episode("0.0", [R, W], text="1 + 2"),
    episode("0.1", [R, R], text="2 + 2"),
    episode("0.2", None, proposal=Verdict.UNPARSEABLE),
    episode("0.3", None, proposal=Verdict.REJECTED),
    episode("0.4", None, proposal=Verdict.EXCLUDED),
]


def test_proposals_get_the_ladder_or_learnability() -> None:
    c = credit()
    rewarded, diagnostics = c.reward_proposals(STEP, c.novelties(STEP))
    assert [e.proposal.reward for e in rewarded] == [0.5, 0.0, -1.0, -0.5, 0.0]  # 1 - 1/2; 0 where p = 1; the floors
    assert diagnostics["learnability/mean"] == 0.25


def test_the_diversity_bonus_falls_with_repetition() -> None:
    c = credit("none", diversity=0.5)
    repeated = [episode(f"0.{i}", [R, W], text="1 + 2") for i in range(3)]
    novelties = c.novelties(repeated)
    rewarded, _ = c.reward_proposals(repeated, novelties)
    rewards = [e.proposal.reward for e in rewarded]
    assert rewards[0] > rewards[1] > rewards[2] > 0
    assert rewards == pytest.approx([0.5 * n for n in novelties])


def test_novelty_counts_only_where_something_can_be_learned_if_asked() -> None:
    groups = [
        episode("0.0", [R, W], text="1 + 2"),
        episode("0.1", [W, W], text="2 * 3"),
        episode("0.2", [R, R], text="4"),
    ]
    for of_all, counted in ((True, [True, True, True]), (False, [True, False, False])):
        c = credit("none", diversity=0.5)
        c.reward.novelty_of_all = of_all
        rewarded, _ = c.reward_proposals(groups, c.novelties(groups))
        assert [e.proposal.reward > 0 for e in rewarded] == counted


def test_rows_are_solver_then_proposer_without_what_is_in_the_evaluation_set() -> None:
    c = credit()
    rewarded, _ = c.reward_proposals(STEP, c.novelties(STEP))
    rows = rows_of(c, rewarded, c.due_proposals(rewarded))
    assert [r.part for r in rows] == [Role.SOLVER] * 4 + [Role.PROPOSER] * 4
    # solver cell: rewards 1 -0.5 1 1, mean 0.625, sd 0.6495
    assert [r.advantage for r in rows[:4]] == pytest.approx([0.57735, -1.73205, 0.57735, 0.57735], abs=1e-4)
    # proposer cell: 0.5 0 -1 -0.5, mean -0.25, sd 0.5590
    assert [r.advantage for r in rows[4:]] == pytest.approx([1.34164, 0.44721, -1.34164, -0.44721], abs=1e-4)


@pytest.mark.parametrize("by", ["cell", "problem"])
def test_with_solver_only_no_proposal_is_trained(by: str) -> None:
    c = credit(source="solver_only", by=by)
    rewarded, _ = c.reward_proposals(STEP, c.novelties(STEP))
    rows = rows_of(c, rewarded, c.due_proposals(rewarded))
    assert [r.part for r in rows] == [Role.SOLVER] * 4
    if by == "problem":  # each group by itself; the second has no variance
        assert [r.advantage for r in rows] == pytest.approx([1, -1, 0, 0], abs=1e-4)


def test_improvement_is_credited_one_step_late_with_the_invalid_ones() -> None:
    c = credit("improvement")
    assert c.is_deferred and c.due_proposals(STEP) == []
    assert all(r.part == Role.SOLVER for r in rows_of(c, STEP, []))
    two = np.array([-1.0, -1.0])
    logprobs = {
        # the right sample became twice as likely: after = 2/3, before = 1/2
        "0.0": SequenceLogprobs(behaviour=two, before=two, after=two + np.array([log(2), 0.0])),
        "0.1": SequenceLogprobs(behaviour=two, before=two, after=two + 1.0),  # all right: 0 by definition
    }
    rewarded, diagnostics = c.reward_proposals(STEP, c.novelties(STEP), logprobs)
    assert diagnostics["learnability/improvement_raw"] == pytest.approx((2 / 3 - 1 / 2) / 2)
    assert diagnostics["learnability/variance_correlation"] == pytest.approx(1.0)
    # standardised over two: +1 and -1, mapped to [0, 1]
    assert [e.proposal.reward for e in rewarded] == pytest.approx([1.0, 0.0, -1.0, -0.5, 0.0])
    c.pending = [e.proposal for e in rewarded[:4]]
    later = rows_of(c, [], c.due_proposals([]))
    # their cell: 1 0 -1 -0.5, mean -0.125, sd 0.7395
    assert [r.advantage for r in later] == pytest.approx([1.5213, 0.1690, -1.1832, -0.5071], abs=1e-3)


def result(step: int, before: list[float], after: list[float], is_finite: bool = True) -> StepResult:
    return StepResult(
        step=step + 1, metrics={"lr": 0.5}, is_finite=is_finite, before={SHARED: before}, after={SHARED: after}
    )


def test_a_step_goes_out_as_rows_and_comes_back_as_rewards() -> None:
    c = credit("improvement")
    assigned = c.assign(STEP, step=0)
    rows = assigned.batch.rows[SHARED]
    assert assigned.batch.measured == "solver"
    assert assigned.batch.weights == {SHARED: {"proposer": 1.0, "solver": 1.0}}
    assert [(r.part, r.temperature, r.behaviour) for r in rows] == [("solver", 0.7, (-1.0, -1.0))] * 4
    two = [-2.0] * 4
    rewarded, metrics = c.settle(assigned, result(0, two, [two[0] + log(2), *two[1:]]))
    assert [e.proposal.reward for e in rewarded] == pytest.approx([1.0, 0.0, -1.0, -0.5, 0.0])
    assert metrics["lr"] == 0.5 and metrics["proposer/reward"] == pytest.approx(-0.125)
    assert metrics["baseline/solver/arithmetic/easy"] == 0.625 and metrics["solver/accuracy"] == 0.75
    assert [p.reward for p in c.pending] == pytest.approx([1.0, 0.0, -1.0, -0.5])
    late = c.assign([episode("1.0", [R, W], batch=1)], step=1)
    assert [r.part for r in late.batch.rows[SHARED]] == ["solver"] * 2 + ["proposer"] * 4


def test_after_a_step_that_was_not_made_no_proposal_waits() -> None:
    c = credit("improvement")
    assigned = c.assign(STEP, step=0)
    rewarded, _ = c.settle(assigned, result(0, [], [], is_finite=False))
    assert rewarded == STEP and c.pending == []


def test_stale_samples_keep_the_log_prob_that_the_engine_logged() -> None:
    c = credit("improvement")
    step = [episode("3.0", [R, W], batch=3, version=2), episode("3.1", [R, W], batch=3, version=3)]
    assigned = c.assign(step, step=3)
    before = [-2.5, -2.0, -2.5, -2.0]
    found = c._logprobs(step, assigned.batch, result(3, before, before))
    assert found["3.0"].behaviour.tolist() == [-2.0, -2.0] and found["3.1"].behaviour.tolist() == [-2.5, -2.0]


def test_a_batch_and_each_of_its_groups_is_trained_once() -> None:
    batch = [episode(f"1.{i}", [R, W], batch=1) for i in range(2)]
    with pytest.raises(ValueError, match=r"batch 0: got episodes of batches \[1\]"):
        credit().assign(batch, step=0)
    with pytest.raises(ValueError, match="3 groups of which 2 are distinct"):
        credit().assign([*batch, batch[0]], step=1)


def test_state_survives_json_and_gives_the_same_next_step() -> None:
    one = credit("improvement", diversity=0.5)
    one.novelties(STEP)
    one.rows(STEP, [])
    one.pending = [STEP[0].proposal, STEP[2].proposal]
    two = credit("improvement", diversity=0.5)
    two.load(json.loads(json.dumps(one.state())))
    assert two.pending == one.pending
    assert one.novelties(STEP) == two.novelties(STEP)
    assert rows_of(one, STEP, one.pending) == rows_of(two, STEP, two.pending)


def test_batch_metrics_by_hand() -> None:
    step = [
        episode("5.0", [R, W], text="1 + 2", version=4),
        episode("5.1", [M, M], text="30 + 2", cell=HARD, version=5),
        episode("5.2", None, proposal=Verdict.UNPARSEABLE),
        episode("5.3", None, proposal=Verdict.EXCLUDED),
    ]
    m = batch_metrics(step, version=5, cells=CELLS)
    assert m["solver/accuracy"] == 0.25 and m["solver/format_rate"] == 0.5
    assert m["solver/reward"] == pytest.approx((1 - 0.5 - 1 - 1) / 4)
    assert m["proposer/valid_rate"] == pytest.approx(2 / 3)  # the excluded one is neither valid nor invalid
    assert m["problems/contaminated"] == 1
    assert m["problems/difficulty_mean"] == 1.0 and m["problems/share/arithmetic/hard"] == 0.5
    assert m["problems/unique_rate"] == 1.0 and m["problems/tier_match"] == 1.0
    assert m["staleness/mean"] == 0.5 and m["staleness/max"] == 1
    assert m["groups/zero_variance_rate"] == 0.5
    assert m["groups/informative"] == 1 and m["groups/informative_per_ktoken"] == 1000 / 8  # four solutions of 2 tokens


def piloted(slot: str, verdicts: Sequence[Verdict], **options: Any) -> Episode:
    """With a pilot of two."""
    made = episode(slot, verdicts, **options)
    assert made.group is not None
    return replace(made, group=replace(made.group, pilot=2))


PILOTED = [
    piloted("0.0", [R, W, W, W]),
    piloted("0.1", [M, W], text="2 + 2"),
    piloted("0.2", [R, R], text="3 + 3", proposal=None),
    STEP[3],
]


def test_with_a_pilot_p_is_its_estimate_and_accuracy_that_of_what_is_trained_on() -> None:
    m = batch_metrics(PILOTED, version=0, cells=CELLS)
    assert m["solver/success_rate"] == pytest.approx((1 / 2 + 0 + 1) / 3) and m["solver/accuracy"] == 3 / 8
    assert m["groups/stopped_rate"] == pytest.approx(2 / 3) and m["groups/informative"] == 1
    assert m["groups/informative_per_ktoken"] == 1000 / 16
    assert m["groups/zero_variance_rate"] == pytest.approx(1 / 3)  # malformed and wrong differ on the ladder
    m = batch_metrics(PILOTED, version=0, cells=CELLS, only_mixed=True)
    assert m["solver/accuracy"] == 1 / 4 and m["solver/success_rate"] == 1 / 2
    c = credit("variance")
    rewarded, _ = c.reward_proposals(PILOTED, c.novelties(PILOTED))
    assert [e.proposal and e.proposal.reward for e in rewarded] == [1, 0, None, -0.5]  # 4 p (1 - p) of 1/2, not of 1/4


@pytest.mark.parametrize(("only_mixed", "solutions"), [(False, 8), (True, 4)])
def test_a_batch_of_signal_trains_on_mixed_groups_and_all_proposals(only_mixed: bool, solutions: int) -> None:
    c = credit()
    c.only_mixed = only_mixed
    rows = rows_of(c, PILOTED, c.due_proposals(PILOTED))
    assert [row.part for row in rows] == [Role.SOLVER] * solutions + [Role.PROPOSER] * 3


def test_tokens_are_counted_since_the_run_began() -> None:
    c = credit()
    c.only_mixed = True
    for step in (0, 1):  # 8 solutions and 3 proposals are drawn, 4 and 3 trained on, of 2 tokens each
        assigned = c.assign([replace(e, batch=step) for e in PILOTED], step)
        _, m = c.settle(assigned, StepResult(step=step + 1, metrics={}, is_finite=step == 0))
        assert m["tokens/generated"] == 22 * (step + 1)
        assert m["tokens/trained"] == 14  # the second step changed nothing
        c, before = credit(), c
        c.load(json.loads(json.dumps(before.state())))
        c.only_mixed = True


def test_reasons_are_shares_of_the_proposals() -> None:
    """Of all but those in the evaluation set; a valid one has no reason."""
    rejected = episode("0.0", None, proposal=Verdict.REJECTED)
    assert rejected.proposal is not None
    why = [replace(rejected, proposal=replace(rejected.proposal, reason=r)) for r in ("identity", "identity", "raises")]
    m = batch_metrics([*why, STEP[0], STEP[4]], version=0, cells=CELLS)
    shares = {key: value for key, value in m.items() if key.startswith("proposer/reasons/")}
    assert shares == {"proposer/reasons/identity": 0.5, "proposer/reasons/raises": 0.25}


def test_a_mean_of_nothing_is_left_out() -> None:
    means = {
        "solver/accuracy",
        "solver/reward",
        "solver/format_rate",
        "problems/difficulty_mean",
        "problems/unique_rate",
    }
    means |= {
        "problems/share/arithmetic/easy",
        "problems/share/arithmetic/hard",
        "problems/tier_match",
        "staleness/mean",
        "staleness/max",
    }
    means |= {"groups/zero_variance_rate", "groups/stopped_rate", "groups/informative_per_ktoken"}
    means |= {"solver/success_rate", "proposer/valid_rate", "proposer/reward", "problems/unique_rate"}
    counts = {"problems/structures", "problems/contaminated", "groups/informative"}
    assert batch_metrics([], version=0, cells=CELLS) == dict.fromkeys(counts, 0.0)
    excluded = [episode("0.0", None, proposal=Verdict.EXCLUDED)]
    assert batch_metrics(excluded, version=0, cells=CELLS) == dict.fromkeys(counts, 0.0) | {
        "problems/contaminated": 1.0
    }
    garbage = batch_metrics([episode("0.0", None, proposal=Verdict.UNPARSEABLE)], version=0, cells=CELLS)
    assert garbage.keys() - counts == {"proposer/valid_rate", "proposer/reward"} and garbage["proposer/valid_rate"] == 0
    assert means <= batch_metrics(STEP, version=0, cells=CELLS).keys()
    c = credit()
    assert c.reward_proposals(excluded, c.novelties(excluded))[1] == {}
    c = credit("improvement")
    two = np.array([-1.0, -1.0])
    logprobs = {"0.0": SequenceLogprobs(behaviour=two, before=two, after=two)}
    _, diagnostics = c.reward_proposals(STEP[:1], c.novelties(STEP[:1]), logprobs)
    assert diagnostics.keys() == {"learnability/mean", "learnability/improvement_raw"}  # one value correlates with none


def test_a_filled_place_is_not_what_the_proposer_wrote() -> None:
    """The guard against collapse sees what it writes, not what the buffer gave in its place."""
    wrote = [episode(f"0.{i}", [R, W], text="1 + 2") for i in range(4)]
    filled = [episode(f"1.{i}", [R, R], text=f"{i} + 30", cell=HARD, proposal=None) for i in range(4)]
    m = batch_metrics(wrote + filled, version=0, cells=CELLS)
    assert m["problems/unique_rate"] == 0.25 and m["problems/structures"] == 1.0
    assert m["problems/difficulty_mean"] == 0.0 and m["problems/share/arithmetic/hard"] == 0.0
    assert m["solver/accuracy"] == 0.75  # of all that was solved
    none = batch_metrics([episode("0.0", None, proposal=Verdict.UNPARSEABLE), *filled], version=0, cells=CELLS)
    assert "problems/unique_rate" not in none and none["problems/structures"] == 0
    given = batch_metrics(filled, version=0, cells=CELLS)  # without a proposer they are the step's problems
    assert given["problems/unique_rate"] == 1.0 and given["problems/share/arithmetic/hard"] == 1.0


def test_by_problem_a_solution_is_compared_with_its_group_and_a_proposal_with_its_cell() -> None:
    c = credit(by="problem")
    rewarded, _ = c.reward_proposals(STEP, c.novelties(STEP))
    rows = rows_of(c, rewarded, c.due_proposals(rewarded))
    solver = [r.advantage for r in rows if r.part == Role.SOLVER]
    assert solver == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-5)  # the group that is all right says nothing
    proposer = [r.advantage for r in rows if r.part == Role.PROPOSER]
    rewards = np.array([0.5, 0.0, -1.0, -0.5])
    assert proposer == pytest.approx((rewards - rewards.mean()) / rewards.std(), abs=1e-5)
