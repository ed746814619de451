"""Puts a report together: what was read, its sections and the browser of episodes, in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup

from azero.errors import UserError
from cluster.records.jsonl import replace
from cluster.report import figures, tables
from cluster.report.data import ESCAPES, Run, read
from cluster.report.sections import sections

HERE = Path(__file__).parent


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
