import re
from dataclasses import replace

import pytest
from helpers import episode
from rich.console import Console

from azero.domains.expression import CELLS, EASY, HARD, MEDIUM
from azero.evaluation.proposer import proposer_summary, proposer_table
from azero.types import Verdict


def summary(episodes):
    return proposer_summary(episodes, CELLS)


R, W = Verdict.RIGHT, Verdict.WRONG


def turned_down(slot, verdict, reason):
    made = episode(slot, None, proposal=verdict)
    return replace(made, proposal=replace(made.proposal, reason=reason))


def test_the_summary_counts_each_proposal_once():
    found = summary(
        [
            episode("0", [R, R, R, R], text="1 + 1", cell=EASY),
            episode("1", [W, W, W, W], text="1 + 1", cell=EASY),
            replace(episode("2", [R, W, W, W], text="7 * 8", cell=MEDIUM), requested_cell=HARD),
            turned_down("3", Verdict.REJECTED, "no_operation"),
            turned_down("4", Verdict.UNPARSEABLE, "unparseable"),
            turned_down("5", Verdict.EXCLUDED, "in_evaluation"),
        ]
    )
    assert (found["n"], found["excluded"], found["valid"]) == (6, 1, 3 / 5)
    assert found["unique"] == 2 / 3 and found["structures"] == 1
    assert found["cell_shares"] == {str(EASY): 2 / 3, str(MEDIUM): 1 / 3, str(HARD): 0.0}
    assert found["tier_match"] == 2 / 3
    assert found["reasons"] == {"no_operation": 1, "unparseable": 1, "in_evaluation": 1}
    assert found["solve_rates"][str(EASY)] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found["solve_rates"][str(MEDIUM)] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]  # a quarter: to the nearest tenth
    assert found["success_rate"] == pytest.approx(1.25 / 3) and found["learnable"] == 1 / 3
    assert found["problems"][2] == {
        "text": "7 * 8",
        "cell": "arithmetic/medium",
        "requested_cell": "arithmetic/hard",
        "success_rate": 0.25,
    }


@pytest.mark.parametrize(
    ("right", "of", "bin"), [(0, 12, 0), (1, 12, 1), (5, 12, 4), (6, 12, 5), (11, 12, 9), (12, 12, 10)]
)
def test_a_success_rate_is_counted_at_its_nearest_tenth(right, of, bin):
    found = summary([episode("0", [R] * right + [W] * (of - right), cell=HARD)])
    assert found["solve_rates"] == {
        str(EASY): [0] * 11,
        str(MEDIUM): [0] * 11,
        str(HARD): [int(i == bin) for i in range(11)],
    }
    assert found["learnable"] == (0 < right < of)


SHARES = {"valid", "unique", "tier_match", "learnable", "success_rate", "cell_shares"}


def test_a_share_of_nothing_is_left_out():
    found = summary([turned_down("0", Verdict.EXCLUDED, "in_evaluation")])
    assert not SHARES & found.keys() and (found["n"], found["excluded"], found["structures"]) == (1, 1, 0)
    found = summary([turned_down("0", Verdict.REJECTED, "no_operation")])
    assert SHARES & found.keys() == {"valid"} and found["valid"] == 0


def test_a_place_that_was_filled_is_no_proposal():
    filled = episode("1", [R, W], text="7 * 8", cell=HARD, proposal=None)
    garbage = summary([turned_down("0", Verdict.UNPARSEABLE, "unparseable"), filled])
    assert (garbage["n"], garbage["valid"], garbage["structures"]) == (1, 0, 0)
    assert garbage["problems"] == [] and sum(map(sum, garbage["solve_rates"].values())) == 0
    assert SHARES & garbage.keys() == {"valid"}
    found = summary([episode("0", [R, R], text="1 + 1"), turned_down("1", Verdict.REJECTED, "x"), filled])
    assert (found["n"], found["valid"], found["unique"], found["success_rate"]) == (2, 0.5, 1.0, 1.0)
    assert found["cell_shares"] == {str(EASY): 1.0, str(MEDIUM): 0.0, str(HARD): 0.0} and len(found["problems"]) == 1


def rows_of(results):
    """{first cell: the others} of the printed table."""
    console = Console(width=120)
    with console.capture() as printed:
        console.print(proposer_table(results))
    cells = [[c.strip() for c in re.split("[│┃]", line)[1:-1]] for line in printed.get().splitlines()]
    return {c[0]: c[1:] for c in cells if c}


def test_two_models_stand_beside_each_other():
    one = summary([episode("0", [R, W], text="1 + 1")])
    two = summary([turned_down("0", Verdict.REJECTED, "no_operation")])
    rows = rows_of({"start": one, "step 20": two})
    assert rows[""] == ["start", "step 20"]
    assert rows["valid"] == ["100.0%", "0.0%"]
    assert rows["solved sometimes, not always"] == rows["share arithmetic/easy"] == ["100.0%", "-"]
    assert rows["success rate"] == ["50.0%", "-"]
    assert rows["arithmetic/easy: by success rate 0, .1, ... 1"][0] == "0 0 0 0 0 1 0 0 0 0 0"
    assert rows["no operation"] == ["0", "1"]


def test_one_model_stands_alone():
    rows = rows_of({"start": summary([turned_down("0", Verdict.EXCLUDED, "in_evaluation")])})
    assert rows["proposals"] == rows["in the evaluation set"] == rows["in evaluation"] == ["1"]
