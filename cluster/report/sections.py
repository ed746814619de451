"""What stands where in a report: the pictures and tables of each section, from what came out to how it went about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from azero.types import ROLES, TIERS
from cluster.report import curves, figures, tables
from cluster.report.curves import Curve
from cluster.report.data import Run
from cluster.report.figures import TIER_COLOURS, VERDICT_COLOURS, Picture
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
    id: str
    title: str
    text: str
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    empty: str  # what to say where there is neither


def sections(runs: Sequence[Run]) -> list[Section]:
    """From what came out of a run to how it went about it."""
    detailed = list({run.arm: run for run in reversed(runs)}.values())[::-1][:IN_DETAIL]  # the first of each arm

    def section(name: str, own: Sequence[Picture | None], *found: Table | None) -> Section:
        drawn = [curves.curve(runs, spec) for spec in CURVES.get(name, ())]
        pictures = [picture for picture in (*drawn, *own) if picture]
        told = f" {trained_on_evaluation(runs)}" if name == "Accuracy" else ""
        title, text, empty = name, TEXTS[name] + told, EMPTY.get(name, "No step has been recorded yet.")
        return Section(
            id=name.lower(), title=title, text=text, pictures=pictures, tables=[t for t in found if t], empty=empty
        )

    accuracy = [
        figures.accuracy(runs),
        figures.accuracy_by(detailed, "by_label", "label"),
        figures.accuracy_by(detailed, "by_operation", "operation"),
        *map(figures.labels_over_time, detailed),
    ]
    baselines = [curves.baselines(run, role) for run in detailed for role in ROLES]
    found = [
        section("Accuracy", accuracy, *map(tables.by_group, detailed)),
        section(
            "Curriculum", [*map(_tiers, detailed), *map(figures.solve_rates, detailed)], *map(tables.tiers, detailed)
        ),
        section("Proposer", list(map(figures.proposer_rates, runs)), tables.proposer(runs)),
        section("Diversity", [*map(_novelty, detailed), *map(_structures, detailed)], *map(tables.frequent, detailed)),
        section("Rewards", [*baselines, *map(_outcomes, detailed)], *map(tables.reasons, detailed)),
        section("Optimisation", []),
        section("Synchrony", []),
        section("Time", [figures.time_totals(detailed)]),
    ]
    others = curves.others(runs, [picture for part in found for picture in part.pictures])
    return [*found, section("Others", others)] if others else found


def trained_on_evaluation(runs: Sequence[Run]) -> str:
    """How many evaluation problems each run trained on, by its own count."""
    said = []
    for run in runs:
        _, counts = run.series("problems/in_evaluation")
        asked = f"task.exclude_evaluation={str(run.setting('task.exclude_evaluation')).lower()}"
        found = f"{sum(counts):,.0f} of {run.play.solved:,}" if counts else "not counted"
        said.append(f"{f'{run.label}: ' if len(runs) > 1 else ''}{found} ({asked})")
    return f"Evaluation problems among those trained on: {'; '.join(said)}."


def _tiers(run: Run) -> Picture | None:
    counts = {
        (m["step"], tier.value): m[key]
        for m in run.metrics
        for tier in TIERS
        if m.get(key := f"problems/share/{tier}") is not None
    }
    return figures.shares(f"Tier shares{run.suffix}", "Of the problems in a batch.", counts, TIER_COLOURS)


def _novelty(run: Run) -> Picture | None:
    names = {True: "new to the run", False: "asked before"}
    counts = {(step, names[new]): n for (step, new), n in run.play.novelty.items()}
    palette = dict(zip(names.values(), (figures.PALETTE[2], figures.PALETTE[6])))
    return figures.shares(f"New problems{run.suffix}", "By canonical form.", counts, palette)


def _structures(run: Run) -> Picture | None:
    totals: dict[str, int] = {}
    for (_, structure), n in run.play.structures.items():
        totals[structure] = totals.get(structure, 0) + n
    top = sorted(totals, key=lambda s: -totals[s])[:6]
    note = f"The {len(top)} most frequent of {len(totals)} structures."
    return figures.shares(f"Structures{run.suffix}", note, run.play.structures, dict(zip(top, figures.PALETTE)))


def _outcomes(run: Run) -> Picture | None:
    return figures.shares(f"Proposals{run.suffix}", "What became of them.", run.play.outcomes, VERDICT_COLOURS)
