"""What a report shows, read from run directories; a run may still be going on, so that any part may be missing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from azero.errors import UserError
from cluster.records.rundir import EVALS, METRICS, PROPOSER_EVALS, SAMPLES, is_run, iterate_jsonl, read_jsonl

EPISODE_BYTES = 5_000_000  # of all runs' episodes in the page
TEXT_CHARS = 2_000  # of one prompt or completion
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}  # no text can end its <script>


@dataclass(slots=True, kw_only=True)
class Asked:
    """One canonical problem, over a run."""

    text: str
    tier: str
    count: int = 0
    rate_sum: float = 0.0  # of success rates, one a time it was asked
    first: int = 0  # steps
    last: int = 0


@dataclass(slots=True, kw_only=True)
class Play:
    """samples.jsonl added up; counts by step are (step, value) -> episodes or problems.

    Where there is a proposer the problems are those that it wrote: a place that was filled from the buffer is left out.
    """

    has_proposer: bool = False
    outcomes: Counter[tuple[int, str]] = field(default_factory=Counter)  # proposals' verdicts
    reasons: Counter[str] = field(default_factory=Counter)  # of proposals that were turned down
    tiers: Counter[tuple[str, str]] = field(default_factory=Counter)  # (requested, actual)
    solve_rates: Counter[tuple[int, int]] = field(default_factory=Counter)  # success rate in tenths
    structures: Counter[tuple[int, str]] = field(default_factory=Counter)
    asked: dict[str, Asked] = field(default_factory=dict)  # by canonical form
    novelty: Counter[tuple[int, bool]] = field(default_factory=Counter)  # problems, whether asked for the first time
    episodes: int = 0
    solved: int = 0  # problems, those that the proposer did not write among them
    without_text: int = 0
    rows: list[str] = field(default_factory=list)  # JSON of the episodes that the page holds, see `_row`

    def add(self, record: Mapping[str, Any]) -> None:
        step, proposal, problem = record["step"], record["proposal"], record["problem"]
        self.episodes += 1
        self.without_text += "references" not in record
        self.rows.append(json.dumps(_row(record), ensure_ascii=False, separators=(",", ":")).translate(ESCAPES))
        if proposal:
            self.outcomes[step, proposal["verdict"]] += 1
            if proposal["reason"]:
                self.reasons[proposal["reason"]] += 1
        self.solved += bool(problem)
        if problem and record["solver"] and (proposal or not self.has_proposer):
            rate = record["solver"]["success_rate"]
            self.tiers[record["requested_tier"], problem["tier"]] += 1
            self.solve_rates[step, math.floor(10 * rate + 0.5)] += 1
            self.structures[step, problem["structure"]] += 1
            self.novelty[step, problem["canonical"] not in self.asked] += 1
            empty = Asked(text=problem["text"], tier=problem["tier"], first=step)
            asked = self.asked.setdefault(problem["canonical"], empty)
            asked.count, asked.rate_sum, asked.last = asked.count + 1, asked.rate_sum + rate, step

    def thin(self, budget: int) -> None:
        """Keep an even share of the rows over the steps, so that about `budget` bytes are left."""
        share = min(1.0, budget / max(1, sum(len(r.encode("utf-8", "replace")) for r in self.rows)))
        self.rows = [r for i, r in enumerate(self.rows) if math.floor((i + 1) * share) > math.floor(i * share)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run directory. `arm` is what its colour stands for: the sweep's arm, or the run itself."""

    path: Path
    label: str
    arm: str
    suffix: str = ""  # of titles that are about this run; empty where it is the only one
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evals: Sequence[Mapping[str, Any]]
    proposer_evals: Sequence[Mapping[str, Any]]
    play: Play

    def setting(self, key: str) -> Any:
        """The value of a dotted config key; "?" where the config has none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part, "?") if isinstance(value, Mapping) else "?"
        return value

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it has one."""
        points = [(m["step"], m[key]) for m in self.metrics if m.get(key) is not None]
        return [s for s, _ in points], [v for _, v in points]

    @property
    def step(self) -> int:
        return self.metrics[-1]["step"] if self.metrics else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Run directories as given, sweeps opened up into their runs."""

    runs: Sequence[Run]
    sweeps: Sequence[Mapping[str, Any]]  # as `azero sweep` writes sweep.json


def read(paths: Sequence[str | Path], budget: int = EPISODE_BYTES) -> Source:
    """Raises UserError for a path that is neither a run directory nor a sweep's, and for a file with a bad line."""
    folders: dict[Path, str] = {}  # and the arm, "" outside a sweep
    sweeps = []
    for path in map(Path, paths):
        if (path / "sweep.json").is_file():
            sweep = _mapping(path / "sweep.json")
            sweeps.append(sweep)
            found = sorted(f for f in path.glob("*") if is_run(f))
            order = {f: arm for arm in sweep["arms"] for f in found if f.name.rpartition("-")[0] == arm}
            folders |= order | {f: f.name for f in found if f not in order}
        elif is_run(path):
            folders.setdefault(path, "")
        else:
            what = "holds neither config.yaml nor sweep.json" if path.is_dir() else "no such directory"
            if (path / "config.yaml").exists():
                what = "its config.yaml cannot be read as a run's, which has records beside it"
            raise UserError(f"report {path}: {what}; give the run.dir of a run, or the dir of a sweep")
    if not folders:
        raise UserError(f"report {' '.join(map(str, paths))}: no run has begun there; start the sweep first")
    runs = [_read_run(folder, arm, budget // len(folders)) for folder, arm in folders.items()]
    names = Counter(run.label for run in runs)
    labels = [run.label if names[run.label] == 1 else f"{run.label} ({run.path})" for run in runs]
    suffixes = [f": {label}" for label in labels] if len(runs) > 1 else [""]
    named = zip(runs, labels, suffixes)
    return Source(
        runs=[replace(r, label=label, arm=r.arm or label, suffix=suffix) for r, label, suffix in named], sweeps=sweeps
    )


def _read_run(path: Path, arm: str, budget: int) -> Run:
    config = _mapping(path / "config.yaml")
    source = (config.get("task") or {}).get("source")
    play = Play(has_proposer=source not in ("random", "fixed"))
    for record in iterate_jsonl(path / SAMPLES):
        play.add(record)
    play.thin(budget)
    name = (config.get("run") or {}).get("name") or path.resolve().name
    return Run(
        path=path,
        label=str(name).encode("utf-8", "replace").decode(),  # half a surrogate pair is no text that can be drawn
        arm=arm,
        config=config,
        provenance=_mapping(path / "provenance.json") if (path / "provenance.json").exists() else {},
        metrics=read_jsonl(path / METRICS),
        evals=read_jsonl(path / EVALS),
        proposer_evals=read_jsonl(path / PROPOSER_EVALS),
        play=play,
    )


def _mapping(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"report {file}: cannot be read as keys and values; restore it, or leave this directory out")
    return content


def _row(record: Mapping[str, Any]) -> list[Any]:
    """What browser.js unpacks: [id, step, requested tier, references, proposal, problem, solver], None where missing.

    proposal [verdict, reason, reward, parts, weight version, tokens, prompt, completion]
    problem  [text, answer, tier, canonical, structure]
    solver   [success rate, mean reward, prompt, [[count, verdict, reward, parts, completion], ...]], equal ones once
    """
    proposal, problem, solver = record["proposal"], record["problem"], record["solver"]
    return [
        record["id"],
        record["step"],
        record["requested_tier"],
        record.get("references"),
        proposal
        and [
            *(proposal["verdict"], proposal["reason"], _round(proposal["reward"]), _rounded(proposal["reward_parts"])),
            *(proposal["version"], proposal["tokens"], _clip(proposal.get("prompt"))),
            _clip(proposal.get("completion")),
        ],
        problem and [problem[key] for key in ("text", "answer", "tier", "canonical", "structure")],
        solver and _solutions(solver),
    ]


def _solutions(solver: Mapping[str, Any]) -> list[Any]:
    rewards = solver["rewards"]
    texts = map(_clip, solver.get("completions") or [None] * len(rewards))
    parts = (json.dumps(_rounded(p)) for p in solver["reward_parts"])
    equal = Counter(zip(solver["verdicts"], map(_round, rewards), parts, texts))
    distinct = [
        [count, verdict, reward, json.loads(p), text] for (verdict, reward, p, text), count in equal.most_common()
    ]
    known = [r for r in rewards if r is not None]
    mean = sum(known) / len(known) if known else None
    return [_round(solver["success_rate"]), _round(mean), _clip(solver.get("prompt")), distinct]


def _clip(text: str | None) -> str | None:
    if text is None or len(text) <= TEXT_CHARS:
        return text
    return f"{text[:TEXT_CHARS]} … ({len(text) - TEXT_CHARS:,} more characters)"


def _round(value: float | None) -> float | None:
    return value if value is None else round(value, 3)


def _rounded(parts: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _round(value) for name, value in parts.items()}
