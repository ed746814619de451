"""What a user named is printed as it was named: nothing of it is markup, and nothing of it crashes."""

import io

import pytest
from rich.console import Console

from azero.evaluation.proposer import proposer_table
from azero.evaluation.solver import table
from azero.verbatim import VerbatimTable
from cluster.commands.comparison import comparison_table
from cluster.commands.doctor import Check, render
from cluster.run.progress import Progress

NAMES = ["[easy]", "[/x]", "[bold red]", "a[link=x]b", "\\[x]", ":bug:", "</script><b>", "[bold]y[/bold]"]


def printed(table):
    console = Console(width=250, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def result(name):
    row = {"accuracy": 0.5, "mean_at_k": None, "n": 2, "correct": 1, "interval": [0.1, 0.9]}
    names = {"by_label": {name: row}, "by_operation": {name: row}}
    return {**row, **names, "k": 0, "data": name, "problems": []}


@pytest.mark.parametrize("name", NAMES)
def test_titles_headers_and_cells(name):
    shown = VerbatimTable(name, title=name)
    shown.add_column(name)
    shown.add_row(name, name)
    assert printed(shown).count(name) == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_evaluations(name):
    assert printed(table(result(name), result(name))).count(name) == 3
    row = {"n": 1, "excluded": 0, "valid": 1.0, "unique": 1.0, "tier_match": 1.0, "structures": 1, "success_rate": 1.0}
    row |= {"learnable": 0.0, "tier_shares": dict.fromkeys(("easy", "medium", "hard"), 0.0), "reasons": {name: 1}}
    row |= {"solve_rates": dict.fromkeys(("easy", "medium", "hard"), [0] * 11)}
    assert printed(proposer_table({name: row})).count(name) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_sweeps_and_checks(name):
    arm = {"seeds": [0], "before": [0.5], "after": [0.5], "mean": 0.5, "sd": None, "interval": None, "seconds": [None]}
    arm |= {"columns": {name: [None]}, "difference": None, "failed": {}}
    found = printed(comparison_table({"name": name, "control": name, "arms": {name: arm}}))
    assert found.count(name) == 4  # title, "minus" the control, column and arm
    assert printed(render([Check(name=name, detail=name, action=name)])).count(name) == 3


@pytest.mark.parametrize("mode", ["live", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_progress(mode, name):
    out = io.StringIO()
    with Progress(10, mode, name=name, file=out) as progress:
        progress.warning(name)
        progress.step({"step": 1})
        label = {name: {"accuracy": 0.5}}
        progress.evaluation({"accuracy": 0.5, "interval": [0.1, 0.9], "n": 2, "data": name, "by_label": label}, 1)
    assert out.getvalue().count(name) >= (4 if mode == "live" else 3)
