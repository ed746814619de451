"""The evaluation sets of the code domain: generated ones, and rows of CRUXEval's columns."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from azero.domains.code import evaluation
from azero.domains.code.prompts import TASKS
from azero.errors import UserError

COUNTED = "def f(words, least=1):\n    return len([w for w in words if len(w) > least])"  # a default: outside the rules
LOOP = {"code": "def f(xs):\n    for x in xs:\n        return x", "input": "[3,  4]", "output": "3", "id": "sample_0"}


@pytest.mark.parametrize("name", ["test", "dev"])
def test_generated_sets_follow_the_recipe(name: str) -> None:
    items = evaluation.load(name)
    sizes = {"1 operation": 120, "2 operations": 100, "3 operations": 80}
    found = Counter((i.label, i.operation) for i in items)
    assert found == {(task, size): n for task in TASKS for size, n in sizes.items()}
    assert all(item.label == item.problem.cell.task for item in items)
    for item in items:
        asked = item.problem.payload
        if item.problem.cell.task == "induction":
            assert [len(asked["shown"]), len(asked["hidden"])] == [2, 2]
            assert len({output for _, output in asked["shown"] + asked["hidden"]}) > 1
        elif item.problem.cell.task == "abduction":
            assert asked["output"] != asked["arguments"]


def test_the_sets_share_no_problem_and_are_known() -> None:
    forms = [item.problem.canonical for name in ("test", "dev") for item in evaluation.load(name)]
    assert len(set(forms)) == 1800
    assert all(map(evaluation.is_evaluation, forms))
    assert not evaluation.is_evaluation("")
    assert evaluation.HASH_FILE.read_text() == evaluation.build_hash_file()


def test_generated_test_set_is_frozen() -> None:
    first = {item.problem.cell.task: item.problem.statement for item in reversed(evaluation.load("test"))}
    assert first == {
        "deduction": "def f(a): return a + a\nassert f(12) == 24",
        "abduction": "def f(a): return a[:-1]\nassert 'ad' == f('adb')",
        "induction": "def f(a): return a % 3\nf(7)\nf(10)\nf(4)\nf(20)\n# a modulo 3",
    }


def rows_file(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_published_rows_are_problems_of_deduction_and_of_abduction(tmp_path: Path) -> None:
    """Also where the program is outside the domain's rules, or the input is no literal."""
    outside = {"code": COUNTED, "input": "['ab'] * 2", "output": "2"}
    deduced, counted, abduced, sought = evaluation.load(rows_file(tmp_path, [LOOP, outside]))
    assert deduced.problem.statement == f"{LOOP['code']}\nassert f([3,  4]) == 3"
    assert (deduced.problem.answer, deduced.label, deduced.operation) == ("3", "deduction", "loop")
    assert deduced.problem.canonical.endswith("\n[3, 4]")
    assert abduced.problem.statement == f"{LOOP['code']}\nassert 3 == f([3,  4])"
    assert (abduced.problem.answer, abduced.label) == ("[3,  4]", "abduction")
    assert dict(sought.problem.payload) == {"program": COUNTED, "arguments": "['ab'] * 2", "output": "2"}
    assert counted.problem.canonical.startswith("outside: ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"code": "def f(a): return a", "output": "3"}, "row 2: no input; the columns code, input, output are needed"),
        (LOOP | {"output": "3 +"}, "row 2: output '3 +' is no literal"),
        (LOOP | {"code": "def g(a): return a"}, "row 2: code 'def g(a): return a' is no program (no_function)"),
        (LOOP | {"code": "def f(a:"}, "row 2: code 'def f(a:' is no program (unparseable)"),
    ],
)
def test_bad_rows_are_user_errors(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        evaluation.load(rows_file(tmp_path, [LOOP, row]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_another_source_is_a_user_error() -> None:
    with pytest.raises(UserError, match="a Hub id such as cruxeval-org/cruxeval"):
        evaluation.load("nothing")
