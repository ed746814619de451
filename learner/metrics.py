"""What a step of the trainer says in numbers: of all policies together, and of each where there are several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple

from learner.policy import Totals, UpdateResult


def step_metrics(results: Mapping[str, UpdateResult]) -> dict[str, float]:
    """Metrics of one step. `results`: of each policy that trained. A mean of nothing is left out.

    With several policies "grad_norm/solver" and the like are of one policy, and "grad_norm" is of all their weights;
    with one policy "grad_norm/solver" is of the part of its loss that has this name.
    """
    every = list(results.values())
    totals = Totals(*(sum(values) for values in zip(*(astuple(r.totals) for r in every), strict=True)))
    metrics = _of_totals(totals, any(r.has_kl for r in every), any(r.has_rows for r in every)) | {
        "grad_norm": every[0].norm if len(every) == 1 else math.hypot(*(r.norm for r in every)),
        **({f"grad_norm/{part}": value for part, value in every[0].norms.items()} if len(every) == 1 else {}),
        "lr": max(r.lr for r in every),
        "faults/skipped_updates": 0.0 if all(r.is_finite for r in every) else 1.0,
    }
    if len(every) > 1:
        for name, r in results.items():
            own = {**_of_totals(r.totals, r.has_kl, r.has_rows), "grad_norm": r.norm, "lr": r.lr}
            metrics |= {f"{key}/{name}": value for key, value in own.items()}
    return metrics


def _of_totals(totals: Totals, has_kl: bool, has_rows: bool) -> dict[str, float]:
    sums = {"entropy": totals.entropy, "offpolicy/ratio_mean": totals.ratio, "clip_rate": totals.clipped}
    if has_kl:
        sums["kl/reference"] = totals.kl
    means = {key: total / totals.tokens for key, total in sums.items() if totals.tokens}
    losses = {"loss/total": totals.loss + totals.kl_loss, "loss/policy": totals.loss}
    return means | (losses if has_rows else {})
