"""The figures of a report: matplotlib drawn to inline SVG, in the page's own ink so that light and dark both work."""

from __future__ import annotations

import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from azero.types import TIERS, Tier, Verdict
from cluster.report.data import Run

INK, GRID, PAGE = "#010203", "#040506", "#070809"  # stand-ins: `_svg` puts the page's own colours in their place
# Okabe and Ito's colours, told apart by colour-blind readers too, without black and yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#8c6bb1")
TIER_COLOURS: dict[str, str] = {Tier.EASY: "#56b4e9", Tier.MEDIUM: "#e69f00", Tier.HARD: "#b2474f"}
VERDICT_COLOURS: dict[str, str] = {
    Verdict.VALID: "#009e73",
    Verdict.REJECTED: "#e69f00",
    Verdict.UNPARSEABLE: "#b2474f",
    Verdict.EXCLUDED: "#7f7f7f",
}
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "azero", "text.parse_math": False,
    "font.family": "sans-serif", "font.size": 9, "axes.labelsize": 9, "legend.fontsize": 8.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.color": GRID, "ytick.color": GRID, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "figure.facecolor": "none", "lines.linewidth": 1.6, "lines.markersize": 4, "path.simplify_threshold": 0.5,
}  # fmt: skip
WIDTH, HEIGHT = 4.7, 2.6  # inches
BINS = 40  # of steps, in a picture of shares over time


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    title: str
    note: str
    svg: str
    keys: tuple[str, ...] = ()  # of metrics.jsonl, that it shows


def colours(runs: Sequence[Run]) -> dict[str, str]:
    """A colour an arm."""
    return dict(zip(dict.fromkeys(run.arm for run in runs), cycle(PALETTE)))


def draw(
    title: str, note: str, paint: Callable[[Figure], Any], height: float = HEIGHT, keys: Sequence[str] = ()
) -> Picture:
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    prefix = f"p{zlib.crc32(title.encode('utf-8', 'replace')):08x}-"
    return Picture(title=title, note=note, svg=_svg(buffer.getvalue(), prefix), keys=tuple(keys))


def _svg(drawn: str, prefix: str) -> str:
    """For use inside HTML: no XML head, ids that no other figure has, the page's colours, coordinates to 0.01 pt."""
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'( id="| xlink:href="#|url\(#)', rf"\1{prefix}", drawn)
    drawn = re.sub(r' d="[^"]*"', lambda d: re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.2f}", d[0]), drawn)
    return drawn.replace(INK, "var(--ink)").replace(GRID, "var(--line)").replace(PAGE, "var(--page)")


def step_axes(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return axes


def percent(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))


def legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest = max(map(len, labels))
        columns = 5 if longest < 10 else 3 if longest < 15 else 2
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=1.2)


def accuracy(runs: Sequence[Run]) -> Picture | None:
    """Greedy accuracy with its interval; the first evaluation as the base line."""
    evaluated = [run for run in runs if run.evals]
    colour = colours(runs)

    def paint(figure: Figure) -> None:
        axes = step_axes(figure, "step", "greedy accuracy")
        for run in evaluated:
            steps, values = [e["step"] for e in run.evals], [e["accuracy"] for e in run.evals]
            low, high = zip(*(e["interval"] for e in run.evals))
            axes.axhline(values[0], color=colour[run.arm], linestyle="--", linewidth=1)
            axes.fill_between(steps, low, high, color=colour[run.arm], alpha=0.15 / len(evaluated) ** 0.5, linewidth=0)
            axes.plot(steps, values, color=colour[run.arm], marker="o")
        percent(axes.yaxis)

    note = "Band: 95 % Wilson interval over problems. Dashed: the first evaluation (the base model)."
    return draw("Accuracy on the evaluation set", note, paint) if evaluated else None


def accuracy_by(runs: Sequence[Run], field: str, what: str) -> Picture | None:
    """First and last evaluation side by side, for every name in `by_label` or `by_operation`."""
    evaluated = [run for run in runs if run.evals]
    if not evaluated:
        return None
    colour, names = colours(runs), list(dict.fromkeys(n for run in evaluated for n in run.evals[-1][field]))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="greedy accuracy", xlim=(-0.02, 1.02))
        for i, run in enumerate(evaluated):
            before, after = run.evals[0][field], run.evals[-1][field]
            for j, name in enumerate(names):
                y = j + (i - (len(evaluated) - 1) / 2) * 0.7 / len(evaluated)
                if name not in before or name not in after:
                    continue
                (low, high), end = after[name]["interval"], after[name]["accuracy"]
                axes.plot([low, high], [y, y], color=colour[run.arm], linewidth=5, alpha=0.22)
                axes.plot([before[name]["accuracy"], end], [y, y], color=colour[run.arm], linewidth=1.2)
                axes.plot(before[name]["accuracy"], y, "o", color=colour[run.arm], markerfacecolor=PAGE)
                axes.plot(end, y, "o", color=colour[run.arm])
        axes.set_yticks(range(len(names)), [str(n).replace("_", " ") for n in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(False, axis="y")
        percent(axes.xaxis)

    note = "Open: first evaluation; filled: last one, with its 95 % interval as a band."
    return draw(f"Accuracy by {what}", note, paint, max(HEIGHT, 0.5 + 0.16 * len(names) * (1 + len(evaluated))))


def labels_over_time(run: Run) -> Picture | None:
    """Accuracy of each of the data set's labels at every evaluation."""
    if len(run.evals) < 2:
        return None
    names = list(run.evals[-1]["by_label"])

    def paint(figure: Figure) -> None:
        axes = step_axes(figure, "step", "greedy accuracy")
        for name, colour in zip(names, cycle(PALETTE)):
            points = [(e["step"], e["by_label"][name]["accuracy"]) for e in run.evals if name in e["by_label"]]
            axes.plot(*zip(*points), color=colour, marker="o", label=str(name).replace("_", " "))
        percent(axes.yaxis)
        legend(figure, axes)

    return draw(f"Accuracy by label over time{run.suffix}", "The evaluation set's own labels.", paint, HEIGHT + 0.3)


def shares(title: str, note: str, counts: Mapping[tuple[int, str], int], colour: Mapping[str, str]) -> Picture | None:
    """Stacked shares over time of the values that have a colour, and of all others together."""
    total = Counter[int]()
    for (step, _), n in counts.items():
        total[step] += n
    if not total:
        return None
    edges = _edges(total)
    known = [[n * (value == name) for (_, value), n in counts.items()] for name in colour]
    rows = [*known, [n * (value not in colour) for (_, value), n in counts.items()]]
    stacks = np.array([np.histogram([s for s, _ in counts], bins=edges, weights=row)[0] for row in rows])
    stacks = np.divide(stacks, stacks.sum(axis=0), out=np.zeros_like(stacks, dtype=float), where=stacks.sum(axis=0) > 0)

    def paint(figure: Figure) -> None:
        axes = step_axes(figure, "step", "share")
        bottom = np.zeros(len(edges) - 1)
        for name, row, c in zip([*colour, "other"], stacks, [*colour.values(), "#a9a9a9"]):
            if row.any():
                axes.stairs(bottom + row, edges, baseline=bottom, fill=True, color=c, label=_short(name), linewidth=0)
            bottom = bottom + row
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1))
        percent(axes.yaxis)
        legend(figure, axes)

    return draw(title, note, paint, HEIGHT + 0.15 * (len(colour) > 4))


def solve_rates(run: Run) -> Picture | None:
    """Histogram of the problems' success rates over time, each column one share."""
    counts = run.play.solve_rates
    if not counts:
        return None
    edges = _edges({step for step, _ in counts})
    steps, rates = zip(*counts)
    grid, *_ = np.histogram2d(rates, steps, bins=[np.arange(12) - 0.5, edges], weights=list(counts.values()))
    grid = grid / np.maximum(1, grid.sum(axis=0))

    def paint(figure: Figure) -> None:
        axes = step_axes(figure, "step", "success rate")
        extent = (edges[0], edges[-1], -0.05, 1.05)
        image = axes.imshow(grid, aspect="auto", origin="lower", extent=extent, interpolation="none", cmap="cividis")
        axes.grid(False)
        percent(axes.yaxis)
        bar = figure.colorbar(image, ax=axes, label="share of problems")
        bar.outline.set_visible(False)
        percent(bar.ax.yaxis)

    return draw(f"Solve rates over time{run.suffix}", "Success rate of each problem's solver group.", paint)


def time_totals(runs: Sequence[Run]) -> Picture | None:
    """Learner and actors: what each did in a mean step."""
    kinds = {
        "learner": (("update", "time/learn", PALETTE[0]), ("wait for batch", "time/wait_rollouts", PALETTE[5])),
        "actors": (
            ("play", "time/generate", PALETTE[2]),
            ("load weights", "time/sync", PALETTE[3]),
            ("wait for work", "time/wait_learner", PALETTE[4]),
        ),
    }
    played = [run for run in runs if run.series("time/step")[0]]
    if not played:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="seconds a step, mean over steps")
        ticks: list[str] = []
        for run in played:
            for who, parts in kinds.items():
                left = 0.0
                for name, key, colour in parts:
                    width = float(np.mean(run.series(key)[1] or [0.0]))
                    label = name if run is played[0] else ""
                    axes.barh(len(ticks), width, left=left, color=colour, label=label, height=0.7)
                    left += width
                step, y = float(np.mean(run.series("time/step")[1])), len(ticks)
                axes.plot([step, step], [y - 0.45, y + 0.45], color=INK)
                ticks.append(who if len(played) == 1 else f"{_short(run.label)}, {who}")
        axes.set_yticks(range(len(ticks)), ticks)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        legend(figure, axes)

    note = "Upright line: a whole step. Actors' times are a mean over actors, of batches, which overlap steps."
    return draw("Where the time went", note, paint, max(HEIGHT, 1.0 + 0.5 * len(played)))


def proposer_rates(run: Run) -> Picture | None:
    """Success rates of proposed problems by tier, first and last evaluation of the proposer."""
    evals = [e for e in run.proposer_evals if e.get("solve_rates")]
    if not evals:
        return None

    def paint(figure: Figure) -> None:
        for axes, tier in zip(figure.subplots(1, len(TIERS), sharey=True), TIERS):
            for e, style in (
                (evals[0], {"color": INK}),
                (evals[-1], {"color": TIER_COLOURS[tier], "fill": True, "alpha": 0.7}),
            ):
                counts = np.array(e["solve_rates"].get(tier.value, [0] * 11), dtype=float)
                axes.stairs(counts / max(1, counts.sum()), np.linspace(-0.05, 1.05, 12), **style)
            axes.set_title(tier.value, fontsize=9)
            percent(axes.xaxis)
            percent(axes.yaxis)
        figure.supxlabel("success rate", fontsize=9, color=INK)
        figure.supylabel("share of problems", fontsize=9, color=INK)

    return draw(f"Solve rates of proposals{run.suffix}", "Outline: first evaluation; filled: last one.", paint)


def _edges(steps: Any) -> np.ndarray:
    """Bin edges so that a step lies in the middle of its bin; at most BINS of them."""
    first, last = min(steps), max(steps)
    return np.linspace(first - 0.5, last + 0.5, min(BINS, last - first + 1) + 1)


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"
