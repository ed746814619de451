"""How well the solver does on an evaluation set, with what it takes to compare two such results.

Greedy accuracy with a 95 % Wilson interval, the mean over k samples, both by the data set's labels and by operation,
and McNemar's exact test between two results on the same problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from azero.domains.base import Domain, Inline, judged, stops_of
from azero.engine import Engine
from azero.errors import RunFailed, UserError
from azero.types import SHARED, Completion, EvalItem, Role, Sampling, Verdict
from azero.verbatim import VerbatimTable


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a binomial proportion, (low, high) in [0, 1]; (0, 1) where n is 0. Wilson (1927)."""
    from scipy.stats import binomtest  # takes a second to import, which nobody waits for who evaluates nothing

    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Paired comparison of two results on the same problems."""

    b: int  # right before, wrong after
    c: int  # wrong before, right after
    p_value: float  # exact, two-sided; 1 where nothing changed


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> McNemar:
    """Exact binomial test of b against c (McNemar 1947). Raises ValueError where the lengths differ."""
    from scipy.stats import binomtest

    pairs = list(zip(before, after, strict=True))
    b = sum(x and not y for x, y in pairs)
    c = sum(y and not x for x, y in pairs)
    return McNemar(b=b, c=c, p_value=float(binomtest(b, b + c).pvalue) if b + c else 1.0)


def evaluate(
    engine: Engine,
    domain: Domain,
    items: Sequence[EvalItem],
    *,
    chat: bool,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    stop: tuple[str, ...] | None,
    data: str,
    judges: Executor | None = None,
    policy: str = SHARED,
) -> dict[str, Any]:
    """Ask every item once greedily and `samples` times at `temperature`; nothing else may be in flight.

    `stop`: what ends a completion; None: what the domain says. `judges` runs the verdicts, beside the engine if it has
    threads; without it they run in this thread.
    Returns JSON-able {accuracy (greedy), mean_at_k (None without samples), k, interval [low, high], n, data,
    by_label, by_operation: {name: {accuracy, mean_at_k, n, correct, interval}}, problems: [{text, label, operation,
    answer, completion, verdict, correct, sampled_correct}]}, names and problems in the order of the items.
    Raises UserError where there are no items or one does not fit, RunFailed where the engine loses some.
    """
    if not items:
        raise UserError(f"eval.data={data}: holds no problems; give a set with at least one row")
    kinds = {"greedy": (1, 0.0), **({"sampled": (samples, temperature)} if samples else {})}
    prompts = encoded(engine, domain, items, chat=chat, max_new_tokens=max_new_tokens, data=data, policy=policy)
    for kind, (n, t) in kinds.items():
        for i, prompt in enumerate(prompts):
            ends = stops_of(domain, Role.SOLVER, items[i].problem.cell) if stop is None else stop
            sampling = Sampling(temperature=t, max_new_tokens=max_new_tokens, stop=ends)
            engine.submit((kind, i), prompt, n, sampling, policy)
    judges = judges or Inline()
    done: dict[Any, tuple[Completion, ...]] = {}
    verdicts: dict[Any, list[Future[Verdict]]] = {}
    while engine.busy():
        for tag, completions in engine.step():
            kind, i = cast(tuple[str, int], tag)
            done[kind, i] = completions
            verdicts[kind, i] = [judges.submit(judged, domain, c, items[i].problem, chat) for c in completions]
    if len(done) != len(kinds) * len(items):
        raise RunFailed(f"evaluation on {data}: the engine returned {len(done)} of {len(kinds) * len(items)} requests")
    told = {key: [verdict.result() for verdict in pending] for key, pending in verdicts.items()}
    problems = [
        _record(item, done["greedy", i][0], told["greedy", i][0], told.get(("sampled", i), ()))
        for i, item in enumerate(items)
    ]
    overall = _summary(problems, samples)
    del overall["correct"]
    return {
        **overall,
        "k": samples,
        "data": data,
        "by_label": _by(problems, "label", samples),
        "by_operation": _by(problems, "operation", samples),
        "problems": problems,
    }


def _record(item: EvalItem, greedy: Completion, verdict: Verdict, sampled: Sequence[Verdict]) -> dict[str, Any]:
    """One of `problems` of `evaluate`; the verdicts are of its greedy answer and of its samples."""
    return {
        "text": item.problem.statement,
        "label": item.label,
        "operation": item.operation,
        "answer": item.problem.answer,
        "completion": greedy.text,
        "verdict": verdict.value,
        "correct": verdict is Verdict.RIGHT,
        "sampled_correct": sum(v is Verdict.RIGHT for v in sampled),
    }


def paired(before: Mapping[str, Any], after: Mapping[str, Any]) -> McNemar | None:
    """The paired test of two results of `evaluate`; None where they are not of the same problems in the same order."""
    one, other = before["problems"], after["problems"]
    if [(p["text"], p["answer"]) for p in one] != [(p["text"], p["answer"]) for p in other]:
        return None
    return mcnemar([p["correct"] for p in one], [p["correct"] for p in other])


def table(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> VerbatimTable:
    """Accuracy by label, by operation and overall with 95 % Wilson intervals; against `before` where there is one."""
    k = after["k"]
    out = VerbatimTable(title=f"{after['data']}: {after['n']} problems, greedy accuracy with 95 % interval")
    out.add_column("")
    means = [f"mean of {k} samples"] if k else []
    headers = ["n", "accuracy", *means]
    if before is not None:
        headers = ["n", "before", "after", *means, "change", "McNemar p"]
        out.caption = "p: exact, two-sided, paired by problem; not corrected for the number of rows"
    for header in headers:
        out.add_column(header, justify="right")

    def row(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any], field: str = "") -> None:
        cells = [_with_interval(new), *([f"{new['mean_at_k']:.1%}"] if k else [])]
        if before is not None:
            both = ([p for p in r["problems"] if not field or p[field] == name] for r in (before, after))
            test = paired(*({"problems": problems} for problems in both))
            change = f"{100 * (new['accuracy'] - old['accuracy']):+.1f}" if old else "-"
            p_value = f"{test.p_value:.3g} (-{test.b} +{test.c})" if test else "-"
            cells = [_with_interval(old) if old else "-", *cells, change, p_value]
        out.add_row(name, str(new["n"]), *cells)

    for field, group in (("label", "by_label"), ("operation", "by_operation")):
        for name, new in after[group].items():
            old = before[group].get(name) if before is not None else None
            row(name, old, new, field)
        out.add_section()
    row("all", before, after)
    return out


def encoded(
    engine: Engine,
    domain: Domain,
    items: Sequence[EvalItem],
    *,
    chat: bool,
    max_new_tokens: int,
    data: str,
    policy: str = SHARED,
) -> list[tuple[int, ...]]:
    """The prompts. Raises UserError where one does not fit with its completion."""
    template = partial(engine.chat_template, policy=policy) if chat else None
    prompts = [engine.encode(domain.pose(i.problem, template), rendered=chat, policy=policy) for i in items]
    for item, prompt in zip(items, prompts, strict=True):
        if (longest := len(prompt) + max_new_tokens) > engine.max_tokens:
            raise UserError(
                f"eval.data={data}, problem {item.problem.statement[:60]!r}: a prompt of {len(prompt)} tokens and "
                f"eval.max_new_tokens={max_new_tokens} need {longest}, and the engine holds {engine.max_tokens}; raise "
                "rollout.max_model_len as far as the model allows, or leave the problem out"
            )
    return prompts


def _summary(problems: Sequence[Mapping[str, Any]], k: int) -> dict[str, Any]:
    n, correct = len(problems), sum(p["correct"] for p in problems)
    return {
        "accuracy": correct / n,
        "mean_at_k": sum(p["sampled_correct"] for p in problems) / (n * k) if k else None,
        "n": n,
        "correct": correct,
        "interval": list(wilson_interval(correct, n)),
    }


def _by(problems: Sequence[Mapping[str, Any]], field: str, k: int) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys(p[field] for p in problems)
    return {name: _summary([p for p in problems if p[field] == name], k) for name in names}


def _with_interval(result: Mapping[str, Any]) -> str:
    low, high = result["interval"]
    return f"{result['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
