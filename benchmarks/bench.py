"""`make bench`: the project's speed beside what a user would take instead, as ratios in one run on one machine.

    python benchmarks/bench.py [ROW ...] [--pairs 5] [--real MODEL_FOLDER] [--json FILE]

Each figure is the median over pairs: the project's measurement and its reference's, each in a process of its own, in
turns. Rows (all by default): trl, rollout, learner, sync, policies, overlap, growth, sandbox, start. `trl` needs `pip
install --no-deps trl==1.16.0`. FILE keeps each measurement of this program and machine, so that the command goes on
where it was stopped; remove it to measure again.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import platform
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sandbox import KINDS
from workload import BATCH, COMMON, GRPO, shape

from azero.models.loading import resolve_model_path
from cluster.records.machine import cores, cpu

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # without one of them both sides are faster in fp32
MEASURE, ROOT = Path(__file__).with_name("measure.py"), Path(__file__).parents[1]
TURNS = ["rollout.max_staleness=0", "rollout.threads=2", "learner.threads=2"]
BESIDE = ["rollout.max_staleness=1", "rollout.threads=1", "learner.threads=1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `ours` and `reference` are in `unit`; the ratio is of each pair, then the median."""

    name: str
    unit: str
    ours: float
    reference: float
    ratio: float
    spread: tuple[float, float]  # smallest and largest ratio of a pair
    note: str = ""


def program() -> str:
    """A digest of what is measured and of what measures it."""
    folders = ("actors", "azero", "benchmarks", "cluster", "configs", "learner")
    files = sorted(f for folder in folders for ending in ("py", "yaml") for f in (ROOT / folder).rglob(f"*.{ending}"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


class Measurements:
    """What was measured, in a file, in order: the n-th call with the same arguments gets the n-th such measurement."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[Row]()
        self.machine = {"program": program(), "cpu": cpu()[0], "cores": cores(), "platform": platform.platform()}
        found = json.loads(path.read_text()) if path.exists() else {}
        self.done: list[list[Any]] = found["measurements"] if found.get("machine") == self.machine else []
        self._asked = Counter[str]()

    def __call__(self, name: str, **arguments: Any) -> dict[str, float]:
        """One measurement, in a process of its own."""
        same = [found for *what, found in self.done if what == [name, arguments]]
        key = json.dumps([name, arguments])
        self._asked[key] += 1
        if self._asked[key] <= len(same):
            again: dict[str, float] = same[self._asked[key] - 1]
            return again
        done = subprocess.run([sys.executable, MEASURE, name, json.dumps(arguments)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} {arguments}: {done.stderr[-3000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        print(f"{key[1:-1]}: {json.dumps(found)}", file=sys.stderr, flush=True)
        self.done.append([name, json.loads(json.dumps(arguments)), found])
        self.save()
        return found

    def save(self) -> None:
        written = {"machine": self.machine, "rows": [asdict(r) for r in self.rows], "measurements": self.done}
        self.path.write_text(json.dumps(written, indent=1))


def row(name: str, unit: str, pairs: Sequence[Sequence[float]], note: str = "") -> Row:
    ratios = [ours / reference for ours, reference in pairs]
    return Row(
        name=name, unit=unit, ours=statistics.median(p[0] for p in pairs), note=note,
        reference=statistics.median(p[1] for p in pairs), ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    measure: Measurements
    pairs: int
    models: dict[str, tuple[str, str]]  # name: (model, dtype)
    configs: dict[str, dict[str, Any]]  # the same models' own configs: what `configured` takes

    def trl(self) -> list[Row]:
        """End to end: solver samples a second of GRPO and of self-play, beside TRL's GRPO."""
        rows, key = [], "throughput/samples_per_s"
        for name, (model, dtype) in self.models.items():
            small = model == "small"
            ours = BESIDE if small else TURNS
            size = {"model": model, "dtype": dtype, "steps": 8 if small else 4}
            micro = {"micro_batch": 128 if small else 64}  # TRL's time is the same within noise from 32 to 256
            grpo, play, update = [], [], []
            for _ in self._each():
                trl = self.measure("trl", **size, **micro)
                azero = self.measure("train", **size, overrides=[*GRPO, *ours])
                grpo.append((azero[key], trl[key]))
                turns = self.measure("train", **size, overrides=[*GRPO, *TURNS]) if small else azero
                update.append((1 / turns["time/learn"], 1 / (trl["time/step"] - trl["time/generate"])))
                mine = self.measure("train", **size, overrides=[*ours, "task.fill_from_buffer=true"])
                play.append((mine[key], trl[key]))
            rows.append(row(f"grpo, {name}", "samples/s", grpo, "TRL's GRPOTrainer"))
            # Both do the model's FLOP for the same samples, so that this is the ratio of their shares of peak, too.
            rows.append(row(f"update in grpo, {name}", "updates/s", update, "TRL's step without its generation"))
            rows.append(row(f"self-play, {name}", "solver samples/s", play, "TRL's, which proposes nothing"))
            rows.append(row(f"bound of grpo, {name}", "samples/s", self._bound(model, dtype, grpo), "TRL's"))
        return rows

    def _bound(self, model: str, dtype: str, pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Samples a second of bare generation and a bare update that take turns, measured once, beside TRL's."""
        given = {"config": "base", "overrides": [*COMMON, *shape(model, dtype, steps=1), *GRPO]}
        self.measure("rollout_azero", **given)  # whose samples are the data
        seconds = [self.measure(which, **given)["seconds"] for which in ("rollout_bare", "learner_bare")]
        return [(BATCH[0] * BATCH[1] / sum(seconds), peer) for _, peer in pairs]

    def rollout(self) -> list[Row]:
        rows = []
        for name, given in self.configs.items():
            both = "rollout_azero", "rollout_bare"  # of which the second is given what the first played
            pairs = [tuple(self.measure(which, **given)["tokens_per_s"] for which in both) for _ in self._each()]
            rows.append(row(f"rollout, {name}", "tokens/s", pairs, "bare LLM.generate, all prompts at once"))
        return rows

    def learner(self) -> list[Row]:
        rows, key = [], "tokens_per_s"
        for name, given in self.configs.items():
            self.measure("rollout_azero", **given)  # whose samples are the data
            dtype = self.models[name][1] if name in self.models else "float32"
            found: dict[float, list[tuple[float, float]]] = {0.0: [], 0.1: []}
            peak: dict[str, list[tuple[float, float]]] = {"done": [], "bare": []}
            for _ in self._each():
                bare = self.measure("learner_bare", **given)
                products = self.measure("matrix_products", dtype=dtype)["flop_per_s"]
                for beta, pairs in found.items():
                    ours = self.measure("learner_azero", **given, kl_beta=beta)
                    pairs.append((ours[key], bare[key]))
                    if not beta:
                        peak["done"].append((ours["flop_per_s"] / 1e9, products / 1e9))
                        peak["bare"].append((bare["flop_per_s"] / 1e9, products / 1e9))
            rows.append(row(f"update without KL, {name}", "tokens/s", found[0.0], "bare loop"))
            rows.append(row(f"update with KL, {name}", "tokens/s", found[0.1], "bare loop without a reference model"))
            rows.append(row(f"arithmetic of the update, {name}", "GFLOP/s", peak["done"], "a 2048^3 product"))
            rows.append(row(f"arithmetic of the bare loop, {name}", "GFLOP/s", peak["bare"], "the same product"))
        return rows

    def sync(self) -> list[Row]:
        rows = []
        # A large model in both: a copy of half the bytes takes half the time, a proof does not.
        models = self.models | {
            f"{name}, fp32": (model, "float32") for name, (model, dtype) in self.models.items()
            if model != "small" and dtype != "float32"
        }  # fmt: skip
        for name, (model, dtype) in models.items():
            found = [self.measure("sync", model=model, dtype=dtype) for _ in self._each()]
            keys = ("reload", "proof", "tensors", "seconds")
            reload, proof, tensors, seconds = (statistics.median(f[key] for f in found) for key in keys)
            added = [(f["added"], f["copy"]) for f in found]
            copied = f"a copy of {found[0]['bytes'] / 2**20:.0f} MiB"
            note = f"{copied}; proof {proof:.3g} s of it; vLLM's reload {reload:.3g} s"
            note += f"; the proof of the tensors {tensors:.3g} s, {tensors / seconds:.0%} of the sync"
            rows.append(row(f"weight sync without vLLM's reload, {name}", "s", added, note))
            rows.append(row(f"weight sync, {name}", "s", [(f["seconds"], f["copy"]) for f in found], "the same copy"))
        return rows

    def policies(self) -> list[Row]:
        """An adapter a role on one base, beside one set of weights for both roles."""
        rows, apart = [], "policies=adapters"
        for name, given in self.configs.items():
            both = [given | {"overrides": [*given["overrides"], *more]} for more in ([apart], [])]
            pairs = [tuple(self.measure("rollout_azero", **g)["tokens_per_s"] for g in both) for _ in self._each()]
            rows.append(row(f"rollout with two adapters, {name}", "tokens/s", pairs, "one set of weights"))
        for name, (model, dtype) in self.models.items():
            kl = ["algorithm.kl_beta=0.1"]
            found = [
                [self.measure("sync", model=model, dtype=dtype, more=[*kl, *more]) for more in ([apart], [])]
                for _ in self._each()
            ]
            for what, key, unit in (
                ("sync", "seconds", "s"), ("bytes a step", "bytes", "bytes"), ("learner's memory", "learner_gib", "GiB")
            ):  # fmt: skip
                pairs = [(ours[key], one[key]) for ours, one in found]
                rows.append(row(f"{what} of two adapters, {name}", unit, pairs, "one set of weights, with KL"))
        return rows

    def overlap(self) -> list[Row]:
        """Actor and learner on a core each: a step beside the longer of its two sides alone, and beside their sum."""
        longer, total = [], []
        size = {"model": "small", "dtype": "float32", "steps": 15, "pinned": True}
        for _ in self._each():
            both = self.measure("train", **size, overrides=[*GRPO, *BESIDE])["time/step"]
            turns = self.measure("train", **size, overrides=[*GRPO, *BESIDE, "rollout.max_staleness=0"])
            sides = turns["time/generate"], turns["time/learn"]
            longer.append((both, max(sides)))
            total.append((both, turns["time/step"]))
        return [
            row("asynchronous step", "s", longer, "the longer of rollout and learning, each alone"),
            row("asynchronous step", "s", total, "synchronous step"),
        ]

    def growth(self) -> list[Row]:
        """Exponents: how the time of a step grows with a size, 1 being linear."""

        def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
            return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])

        def of(name: str, sizes: Sequence[int], seconds: Callable[[int], float], linear: float) -> Row:
            found = [exponent(sizes, [seconds(size) for size in sizes]) for _ in self._each()]
            return row(f"step by {name}, {sizes[0]} to {sizes[-1]}", "exponent", [(x, linear) for x in found])

        def train(**sizes: int) -> float:
            common = {"model": "small", "dtype": "float32", "steps": 4}
            return self.measure("train", **common | sizes, overrides=[*GRPO, *TURNS])["time/step"]

        runs = [self.measure("growth_with_steps", steps=1000) for _ in self._each()]
        return [
            of("samples", [256, 1024, 4096], lambda n: train(problems=n // 16), 1.0),
            of("completion tokens", [8, 32, 64], lambda n: train(tokens=n), 1.0),
            of("problems in the buffer", [1000, 10_000, 100_000],
               lambda n: self.measure("growth_with_buffer", problems=n)["seconds"], 1.0),
            row("step 1000", "s", [(m["late"], m["early"]) for m in runs], "step 10"),
        ]  # fmt: skip

    def sandbox(self) -> list[Row]:
        """Judgements of programs on one core, the sandbox's worker with it."""
        rows = []
        for kind in KINDS:
            both = "monty", "processes"
            pairs = [
                tuple(self.measure("judgements", sandbox=s, kind=kind)["judgements_per_s"] for s in both)
                for _ in self._each()
            ]
            rows.append(row(f"judgements, {kind}", "judgements/s", pairs, "a CPython process a program"))
        return rows

    def start(self) -> list[Row]:
        found = [self.measure("start") for _ in self._each()]
        return [
            row("azero train local to its first step", "s", [(f["first_step"], 25.0) for f in found], "25 s"),
            row("azero --help", "s", [(f["help"], 0.5) for f in found], "0.5 s"),
        ]

    def _each(self) -> range:
        return range(self.pairs)


def table(rows: Sequence[Row]) -> Table:
    made = Table(title="median of pairs", title_justify="left")
    for name in ("what", "unit", "azero", "reference", "ratio", "of pairs", "reference is"):
        made.add_column(name, justify="left" if name in ("what", "unit", "reference is") else "right")
    for r in rows:
        low, high = r.spread
        made.add_row(
            r.name, r.unit, f"{r.ours:.4g}", f"{r.reference:.4g}", f"{r.ratio:.2f}", f"{low:.2f} to {high:.2f}", r.note
        )
    return made


def main() -> None:
    names = [n for n, f in vars(Bench).items() if not n.startswith("_") and inspect.isfunction(f)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *names], default=[])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--real", default="", help="a folder or .gguf file of SmolLM2-135M, measured too")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    given = parser.parse_args()
    models = {"small": ("small", "float32")}
    configs: dict[str, dict[str, Any]] = {"embedded": {"config": "local", "overrides": []}}
    if given.real:
        name, folder = Path(given.real).stem, resolve_model_path(given.real)
        dtype = "bfloat16" if cpu()[1] & BF16_FLAGS else "float32"
        models[name] = folder, dtype
        # Not synchronous as shipped, where an actor plays in waves for the sake of reproducible runs.
        overrides = [f"model.path={folder}", f"model.dtype={dtype}", "rollout.max_staleness=1"]
        configs[name] = {"config": "smollm2_135m", "overrides": overrides}
    measurements = Measurements(given.json)
    bench = Bench(measure=measurements, pairs=given.pairs, models=models, configs=configs)
    for name in given.rows or names:
        measurements.rows += getattr(bench, name)()
        measurements.save()
    Console(width=180).print(table(measurements.rows))


if __name__ == "__main__":
    main()
