"""Puts a report together: the pictures and tables of each section and the browser of episodes, in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from azero.errors import UserError
from azero.types import ROLES, Verdict
from cluster.records.jsonl import replace
from cluster.report import figures, tables
from cluster.report.data import ESCAPES, SHARES, Run, read
from cluster.report.figures import PALETTE, Curve, Picture
from cluster.report.tables import Table

HERE = Path(__file__).parent
IN_DETAIL = 4  # runs that get pictures and tables of their own
SPECS = yaml.safe_load((HERE / "sections.yaml").read_text(encoding="utf-8"))
VERDICT_COLOURS: dict[str, str] = {
    Verdict.VALID: "#009e73",
    Verdict.REJECTED: "#e69f00",
    Verdict.UNPARSEABLE: "#b2474f",
    Verdict.EXCLUDED: "#7f7f7f",
}
# Metrics that other figures show: by name, and by how they begin.
ELSEWHERE = {"step", "time_s", "weight_version"}, ("eval/", SHARES, *(f"baseline/{role}/" for role in ROLES))


def build(run_dirs: Sequence[str | Path], out: Path | None = None) -> Path:
    """Write the report of run directories and sweeps; returns the file, <first directory>/report.html by default.

    Raises UserError for a directory that holds no run, and where the file cannot be written.
    """
    source = read(run_dirs)
    runs = source.runs
    target = out or Path(run_dirs[0]) / "report.html"
    script = (HERE / "browser.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = tables.duration
    page = environment.get_template("report.html.j2").render(
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} runs",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        runs=runs,
        headline=tables.headline(runs[0]),
        comparisons=[*map(tables.sweep, source.sweeps), *([tables.summary(runs)] if len(runs) > 1 else [])],
        colours=figures.colours(runs),
        sections=sections(runs),
        configs={run.label: yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True) for run in runs},
        episodes=Markup(_episodes(runs)),
        cells=list(dict.fromkeys(cell for run in runs for cell in run.cells)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    try:
        replace(target, page.encode("utf-8", "replace"))  # a lone surrogate of a model's text becomes "?"
    except OSError as e:
        raise UserError(
            f"--out={target}: cannot be written ({e.strerror}); give a file in a folder that is there"
        ) from None
    return target


def _episodes(runs: Sequence[Run]) -> str:
    """JSON of [[run's label, [episodes]], ...]; the rows are escaped already."""
    parts = [f"[{json.dumps(run.label).translate(ESCAPES)},[{','.join(run.rows)}]]" for run in runs]
    return f"[{','.join(parts)}]"


@dataclass(slots=True, kw_only=True)
class Section:
    title: str
    text: str
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    empty: str = "No step has been recorded yet."  # what to say where there is neither
    is_collapsed: bool = False


def sections(runs: Sequence[Run]) -> list[Section]:
    """Return the sections, from what came out of a run to how it went about it."""
    detailed = list({run.arm: run for run in reversed(runs)}.values())[::-1][:IN_DETAIL]  # the first of each arm
    accuracy = [
        figures.accuracy(runs),
        figures.accuracy_by(detailed, "label"),
        figures.accuracy_by(detailed, "operation"),
        *map(figures.labels_over_time, detailed),
    ]
    baselines = [figures.baselines(run, role) for run in detailed for role in ROLES]
    own: dict[str, tuple[Iterable[Picture | None], Iterable[Table | None]]] = {
        "Accuracy": (accuracy, map(tables.by_group, detailed)),
        "Curriculum": ([*map(_cells, detailed), *map(figures.solve_rates, detailed)], map(tables.cells, detailed)),
        "Proposer": (map(figures.proposer_rates, runs), [tables.proposer(runs)]),
        "Diversity": ([*map(_novelty, detailed), *map(_structures, detailed)], map(tables.frequent, detailed)),
        "Rewards": ([*baselines, *map(_outcomes, detailed)], map(tables.reasons, detailed)),
        "Optimisation": ((), ()),
        "Synchrony": ((), ()),
        "Time": ([figures.time_totals(detailed)], ()),
    }
    found = [_section(name, runs, pictures, shown) for name, (pictures, shown) in own.items()]
    found[0].text += f" {trained_on_evaluation(runs)}"
    keys = {key for part in found for picture in part.pictures for key in picture.keys}
    others = _section("Others", runs, _others(runs, keys), ())
    return [*found, others] if others.pictures else found


def _section(name: str, runs: Sequence[Run], own: Iterable[Picture | None], shown: Iterable[Table | None]) -> Section:
    """The curves of sections.yaml come before the section's own pictures."""
    spec = dict(SPECS[name])
    pictures = [*(figures.curve(runs, Curve(**curve)) for curve in spec.pop("curves", ())), *own]
    return Section(title=name, pictures=[p for p in pictures if p], tables=[t for t in shown if t], **spec)


def _others(runs: Sequence[Run], shown: set[str]) -> list[Picture | None]:
    """A small picture of each number that the runs log and that none of `shown` is: own metrics among them."""
    names, beginnings = ELSEWHERE
    left = sorted(key for key in {key for run in runs for key in run.metrics} - shown - names)
    return [figures.curve(runs, Curve(k, k.rpartition("/")[2], [k])) for k in left if not k.startswith(beginnings)]


def trained_on_evaluation(runs: Sequence[Run]) -> str:
    """How many evaluation problems each run trained on, by its own count."""
    said = []
    for run in runs:
        counts = run.series("problems/in_evaluation").dropna()
        asked = f"task.exclude_evaluation={str(run.setting('task.exclude_evaluation')).lower()}"
        solved = run.episodes["text"].notna().sum()
        found = f"{counts.sum():,.0f} of {solved:,}" if len(counts) else "not counted"
        said.append(f"{f'{run.label}: ' if len(runs) > 1 else ''}{found} ({asked})")
    return f"Evaluation problems among those trained on: {'; '.join(said)}."


def _cells(run: Run) -> Picture | None:
    counts = run.metrics.filter(regex=f"^{SHARES}").dropna(how="all").rename(columns=lambda k: k.removeprefix(SHARES))
    colour = figures.cell_colours(run)
    return figures.shares(f"Shares of the cells{run.suffix}", "Of the problems in a batch.", counts, colour)


def _novelty(run: Run) -> Picture | None:
    names = {False: "new to the run", True: "asked before"}
    values = run.problems["canonical"].duplicated().map(names)
    colour = dict(zip(names.values(), (PALETTE[2], PALETTE[6])))
    return figures.shares(f"New problems{run.suffix}", "By canonical form.", _counts(values), colour)


def _structures(run: Run) -> Picture | None:
    totals = run.problems["structure"].value_counts()
    top = dict(zip(totals.index[:6], PALETTE))
    note = f"The {len(top)} most frequent of {len(totals)} structures."
    return figures.shares(f"Structures{run.suffix}", note, _counts(run.problems["structure"]), top)


def _outcomes(run: Run) -> Picture | None:
    counts = _counts(run.proposals["verdict"])
    return figures.shares(f"Proposals{run.suffix}", "What became of them.", counts, VERDICT_COLOURS)


def _counts(values: pd.Series) -> pd.DataFrame:
    """[steps, values]: how often."""
    return pd.crosstab(values.index, values.to_numpy())
