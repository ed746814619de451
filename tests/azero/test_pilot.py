"""Pilot and commit: the estimate of p, the two portions of a group, and what a batch is then made of."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import comb

import pytest
from helpers import request, sample
from scripted import ScriptedEngine, rules

from azero.config import load_config
from azero.domains.arithmetic import Arithmetic
from azero.errors import UserError
from azero.pilot import unbiased_rate
from azero.play import Player, PlayRules
from azero.types import Assignment, Completion, Episode, Group, Slot, Verdict

DESIGNS = [(2, 3), (2, 16), (3, 8), (4, 16), (5, 6), (6, 16), (8, 64), (15, 16)]
PROBLEM = Arithmetic().seeds()[0]


def binomial(k: int, n: int, p: float) -> float:
    return comb(n, k) * p**k * (1 - p) ** (n - k)


def outcomes(n: int, g: int, p: float) -> list[tuple[int, int, float]]:
    """All (right, drawn) of a pilot of n and a rest of g - n, with their probabilities, draw by draw."""
    found = Counter[tuple[int, int]]()
    for x in range(n + 1):
        for y in range(g - n + 1):
            at = (x + y, g) if 0 < x < n else (x, n)
            found[at] += binomial(x, n, p) * binomial(y, g - n, p)
    return [(*at, probability) for at, probability in found.items()]


@pytest.mark.parametrize(("n", "g"), DESIGNS)
def test_the_estimate_has_the_mean_p_over_all_outcomes_and_the_share_has_not(n: int, g: int) -> None:
    for p in (0.0, 0.01, 0.2, 0.5, 0.77, 0.95, 1.0):
        every, q = outcomes(n, g, p), 1 - p
        assert sum(weight for _, _, weight in every) == pytest.approx(1, abs=1e-12)
        mean = sum(unbiased_rate(right, drawn, n) * weight for right, drawn, weight in every)
        assert mean == pytest.approx(p, abs=1e-12)
        naive = sum(right / drawn * weight for right, drawn, weight in every)
        assert naive - p == pytest.approx((1 - n / g) * p * q * (p ** (n - 1) - q ** (n - 1)), abs=1e-12)
    naive = sum(right / drawn * weight for right, drawn, weight in outcomes(4, 16, 0.2))
    assert naive == pytest.approx(0.2 - 0.06048)  # 3/4 * 0.16 * (0.008 - 0.512): nearly a third of p


def test_the_estimate_by_hand() -> None:
    assert [unbiased_rate(0, 4, 4), unbiased_rate(4, 4, 4)] == [0, 1]
    assert unbiased_rate(3, 16) == 3 / 16  # without a pilot
    # Pilot 3 of 4 samples, 2 right: of C(3,x) C(1,2-x) ways 3 have x = 1 and 3 have x = 2; (3/3 + 3 * 2/3) / 6 = 1/2.
    assert unbiased_rate(2, 4, 3) == 1 / 2
    # 1 right: x = 1 alone is mixed; 3 right: x = 2 in 3 ways (x = 3 would have stopped).
    assert [unbiased_rate(1, 4, 3), unbiased_rate(3, 4, 3)] == [1 / 3, 2 / 3]
    assert {unbiased_rate(right, 16, 2) for right in range(1, 16)} == {1 / 2}


def test_a_group_knows_its_pilot() -> None:
    right, wrong = sample(), sample(verdict=Verdict.WRONG, reward=-0.5)
    mixed = Group(id="0", problem=PROBLEM, samples=(right, wrong, wrong, right), pilot=3)
    assert (mixed.success_rate, mixed.is_mixed, mixed.is_stopped) == (1 / 2, True, False)
    stopped = replace(mixed, samples=(wrong, wrong, sample(verdict=Verdict.MALFORMED, reward=-1.0)))
    assert (stopped.success_rate, stopped.is_mixed, stopped.is_stopped) == (0, False, True)
    assert not replace(mixed, samples=(), pilot=0).is_stopped and not replace(stopped, pilot=0).is_stopped


class Coin(ScriptedEngine):
    """Solves each problem with the chance p, and proposes nothing."""

    def __init__(self, p: float) -> None:
        super().__init__([], [])
        self.p, self.rng = p, random.Random(7)

    def _completion(self, policy: str, prompt: str, text: str) -> Completion:
        answer = PROBLEM.answer if self.rng.random() < self.p else "0"
        return super()._completion(policy, prompt, answer)

    def step(self) -> list:  # type: ignore[type-arg]
        self.answers = [""] * self.queue[-1][2]
        return super().step()


def piloted(pilot: int, solutions: int, counts: bool = True, barrier: bool = False) -> PlayRules:
    return replace(rules(barrier), pilot=pilot, solutions=solutions, stopped_count=counts)


def play(engine: ScriptedEngine, how: PlayRules, slots: Sequence[Slot], reserve: int = 0) -> list[Episode]:
    player = Player(engine, Arithmetic(), how)  # type: ignore[arg-type]
    return player.play(Assignment(id="0/0", batch=0, slots=tuple(slots), reserve=reserve))


def slot(name: str, tries: int = 1) -> Slot:
    return Slot(id=name, tries=(request("1 + 1"),) * tries)


def groups_of(episodes: Sequence[Episode]) -> list[Group]:
    return [e.group for e in episodes if e.group is not None]


def test_played_groups_have_the_mean_p_where_shares_are_far_off() -> None:
    slots = [Slot(id=f"0.{i}", problem=PROBLEM) for i in range(1000)]
    groups = groups_of(play(Coin(0.2), piloted(4, 16), slots))
    assert Counter(len(g.samples) for g in groups).keys() == {4, 16}
    # The estimate is at least 1/4 where mixed: its deviation is under 0.17, that of a mean of 1000 under 0.006.
    assert sum(g.success_rate for g in groups) / 1000 == pytest.approx(0.2, abs=0.02)
    shares = sum(sum(s.correct for s in g.samples) / len(g.samples) for g in groups) / 1000
    assert shares == pytest.approx(0.2 - 0.0605, abs=0.02)


@pytest.mark.parametrize("barrier", [False, True])
def test_a_group_is_asked_for_in_two_portions_of_one_prompt(barrier: bool) -> None:
    right = PROBLEM.answer
    pilot, rest, other = ["x", right], ["0", "1", right], ["y", "z"]
    engine = ScriptedEngine([], [*pilot, *other, *rest] if barrier else [*pilot, *rest, *other])
    slots = [Slot(id="0.0", problem=PROBLEM), Slot(id="0.1", problem=PROBLEM)]
    stopped, mixed = groups_of(play(engine, piloted(2, 5, barrier=barrier), slots))  # the newest request ends first
    assert [s.completion.text for s in mixed.samples] == [*pilot, *rest]
    assert [s.completion.text for s in stopped.samples] == other
    assert len(set(engine.asked)) == 1 and len(engine.asked) == 3
    assert mixed.pilot == stopped.pilot == 2 and stopped.is_stopped and not mixed.is_stopped


@pytest.mark.parametrize("barrier", [False, True])
def test_without_a_pilot_nothing_is_asked_for_otherwise(barrier: bool) -> None:
    engines = [ScriptedEngine(["2 + 3", "x", "4 + 4"], ["5", "5", "8", "1"]) for _ in range(2)]
    slots = [slot("0.0", tries=2), slot("0.1", tries=2)]
    plain = play(engines[0], rules(barrier), slots)
    assert plain == play(engines[1], piloted(0, 2, barrier=barrier), slots) and engines[0].asked == engines[1].asked
    assert [g.pilot for g in groups_of(plain)] == [0, 0]


@pytest.mark.parametrize("barrier", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_a_batch_of_samples_is_never_over_its_size_and_under_it_by_less_than_a_group(p: float, barrier: bool) -> None:
    """8 problems of 16, of which 4 are first: 128 samples, of at most 32 problems."""
    slots = [Slot(id=f"0.{i}", problem=PROBLEM) for i in range(32)]
    groups = groups_of(play(Coin(p), piloted(4, 16, barrier=barrier), slots, reserve=24))
    drawn = sum(len(g.samples) for g in groups)
    assert 128 - 16 < drawn <= 128 and [g.id for g in groups] == [f"0.{i}" for i in range(len(groups))]
    if p in (0, 1):
        assert len(groups) == 29  # 28 leave 16 samples over, so that one starts more, and then 12, which are too few


@pytest.mark.parametrize("barrier", [False, True])
def test_a_batch_of_signal_has_its_mixed_groups_or_has_used_up_its_reserve(barrier: bool) -> None:
    slots = [Slot(id=f"0.{i}", problem=PROBLEM) for i in range(32)]
    how = piloted(4, 16, counts=False, barrier=barrier)
    groups = groups_of(play(Coin(0.3), how, slots, reserve=24))
    assert sum(g.is_mixed for g in groups) == 8 and any(g.is_stopped for g in groups)
    assert sum(g.is_mixed for g in groups_of(play(Coin(0.01), how, slots, reserve=24))) < 8
    assert len(groups_of(play(Coin(0.0), how, slots, reserve=24))) == 32


@pytest.mark.parametrize("barrier", [False, True])
def test_a_slot_without_a_problem_leaves_its_room_to_the_reserve(barrier: bool) -> None:
    engine = ScriptedEngine(["x", "y", "2 + 3"], ["5", "1", "2", "3"])
    slots = [slot(f"0.{i}", tries=2) for i in range(3)]
    episodes = play(engine, piloted(2, 4, barrier=barrier), slots, reserve=2)
    assert [(e.id, e.group is not None) for e in episodes] == [("0.0.0", False), ("0.0.1", False), ("0.1.0", True)]


def test_with_a_barrier_waves_are_proposals_and_then_groups_in_the_order_of_slots() -> None:
    # Three wrong pilots free six samples of twelve, so that one slot more starts.
    proposals = ["4 + 4", "3 + 3", "2 + 3", "1 + 6"]  # slots 2, 1, 0, and then the reserve's
    engine = ScriptedEngine(proposals, ["x"] * 6 + ["7", "x", "7", "7"])
    episodes = play(engine, piloted(2, 4, barrier=True), [slot(f"0.{i}") for i in range(5)], reserve=2)
    problems = ["2 + 3", "3 + 3", "4 + 4", "1 + 6", "1 + 6"]
    assert [a for a in engine.asked if a.startswith("Calculate")] == [f"Calculate: {p} = " for p in problems]
    assert [a.startswith("Calculate") for a in engine.asked] == [False] * 3 + [True] * 3 + [False] + [True] * 2
    assert [len(g.samples) for g in groups_of(episodes)] == [2, 2, 2, 4]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.pilot=1"], "rollout.pilot=1: must be at least 2"),
        (["rollout.pilot=16"], "less than rollout.solutions_per_problem=16"),
        (["rollout.batch_of=signal"], "rollout.batch_of=signal: is for pilots"),
        (["rollout.batch_of=all", "rollout.pilot=4"], "rollout.batch_of"),
        (["rollout.pilot=4"], "reward.learnability=improvement with rollout.pilot=4"),
        (["rollout.pilot=4", "task.source=solver_only"], "reward.learnability=improvement with rollout.pilot=4"),
        (
            ["rollout.pilot=4", "policies=separate", "rollout.actors=2", "rollout.roles.proposer=1"]
            + ["rollout.roles.solver=1"],
            "rollout.pilot=4 with rollout.roles.proposer=1",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config("local", overrides)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_the_pilots_of_slots_and_reserve_are_as_many_samples_as_a_batch() -> None:
    rollout = load_config("local", ["rollout.pilot=4", "reward.learnability=variance"]).rollout
    assert (rollout.problems_per_step, rollout.solutions_per_problem, rollout.reserve) == (32, 16, 96)
    assert load_config("local").rollout.reserve == 0
