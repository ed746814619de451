"""How a proposer does: what it writes for fixed prompts, and how often the model's own solver gets it right.

The journal's proposer evaluation: valid, unique, distinct structures, cell shares, and by cell of N proposals how many
were solved how often. The same prompts go to every model, so that two of them can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from azero.types import Cell, Episode, Verdict
from azero.verbatim import VerbatimTable

BINS = 11  # of the success rate: 0, 0.1, ..., 1


def proposer_summary(episodes: Sequence[Episode], cells: Sequence[Cell]) -> dict[str, Any]:
    """JSON-able summary of what was proposed in a domain of these cells.

    Places that an earlier problem filled are no proposals.

    {n, excluded (in the evaluation set), valid (share of the others), unique (share of the valid ones), structures
    (distinct), cell_shares, tier_match, reasons: {why not valid: count}, solve_rates: {cell: [11] problems by success
    rate in steps of 0.1}, success_rate (mean), learnable (share of valid problems solved sometimes, not always),
    problems: [{text, cell, requested_cell, success_rate}]}; a share or mean of nothing is left out.
    """
    proposals = [e.proposal for e in episodes if e.proposal is not None]
    excluded = sum(p.verdict is Verdict.EXCLUDED for p in proposals)
    solved = [(e.requested_cell, e.group) for e in episodes if e.proposal is not None and e.group is not None]
    groups = [group for _, group in solved]
    rates: dict[str, list[int]] = {str(cell): [0] * BINS for cell in cells}
    for group in groups:
        rates[str(group.problem.cell)][round(group.success_rate * (BINS - 1))] += 1
    summary: dict[str, Any] = {"n": len(proposals), "excluded": excluded}
    if len(proposals) > excluded:
        summary["valid"] = len(groups) / (len(proposals) - excluded)
    if groups:
        summary |= {
            "unique": len({g.problem.canonical for g in groups}) / len(groups),
            "cell_shares": {str(c): sum(g.problem.cell == c for g in groups) / len(groups) for c in cells},
            "tier_match": sum(g.problem.cell == asked for asked, g in solved) / len(groups),
            "success_rate": sum(g.success_rate for g in groups) / len(groups),
            "learnable": sum(0 < g.success_rate < 1 for g in groups) / len(groups),
        }
    return summary | {
        "structures": len({g.problem.structure for g in groups}),
        "reasons": dict(Counter(p.reason for p in proposals if p.reason).most_common()),
        "solve_rates": rates,
        "problems": [
            {
                "text": g.problem.statement,
                "cell": str(g.problem.cell),
                "requested_cell": str(asked),
                "success_rate": g.success_rate,
            }
            for asked, g in solved
        ],
    }


def proposer_table(results: Mapping[str, Mapping[str, Any]]) -> VerbatimTable:
    """One column a model; `results` are of `proposer_summary`."""
    table = VerbatimTable(title="what the proposer writes")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")

    every = list(results.values())
    table.add_row("proposals", *(str(r["n"]) for r in every))
    table.add_row("in the evaluation set", *(str(r["excluded"]) for r in every))
    for key in ("valid", "unique", "tier_match"):
        table.add_row(key.replace("_", " "), *(_percent(r.get(key)) for r in every))
    table.add_row("structures", *(str(r["structures"]) for r in every))
    table.add_row("success rate", *(_percent(r.get("success_rate")) for r in every))
    table.add_row("solved sometimes, not always", *(_percent(r.get("learnable")) for r in every))
    cells = dict.fromkeys(cell for r in every for cell in r["solve_rates"])
    for cell in cells:
        table.add_row(f"share {cell}", *(_percent(r.get("cell_shares", {}).get(cell)) for r in every))
    table.add_section()
    for cell in cells:
        counts = (" ".join(map(str, r["solve_rates"][cell])) for r in every)
        table.add_row(f"{cell}: by success rate 0, .1, ... 1", *counts)
    table.add_section()
    for reason in dict.fromkeys(reason for r in every for reason in r["reasons"]):
        table.add_row(reason.replace("_", " "), *(str(r["reasons"].get(reason, 0)) for r in every))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
