"""Run directories for tests of what reads them, written by the code that writes real ones."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from helpers import episode

from azero.config import load_config, to_yaml
from azero.credit.credit import batch_metrics
from azero.domains.expression import CELLS
from azero.evaluation.solver import wilson_interval
from azero.types import ROLES, SHARED, Episode, Verdict
from cluster.records.rundir import EVALS, METRICS, SAMPLES, RunDirectory, episode_record, provenance
from learner.checkpoint import Checkpoint

EVIL = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>&amp;\u2028"
PROGRAM = f"def f(a):\n    return a + {EVIL!r}"


def write_checkpoint(folder: Path, step: int) -> Checkpoint:
    """A small one that is whole, in checkpoints/ of a run; `latest` names it."""
    made = Checkpoint.of_step(folder / "checkpoints", step)
    model = made.model(SHARED)
    model.mkdir(parents=True)
    (model / "config.json").write_text(made.name)
    (model / "model.safetensors").write_bytes(b"weights")
    made.optimizer(SHARED).write_bytes(b"moments")
    made.trainer.write_text("{}")
    made.driver.write_text("{}")
    made.write_manifest()
    (folder / "checkpoints" / "latest").write_text(made.name)
    return made


def write_run(
    path: Path, steps: int, problems: int = 6, solutions: int = 4, total_steps: int | None = None, evil: bool = False
) -> Path:
    """A run of `steps` steps (of `total_steps`) with evaluations at the first and every tenth."""
    rng = random.Random(0)
    config = load_config("local", [f"run.name={path.name}", f"run.steps={total_steps or steps}", f"run.dir={path}"])
    with RunDirectory(path).open(to_yaml(config), provenance(), resume=False) as run:
        run.records.append(EVALS, {"step": 0, **evaluation(rng, 0.5)})
        run.records.append(METRICS, {"step": 0, "time_s": 0.5, "eval/accuracy": 0.5})
        for step in range(1, steps + 1):
            episodes = [_episode(rng, step, i, solutions, evil) for i in range(problems)]
            run.records.append(SAMPLES, *(episode_record(e, step, True) for e in episodes))
            metrics = {"step": step, "weight_version": step, "time_s": 1.5 * step}
            metrics |= batch_metrics(episodes, step - 1, CELLS)
            metrics |= {f"baseline/{role}/{cell}": rng.random() for role in ROLES for cell in CELLS}
            metrics |= {k: rng.random() for k in ("learnability/mean", "kl/reference", "entropy", "time/step", "lr")}
            metrics |= {k: rng.random() for k in ("time/learn", "time/generate", "sync/logprob_gap", "grad_norm")}
            metrics["mine/own"] = 0.5
            run.records.append(METRICS, metrics)
            if step % 10 == 0:
                run.records.append(EVALS, {"step": step, **evaluation(rng, 0.8)})
    return path


def evaluation(rng: random.Random, accuracy: float, n: int = 40) -> dict[str, object]:
    rows = [
        {"label": ("low", "high")[i % 2], "operation": "+-"[i % 2], "text": f"p{i}", "answer": "1"} for i in range(n)
    ]
    problems = [row | {"correct": rng.random() < accuracy} for row in rows]

    def part(chosen: list[dict[str, object]]) -> dict[str, object]:
        right = sum(bool(p["correct"]) for p in chosen)
        interval = list(wilson_interval(right, len(chosen)))
        return {
            "accuracy": right / len(chosen),
            "mean_at_k": None,
            "n": len(chosen),
            "correct": right,
            "interval": interval,
        }

    by = {
        f: {v: part([p for p in problems if p[f] == v]) for v in vs}
        for f, vs in (("label", ("low", "high")), ("operation", "+-"))
    }
    return {
        **part(problems),
        "k": 0,
        "data": "test",
        "by_label": by["label"],
        "by_operation": by["operation"],
        "problems": problems,
    }


def _episode(rng: random.Random, step: int, i: int, solutions: int, evil: bool) -> Episode:
    cell = CELLS[i % 3]
    if i % 6 == 5:
        refused = episode(f"{step}.{i}", None, batch=step - 1, cell=cell, proposal=Verdict.REJECTED)
        return replace(
            refused, prompt="write one", proposal=_say(refused.proposal, "12 / 7", reason="division_inexact")
        )
    text = f"{rng.randrange(100)} + {rng.randrange(100)}"
    verdicts = [rng.choice((Verdict.RIGHT, Verdict.WRONG)) for _ in range(solutions)]
    made = episode(f"{step}.{i}", verdicts, batch=step - 1, cell=cell, text=text, version=step - 1)
    assert made.group is not None
    problem, answers = made.group.problem, [_say(s, str(rng.randrange(200))) for s in made.group.samples]
    if evil and i == 0:
        answers[0] = _say(answers[0], EVIL, reason=EVIL)
        problem = replace(problem, statement=PROGRAM, payload={"program": PROGRAM, EVIL: [["1", EVIL], ["2", 3]]})
    group = replace(made.group, problem=problem, prompt=f"Calculate: {text} = ", samples=tuple(answers))
    return replace(made, prompt="write one", references=("1 + 1",), proposal=_say(made.proposal, text), group=group)


def _say(sample, text: str, reason: str = ""):
    return replace(sample, completion=replace(sample.completion, text=text), reason=reason)
