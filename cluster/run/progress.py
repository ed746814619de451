"""What a run shows while it goes: one live display on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# (name in the display, name in a plain line, metric, format), in the order of both.
FIELDS = (
    ("evaluation accuracy", "eval", "eval/accuracy", "{:.1%}"),
    ("solver accuracy", "solver", "solver/accuracy", "{:.1%}"),
    ("solver reward", "reward", "solver/reward", "{:+.3f}"),
    ("proposer reward", "proposer", "proposer/reward", "{:+.3f}"),
    ("valid proposals", "valid", "proposer/valid_rate", "{:.1%}"),
    ("unique problems", "unique", "problems/unique_rate", "{:.1%}"),
    ("staleness, largest", "stale", "staleness/max", "{:.0f}"),
    ("actors serving", "actors", "actors/serving", "{:.0f}"),
    ("learner waited", "learner_waited", "time/wait_rollouts", "{:.1f}s"),
    ("actors waited", "actors_waited", "time/wait_learner", "{:.1f}s"),
    ("solver samples/s", "samples/s", "throughput/samples_per_s", "{:.0f}"),
    ("sync gap, nats", "sync_gap", "sync/logprob_gap", "{:.1e}"),
)
RECENT_STEPS = 20  # that the remaining time is estimated from
CURVE = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 40  # characters


class Progress:
    """Shows the steps of one run. Every metric may be missing. Use as a context manager, or call start and stop."""

    def __init__(self, steps: int, mode: str = "auto", name: str = "", file: TextIO | None = None) -> None:
        """`mode`: live, plain, or auto (live where `file`, by default the standard output, is a terminal)."""
        self.steps, self.name = steps, name
        console = Console(file=file)
        self.live = mode == "live" or (mode == "auto" and console.is_terminal and not console.is_dumb_terminal)
        self.console = Console(file=file, force_terminal=True) if self.live else Console(file=file, no_color=True)
        self._display: Live | None = None
        self._metrics: dict[str, Any] = {}
        self._done = 0
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS)
        self._solver: deque[float] = deque(maxlen=CURVE_WIDTH)

    def start(self) -> None:
        if self.live:
            self._display = Live(self._render(), console=self.console, refresh_per_second=4)
            self._display.start()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One step ended. The last evaluation stays in view until the next."""
        last = self._metrics.get("eval/accuracy")
        self._metrics = {**({"eval/accuracy": last} if last is not None else {}), **metrics}
        self._done = int(metrics.get("step", self._done + 1))
        self._ends.append(time.monotonic())
        if (accuracy := metrics.get("solver/accuracy")) is not None:
            self._solver.append(accuracy)
        if self._display:
            self._display.update(self._render())
        else:
            cells = [f"{short} {_cell(self._metrics, key, form)}" for _, short, key, form in FIELDS]
            self._print(f"step {self._done}/{self.steps}  eta {self._eta()}  {'  '.join(cells)}")

    def last_accuracy(self, accuracy: float) -> None:
        """Show what an earlier evaluation gave, until the next one."""
        self._metrics["eval/accuracy"] = accuracy

    def evaluation(self, result: Mapping[str, Any], step: int) -> None:
        """Show the result of `azero.evaluation.solver.evaluate`."""
        self.last_accuracy(result["accuracy"])
        low, high = result["interval"]
        text = f"eval at step {step}: {result['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
        if result.get("mean_at_k") is not None:
            text += f", mean@{result['k']} {result['mean_at_k']:.1%}"
        labels = ", ".join(f"{name} {r['accuracy']:.0%}" for name, r in result.get("by_label", {}).items())
        self._print(f"{text} of {result['n']} ({result['data']})" + (f": {labels}" if labels else ""))
        if self._display:
            self._display.update(self._render())

    def warning(self, text: str) -> None:
        """A line that stands out: the collapse alarm, a restarted actor."""
        self._print(f"warning: {text}", style="bold yellow")

    def stop(self) -> None:
        """Leave the last state on the screen; idempotent."""
        if self._display:
            self._display.stop()
            self._display = None

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _print(self, text: str, style: str = "") -> None:
        with suppress(OSError):  # such as a full disk under a redirected output: no reason to end a run
            self.console.print(Text(text, style=style), soft_wrap=True)
            self.console.file.flush()

    def _eta(self) -> str:
        """Remaining h:mm:ss at the mean pace of the last steps, evaluations between them included."""
        if len(self._ends) > 1:
            pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        elif "time/step" in self._metrics:
            pace = self._metrics["time/step"]
        else:
            return "-"
        left = round(pace * max(0, self.steps - self._done))
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"

    def _render(self) -> Panel:
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        bar = ProgressBar(total=self.steps, completed=self._done)
        head.add_row(f"step {self._done}/{self.steps}", bar, f"eta {self._eta()}")
        body = Table.grid(padding=(0, 2))
        cells = [(label, _cell(self._metrics, key, form)) for label, _, key, form in FIELDS]
        half = (len(cells) + 1) // 2
        for left, right in zip(cells[:half], [*cells[half:], ("", "")], strict=False):
            body.add_row(f"[dim]{left[0]}[/]", left[1], f"[dim]{right[0]}[/]", right[1])
        curve = Text.assemble(("solver accuracy, last steps  ", "dim"), sparkline(list(self._solver)))
        return Panel(Group(head, body, curve), title=Text(self.name) if self.name else None, title_align="left")


def sparkline(values: list[float]) -> str:
    """One character a value, from the lowest to the highest of them."""
    if not values:
        return ""
    low, span = min(values), max(values) - min(values)
    return "".join(CURVE[round((v - low) / span * (len(CURVE) - 1)) if span else 0] for v in values)


def _cell(metrics: Mapping[str, Any], key: str, form: str) -> str:
    value = metrics.get(key)
    return "-" if value is None else form.format(value)
