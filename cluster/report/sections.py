"""What stands where in a report: the pictures and tables of each section, from what came out to how it went about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from azero.types import ROLES, Verdict
from cluster.report import figures, tables
from cluster.report.data import SHARES, Run
from cluster.report.figures import PALETTE, Curve, Picture
from cluster.report.tables import Table

IN_DETAIL = 4  # runs that get pictures and tables of their own
TEXTS = {
    "Accuracy": "How well the solver does on the evaluation set.",
    "Curriculum": "Which problems the proposer set, and how hard they were for the solver of that time.",
    "Proposer": "What the proposer writes when it is only asked, and nothing is trained on the answers.",
    "Diversity": "Whether the proposer keeps finding new problems. A structure is a signature of a problem's shape.",
    "Rewards": "What both roles were paid, the moving averages that they were compared with, and learnability.",
    "Optimisation": "Whether the updates are healthy.",
    "Synchrony": "How old the weights were that played, and how closely the engines follow the learner.",
    "Time": "Where the time went.",
    "Others": "What else the runs logged, own metrics among it.",
}
EMPTY = {
    "Accuracy": "No evaluation has finished yet.",
    "Proposer": "The proposer has not been evaluated in these runs.",
}
VERDICT_COLOURS: dict[str, str] = {
    Verdict.VALID: "#009e73",
    Verdict.REJECTED: "#e69f00",
    Verdict.UNPARSEABLE: "#b2474f",
    Verdict.EXCLUDED: "#7f7f7f",
}
# Metrics that other figures show: by name, and by how they begin.
ELSEWHERE = {"step", "time_s", "weight_version"}, ("eval/", SHARES, *(f"baseline/{role}/" for role in ROLES))
FROM_ZERO, RATE = (0.0, None), (0.0, 1.02)
CURVES = {
    "Curriculum": (
        Curve("Difficulty", "mean tier", "problems/difficulty_mean", "0 easy, 1 medium, 2 hard.", limits=(0, 2)),
        Curve("Tier as asked for", "share", "problems/tier_match", limits=RATE),
    ),
    "Diversity": (
        Curve("Distinct problems in a step", "share", "problems/unique_rate", limits=RATE),
        Curve("Distinct structures in a step", "structures", "problems/structures", limits=FROM_ZERO),
        Curve("Dropped: in the evaluation set", "proposals a step", "problems/contaminated", limits=FROM_ZERO),
    ),
    "Rewards": (
        Curve("Reward of the proposer", "reward", "proposer/reward"),
        Curve("Reward of the solver", "reward", "solver/reward"),
        Curve("Right answers in training", "share", "solver/accuracy", "At the rollout temperature.", limits=RATE),
        Curve("Learnability", "learnability", "learnability/mean", limits=RATE),
        Curve("Improvement by one update", "success rate", "learnability/improvement_raw", "After minus before."),
        Curve("Valid proposals", "share", "proposer/valid_rate", limits=RATE),
        Curve("Answers in the right form", "share", "solver/format_rate", limits=RATE),
        Curve("Groups without a signal", "share", "groups/zero_variance_rate", "All rewards equal.", limits=RATE),
    ),
    "Optimisation": (
        Curve("Distance from the start model", "KL, nats a token", "kl/reference"),
        Curve("Entropy of the policy", "nats a token", "entropy", limits=FROM_ZERO),
        Curve("Loss", "loss", "loss/total", "The policy term and the KL term together."),
        Curve("Policy term of the loss", "loss", "loss/policy"),
        Curve("Gradient before clipping", "norm", "grad_norm grad_norm/proposer grad_norm/solver", limits=FROM_ZERO),
        Curve("Clipped tokens", "share", "clip_rate"),
        Curve("Learning rate", "learning rate", "lr", limits=FROM_ZERO),
    ),
    "Synchrony": (
        Curve("Staleness", "updates", "staleness/max staleness/mean", limits=FROM_ZERO),
        Curve("Off-policy ratio", "policy / behaviour", "offpolicy/ratio_mean", "1 is on-policy."),
        Curve("Engine against learner", "log-prob gap, nats", "sync/logprob_gap sync/logprob_gap_mean", scale="log"),
        Curve("Weight load", "seconds", "sync/seconds", limits=FROM_ZERO),
        Curve("Faults", "since the start", "faults/restarts faults/redispatched", limits=FROM_ZERO),
    ),
    "Time": (
        Curve("Time of a step", "seconds", "time/step time/learn time/generate", limits=FROM_ZERO),
        Curve("Solver samples", "samples a second", "throughput/samples_per_s", limits=FROM_ZERO),
        Curve("Tokens", "tokens a second", "throughput/tokens_per_s", "Completions of both roles.", limits=FROM_ZERO),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    text: str
    pictures: Sequence[Picture]
    tables: Sequence[Table] = ()
    empty: str = ""  # what to say where there is neither
    is_collapsed: bool = False


def sections(runs: Sequence[Run]) -> list[Section]:
    """From what came out of a run to how it went about it."""
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
    found = [
        Section(
            title=name,
            text=TEXTS[name] + (f" {trained_on_evaluation(runs)}" if name == "Accuracy" else ""),
            pictures=[p for p in (*(figures.curve(runs, c) for c in CURVES.get(name, ())), *pictures) if p],
            tables=[table for table in shown if table],
            empty=EMPTY.get(name, "No step has been recorded yet."),
        )
        for name, (pictures, shown) in own.items()
    ]
    others = _others(runs, {key for section in found for picture in section.pictures for key in picture.keys})
    return [*found, Section(title="Others", text=TEXTS["Others"], pictures=others, is_collapsed=True)][: 8 + bool(others)]


def _others(runs: Sequence[Run], shown: set[str]) -> list[Picture]:
    """A small picture of each number that the runs log and that none of `shown` is: own metrics among them."""
    names, beginnings = ELSEWHERE
    left = sorted({key for run in runs for key in run.metrics} - shown - names)
    pictures = [
        figures.curve(runs, Curve(key, key.rpartition("/")[2], key))
        for key in left
        if not key.startswith(beginnings) and " " not in key
    ]
    return [picture for picture in pictures if picture]


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
    return figures.shares(f"Shares of the cells{run.suffix}", "Of the problems in a batch.", counts, figures.cell_colours(run))


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
