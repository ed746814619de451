"""The control flow of an assignment, with an engine that answers from a script."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from helpers import request
from scripted import ScriptedEngine, rules

from azero.domains.arithmetic import Arithmetic
from azero.play import Player
from azero.policies import Policies, Policy
from azero.types import Assignment, Episode, Role, Slot, Verdict


def slot(name: str, tries: int = 2) -> Slot:
    return Slot(id=name, tries=(request("1 + 1"),) * tries)


def play(engine: ScriptedEngine, slots: Sequence[Slot], barrier: bool = False) -> list[Episode]:
    player = Player(engine, Arithmetic(), rules(barrier))  # type: ignore[arg-type]
    return player.play(Assignment(id="3/0", batch=3, slots=tuple(slots)))


def test_a_rejected_proposal_is_an_episode_and_is_tried_again() -> None:
    engine = ScriptedEngine(["1 + 1", "2 + 3"], ["5", "6"])
    first, second = play(engine, [slot("3.0")])
    assert (first.id, first.group, first.proposal.verdict, first.proposal.reason) == (
        "3.0.0",
        None,
        Verdict.REJECTED,
        "repeats_reference",
    )
    assert second.id == "3.0.1" and second.batch == 3 and second.group.id == "3.0"
    assert [s.verdict for s in second.group.samples] == [Verdict.RIGHT, Verdict.WRONG]
    assert [s.reward for s in second.group.samples] == [1.0, -0.5]
    assert second.group.success_rate == 0.5
    assert second.group.problem.author_version == 4
    assert second.group.samples[0].completion.version == 4


def test_tries_are_bounded() -> None:
    episodes = play(ScriptedEngine(["x"] * 3, []), [slot("0.0", tries=3)])
    assert [e.proposal.verdict for e in episodes] == [Verdict.UNPARSEABLE] * 3
    assert all(e.group is None for e in episodes)


def test_a_problem_fills_a_slot_whose_tries_all_failed() -> None:
    earlier = Arithmetic().seeds()[0]
    tries = slot("0.0").tries
    failed = play(ScriptedEngine(["x", "y"], [earlier.answer, "0"]), [Slot(id="0.0", tries=tries, problem=earlier)])
    assert [e.id for e in failed] == ["0.0.0", "0.0.1", "0.0.2"] and [e.group is None for e in failed] == [
        True,
        True,
        False,
    ]
    assert failed[2].proposal is None and failed[2].group.problem == earlier and failed[2].group.success_rate == 0.5
    (proposed,) = play(ScriptedEngine(["2 + 3"], ["5", "5"]), [Slot(id="0.0", tries=tries, problem=earlier)])
    assert proposed.group.problem.statement == "2 + 3"


def test_a_problem_of_another_tier_is_taken_or_rejected_as_configured() -> None:
    def play_hard_and_easy(other_tiers: bool) -> list[Episode]:
        engine = ScriptedEngine(["12 + 13", "2 + 3"], ["25", "5"] * 2)
        player = Player(engine, Arithmetic(), rules(False, other_tiers=other_tiers))  # type: ignore[arg-type]
        return player.play(Assignment(id="0/0", batch=0, slots=(slot("0.0"),)))

    (taken,) = play_hard_and_easy(True)
    assert taken.proposal.verdict is Verdict.VALID and taken.group.problem.statement == "12 + 13"
    rejected, again = play_hard_and_easy(False)
    assert (rejected.proposal.verdict, rejected.proposal.reason) == (Verdict.REJECTED, "other_tier")
    assert again.group.problem.statement == "2 + 3"


def test_episodes_come_in_the_order_of_slots_whatever_ends_first() -> None:
    for barrier in (False, True):
        engine = ScriptedEngine(["2 + 3", "4 + 4", "x", "1 * 2"], ["5"] * 6)
        episodes = play(engine, [slot("0.0"), slot("0.1"), slot("0.2")], barrier)
        assert [e.id for e in episodes] == sorted(e.id for e in episodes)
        assert len([e for e in episodes if e.group]) == 3


def test_with_a_barrier_all_proposals_end_before_solving_starts_in_slot_order() -> None:
    engine = ScriptedEngine(["2 + 3", "x", "4 + 4"], ["5"] * 4)
    play(engine, [slot("0.0"), slot("0.1")], barrier=True)
    kinds = [p.startswith("Calculate") for p in engine.asked]
    assert kinds == [False, False, False, True, True]
    # the engine ends the newest first: slot 1 got "2 + 3", slot 0 got "x" and then "4 + 4"
    assert engine.asked[3:] == ["Calculate: 4 + 4 = ", "Calculate: 2 + 3 = "]


def test_without_a_barrier_a_group_starts_when_its_problem_is_valid() -> None:
    engine = ScriptedEngine(["2 + 3", "4 + 4"], ["5"] * 4)
    play(engine, [slot("0.0"), slot("0.1")])
    assert [p.startswith("Calculate") for p in engine.asked] == [False, False, True, True]
    assert engine.asked[2] == "Calculate: 2 + 3 = "  # before slot 0 had its proposal


def test_given_problems_have_no_proposal() -> None:
    given = Arithmetic().seeds()[0]
    (episode,) = play(ScriptedEngine([], [given.answer, "x"]), [Slot(id="0.0", problem=given)])
    assert episode.proposal is None and episode.requested_cell == given.cell
    assert [s.verdict for s in episode.group.samples] == [Verdict.RIGHT, Verdict.MALFORMED]


def test_each_role_is_played_by_its_policy() -> None:
    writer, reader = Policy(name="writer", roles=(Role.PROPOSER,)), Policy(name="reader", roles=(Role.SOLVER,))
    policies = Policies((writer, reader))
    player = Player(ScriptedEngine(["2 + 3"], ["5", "5"]), Arithmetic(), rules(False), policies=policies)  # type: ignore[arg-type]
    (episode,) = player.play(Assignment(id="0/0", batch=0, slots=(slot("0.0"),)))
    assert episode.proposal.completion.policy == "writer"
    assert [s.completion.policy for s in episode.group.samples] == ["reader", "reader"]


@pytest.mark.parametrize("barrier", [False, True])
def test_proposer_and_solver_apart_make_what_one_player_does(barrier: bool) -> None:
    earlier = Arithmetic().seeds()[0]
    slots = (slot("0.0"), Slot(id="0.1", tries=slot("0.1", tries=1).tries, problem=earlier))
    proposals, answers = ["y", "x", "2 + 3"], [earlier.answer, "z", "5", "6"]  # slot 0.1's come first

    def played(proposals: list[str], answers: list[str], slots: tuple[Slot, ...], *roles: Role) -> list[Episode]:
        engine = ScriptedEngine(proposals, answers)
        player = Player(engine, Arithmetic(), rules(barrier), roles=roles)  # type: ignore[arg-type]
        return player.play(Assignment(id="0/0", batch=0, slots=slots))

    proposed = played(proposals, [], slots, Role.PROPOSER)
    left = tuple(Slot(id=e.group.id, problem=e.group.problem) for e in proposed if e.group and not e.group.samples)
    assert [(s.id, s.problem.statement) for s in left if s.problem] == [("0.0", "2 + 3"), ("0.1", earlier.statement)]
    solved = {e.group.id: e.group for e in played([], answers, left, Role.SOLVER) if e.group}
    merged = [replace(e, group=solved[e.group.id]) if e.group else e for e in proposed]
    assert merged == played(proposals, answers, slots, *Role)
    assert [e.group and e.group.success_rate for e in merged] == [None, 0.5, None, 0.5]


def test_a_list_mark_stands_before_each_reference_and_asks_for_the_next() -> None:
    engine = ScriptedEngine([" 2 + 3"], ["5", "6"])
    player = Player(engine, Arithmetic(), rules(False, list_mark="- "))  # type: ignore[arg-type]
    (episode,) = player.play(Assignment(id="0/0", batch=0, slots=(slot("0.0"),)))
    assert engine.asked[0] == episode.prompt == "Different easy problems:\n- 1 + 1\n-"
    assert episode.group.problem.statement == "2 + 3" and episode.group.prompt == "Calculate: 2 + 3 = "
    assert episode.references == ("1 + 1",)


def test_in_chat_a_list_mark_stands_before_each_reference_and_the_template_ends_the_prompt() -> None:
    engine = ScriptedEngine(["x"], [])
    player = Player(engine, Arithmetic(), rules(False, list_mark="- ", chat=True))  # type: ignore[arg-type]
    (episode,) = player.play(Assignment(id="0/0", batch=0, slots=(slot("0.0", tries=1),)))
    assert engine.asked == [episode.prompt] and episode.prompt.endswith("</user>")
    assert "\n- 1 + 1\n" in episode.prompt and episode.prompt.count("\n-") == 1
