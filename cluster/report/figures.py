"""The figures of a report: matplotlib drawn to inline SVG, in the page's own ink so that light and dark both work."""

from __future__ import annotations

import fnmatch
import io
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cluster.report.data import Run

INK, GRID, PAGE = "#010203", "#040506", "#070809"  # stand-ins: `_svg` puts the page's own colours in their place
# Okabe and Ito's colours, told apart by colour-blind readers too, without black and yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#8c6bb1")
CELL_PALETTE = ("#56b4e9", "#e69f00", "#b2474f", "#009e73", "#0072b2", "#cc79a7", "#8c6bb1", "#7f7f7f")
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "azero", "text.parse_math": False,
    "font.family": "sans-serif", "font.size": 9, "axes.labelsize": 9, "legend.fontsize": 8.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.color": GRID, "ytick.color": GRID, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "axes.titlesize": 9, "figure.labelsize": 9, "figure.facecolor": "none",
    "lines.linewidth": 1.6, "lines.markersize": 4, "path.simplify_threshold": 0.5,
}  # fmt: skip
WIDTH, HEIGHT = 4.7, 2.6  # inches
BINS = 40  # of steps, in a picture of shares over time
POINTS = 300  # drawn of one curve
# Of the first of several curves, of the second, ...: an earlier one shows on both sides of a later one that equals it.
WIDTHS, STRENGTHS, STYLES = (4.0, 1.8, 1.2), (0.4, 1.0, 1.0), ("-", "--", ":")


@dataclass(slots=True)
class Picture:
    title: str
    note: str
    keys: Sequence[str]  # of metrics.jsonl, that it shows
    svg: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Metrics over steps in one picture: a colour a run, a line style a metric."""

    title: str
    unit: str
    keys: Sequence[str]  # of metrics.jsonl; "entropy/*" is that of each policy, or part, that has one of its own
    note: str = ""
    limits: Sequence[float | None] = (None, None)
    scale: str = "linear"  # or log


@contextmanager
def draw(
    title: str, note: str = "", height: float = HEIGHT, keys: Sequence[str] = (), x: str = "step", y: str = ""
) -> Iterator[tuple[Picture, Axes]]:
    """Axes to paint on; the picture has its SVG, with a legend of what was labelled, when the block has ended.

    The page's reader has the fonts, which matplotlib may lack: it only measures texts, and need not warn.
    """
    picture = Picture(title, note, keys)
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        if x == "step":
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        yield picture, axes
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            longest = max(map(len, labels))
            columns = 5 if longest < 10 else 3 if longest < 15 else 2
            figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=1.2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    picture.svg = _svg(buffer.getvalue(), f"p{zlib.crc32(title.encode()):08x}-")


def _svg(drawn: str, prefix: str) -> str:
    """Prepare the figure for HTML: no XML head, ids of its own, the page's colours, coordinates to 0.01 pt."""
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'( id="| xlink:href="#|url\(#)', rf"\1{prefix}", drawn)
    drawn = re.sub(r' d="[^"]*"', lambda d: re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.2f}", d[0]), drawn)
    return drawn.replace(INK, "var(--ink)").replace(GRID, "var(--line)").replace(PAGE, "var(--page)")


def colours(runs: Sequence[Run]) -> dict[str, str]:
    """A colour an arm."""
    return dict(zip(dict.fromkeys(run.arm for run in runs), cycle(PALETTE)))


def cell_colours(run: Run) -> dict[str, str]:
    return dict(zip(run.cells, cycle(CELL_PALETTE)))


def percent(*axes: Any) -> None:
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))


def curve(runs: Sequence[Run], spec: Curve) -> Picture | None:
    """None where no run has any of the metrics yet."""
    colour = colours(runs)
    keys = [key for key in _expanded(runs, spec.keys) if any(r.series(key).count() for r in runs)]
    found = [(run, i, values) for run in runs for i, key in enumerate(keys) if (values := run.series(key)).count()]
    if not found:
        return None
    linear = spec.scale == "linear"
    with draw(spec.title, spec.note, keys=keys, y=spec.unit) as (picture, axes):
        for run, i, values in found:
            if linear and len(runs) <= 4:
                raw = values[:: -(-len(values) // POINTS)]
                axes.plot(raw.index, raw, color=colour[run.arm], alpha=0.25, linewidth=0.8)
            order = i if len(keys) > 1 else list(colour).index(run.arm) if len(colour) > 1 else 1
            style = STYLES[i % len(STYLES)]
            plot(axes, smooth(values) if linear else values, order, color=colour[run.arm], linestyle=style)
        axes.set_yscale(spec.scale)
        if not linear:  # matplotlib's own labels are in mathematical notation, which is switched off here
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        flat = not any(values.fillna(0).any() for *_, values in found)  # a flat zero has no scale of its own
        axes.set_ylim(*((0, 1) if flat else spec.limits))
        if spec.unit == "share":
            percent(axes.yaxis)
        for i, key in enumerate(keys if len(keys) > 1 else ()):
            plot(axes, pd.Series(dtype=float), i, color=INK, linestyle=STYLES[i % len(STYLES)], label=key)
    return picture


def _expanded(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    logged = sorted({key for run in runs for key in run.metrics})
    return [found for key in keys for found in ([key] if "*" not in key else fnmatch.filter(logged, key))]


def plot(axes: Axes, values: pd.Series, order: int = 1, **style: Any) -> None:
    """Over the steps of the index a line that breaks at nan, with a mark where a value stands alone.

    `order`: of curves that may be equal.
    """
    order = min(order, len(WIDTHS) - 1)
    there = values.notna().to_numpy()
    before, after = np.append(False, there[:-1]), np.append(there[1:], False)
    chosen = (np.arange(len(values)) % max(1, -(-len(values) // POINTS)) == 0) | (~there & before)  # each gap, too
    axes.plot(values.index[chosen], values[chosen], linewidth=WIDTHS[order], alpha=STRENGTHS[order], **style)
    alone = there & ~before & ~after
    axes.plot(values.index[alone], values[alone], "o", color=style["color"])


def smooth(values: pd.Series) -> pd.Series:
    """Mean over the neighbouring twentieth of the steps, `values` itself where they are few; nan where they are nan."""
    window = 2 * (len(values) // 40) + 1
    return values.rolling(window, center=True, min_periods=1).mean().where(values.notna())


def by_name(
    run: Run, title: str, unit: str, values: pd.DataFrame, colour: Mapping[str, str], marker: str = "", **rest: Any
) -> Picture | None:
    """A curve a column, by the column's name; None where there is no value."""
    if not values.count().any():
        return None
    with draw(f"{title}{run.suffix}", **rest, y=unit) as (picture, axes):
        for order, name in enumerate(values):
            plot(axes, values[name], order, color=colour[name], marker=marker, label=_short(_words(name)))
        if unit != "reward":
            percent(axes.yaxis)
    return picture


def baselines(run: Run, role: str) -> Picture | None:
    """The moving averages of one role's reward."""
    prefix = f"baseline/{role}/"
    found = run.metrics.filter(regex=f"^{prefix}").rename(columns=lambda key: key.removeprefix(prefix))
    colour = cell_colours(run)
    colour |= {name: c for name, c in zip(found, cycle(PALETTE)) if name not in colour}  # where not by cell
    found = found[sorted(found, key=list(colour).index)]
    return by_name(run, f"Baselines of the {role}", "reward", found, colour, keys=[f"{prefix}<cell>"])


def labels_over_time(run: Run) -> Picture | None:
    """Accuracy of each of the data set's labels at every evaluation."""
    if len(run.evals) < 2:
        return None
    parts = [{name: part["accuracy"] for name, part in e["by_label"].items()} for e in run.evals]
    found = pd.DataFrame(parts, [e["step"] for e in run.evals], dtype=float)
    note, colour = "The evaluation set's own labels.", dict(zip(found, cycle(PALETTE)))
    title = "Accuracy by label over time"
    return by_name(run, title, "greedy accuracy", found, colour, marker="o", note=note, height=HEIGHT + 0.3)


def accuracy(runs: Sequence[Run]) -> Picture | None:
    """Greedy accuracy with its interval; the first evaluation as the base line."""
    evaluated = [run for run in runs if run.evals]
    if not evaluated:
        return None
    note = "Band: 95 % Wilson interval over problems. Dashed: the first evaluation (the base model)."
    with draw("Accuracy on the evaluation set", note, y="greedy accuracy") as (picture, axes):
        for run in evaluated:
            style: dict[str, Any] = {"color": colours(runs)[run.arm]}
            found = pd.DataFrame([[e["accuracy"], *e["interval"]] for e in run.evals], dtype=float)
            steps = [e["step"] for e in run.evals]
            axes.axhline(found[0][0], linestyle="--", linewidth=1, **style)
            axes.fill_between(steps, found[1], found[2], alpha=0.15 / len(evaluated) ** 0.5, linewidth=0, **style)
            axes.plot(steps, found[0], marker="o", **style)
        percent(axes.yaxis)
    return picture


def accuracy_by(runs: Sequence[Run], what: str) -> Picture | None:
    """First and last evaluation side by side, for every label or operation."""
    evaluated = [run for run in runs if run.evals]
    if not evaluated:
        return None
    names = list(dict.fromkeys(n for run in evaluated for n in run.evals[-1][f"by_{what}"]))
    note = "Open: first evaluation; filled: last one, with its 95 % interval as a band."
    height = max(HEIGHT, 0.5 + 0.16 * len(names) * (1 + len(evaluated)))
    with draw(f"Accuracy by {what}", note, height, x="greedy accuracy") as (picture, axes):
        for i, run in enumerate(evaluated):
            before, after = (run.evals[at][f"by_{what}"] for at in (0, -1))
            both = [name for name in names if name in before and name in after]
            found = [[before[n]["accuracy"], after[n]["accuracy"], *after[n]["interval"]] for n in both]
            start, end, low, high = np.array(found, dtype=float).reshape(-1, 4).T
            y = np.array([*map(names.index, both)]) + (i - (len(evaluated) - 1) / 2) * 0.7 / len(evaluated)
            colour = colours(runs)[run.arm]
            axes.hlines(y, low, high, linewidth=5, alpha=0.22, color=colour)
            axes.hlines(y, start, end, linewidth=1.2, color=colour)
            axes.plot(start, y, "o", markerfacecolor=PAGE, color=colour)
            axes.plot(end, y, "o", color=colour)
        axes.set_yticks(range(len(names)), [_short(_words(n)) for n in names])
        axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
        axes.grid(False, axis="y")
        percent(axes.xaxis)
    return picture


def shares(title: str, note: str, counts: pd.DataFrame, colour: Mapping[str, str]) -> Picture | None:
    """Stacked shares over time of the columns that have a colour, and of all others together. counts: [steps, names]"""
    if counts.empty:
        return None
    names = [*colour, "other"]
    stacks, edges = _binned(counts.T.groupby(lambda n: n if n in colour else "other").sum().T.reindex(columns=names))
    with draw(title, note, HEIGHT + 0.15 * (len(colour) > 4), y="share") as (picture, axes):
        tops = stacks.cumsum(axis=1)
        for name, c in zip(names, [*colour.values(), "#a9a9a9"]):
            if stacks[name].any():
                style: dict[str, Any] = {"color": c, "label": _short(_words(name)), "linewidth": 0}
                axes.stairs(tops[name], edges, baseline=tops[name] - stacks[name], fill=True, **style)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1))
        percent(axes.yaxis)
    return picture


def solve_rates(run: Run) -> Picture | None:
    """Histogram of the problems' success rates over time, each column one share."""
    rates = run.problems["rate"].dropna().astype(float)
    if rates.empty:
        return None
    grid, edges = _binned(pd.crosstab(rates.index, np.floor(10 * rates + 0.5)).reindex(columns=range(11)))
    note = "Success rate of each problem's solver group."
    with draw(f"Solve rates over time{run.suffix}", note, y="success rate") as (picture, axes):
        extent = (edges[0], edges[-1], -0.05, 1.05)
        image = axes.imshow(grid.T, aspect="auto", origin="lower", extent=extent, interpolation="none", cmap="cividis")
        axes.grid(False)
        bar = axes.figure.colorbar(image, ax=axes, label="share of problems")
        bar.outline.set_visible(False)
        percent(axes.yaxis, bar.ax.yaxis)
    return picture


def time_totals(runs: Sequence[Run]) -> Picture | None:
    """Learner and actors: what each did in a mean step."""
    kinds = {
        "learner": {"time/learn": "update", "time/wait_rollouts": "wait for batch"},
        "actors": {"time/generate": "play", "time/sync": "load weights", "time/wait_learner": "wait for work"},
    }
    played = [run for run in runs if run.series("time/step").count()]
    if not played:
        return None
    note = "Upright line: a whole step. Actors' times are a mean over actors, of batches, which overlap steps."
    x, height = "seconds a step, mean over steps", max(HEIGHT, 1.0 + 0.5 * len(played))
    with draw("Where the time went", note, height, x=x) as (picture, axes):
        colour = iter((PALETTE[0], PALETTE[5], *PALETTE[2:5]))
        for i, parts in enumerate(kinds.values()):
            y, left = np.arange(i, 2 * len(played), 2), np.zeros(len(played))
            for key, name in parts.items():
                widths = np.nan_to_num([run.series(key).mean() for run in played])
                axes.barh(y, widths, left=left, color=next(colour), label=name, height=0.7)
                left += widths
            axes.vlines([run.series("time/step").mean() for run in played], y - 0.45, y + 0.45, color=INK)
        ticks = [f"{_short(run.label)}, {who}" if len(played) > 1 else who for run in played for who in kinds]
        axes.set_yticks(range(len(ticks)), ticks)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    return picture


def proposer_rates(run: Run) -> Picture | None:
    """Success rates of proposed problems by cell, first and last evaluation of the proposer."""
    evals = [e["solve_rates"] for e in run.proposer_evals if e.get("solve_rates")]
    if not evals:
        return None
    cells, scale, note = list(evals[-1]), ["0%", "", "100%"], "Outline: first evaluation; filled: last one."
    title = f"Solve rates of proposals{run.suffix}"
    with draw(title, note, x="success rate", y="share of problems") as (picture, axes):
        for i, cell in enumerate(cells):
            edges = 1.6 * i + np.linspace(-0.05, 1.05, 12)
            first, last = (np.array(e.get(cell, [0] * 11), dtype=float) for e in (evals[0], evals[-1]))
            axes.stairs(first / max(1, first.sum()), edges, color=INK)
            style: dict[str, Any] = {"color": cell_colours(run)[cell], "label": _short(cell), "alpha": 0.7}
            axes.stairs(last / max(1, last.sum()), edges, fill=True, **style)
        axes.set_xticks([1.6 * i + rate for i in range(len(cells)) for rate in (0, 0.5, 1)], scale * len(cells))
        percent(axes.yaxis)
    return picture


def _binned(counts: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Shares of each row's sum in at most BINS bins of steps, and the edges: a step lies in the middle of its bin."""
    first, last = counts.index.min(), counts.index.max()
    edges = np.linspace(first - 0.5, last + 0.5, min(BINS, last - first + 1) + 1)
    sums = counts.groupby(pd.cut(counts.index, edges), observed=False).sum()
    return sums.div(sums.sum(axis=1).replace(0, np.nan), axis=0).fillna(0.0), edges


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"
