"""What a verdict, a success rate (arXiv 2505.03335, eq. 4 and 6) and a new problem are worth."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from azero.config import Ladder
from azero.plugs import checked, find, no_number
from azero.types import Problem, Verdict

SOLVER_REWARDS: dict[Ladder, dict[Verdict, float]] = {
    "paper": {Verdict.RIGHT: 1.0, Verdict.WRONG: -0.5, Verdict.MALFORMED: -1.0},
    "binary": {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.MALFORMED: 0.0},
}
PROPOSER_FLOORS: dict[Ladder, dict[Verdict, float | None]] = {
    "paper": {Verdict.VALID: None, Verdict.REJECTED: -0.5, Verdict.UNPARSEABLE: -1.0},
    "binary": {Verdict.VALID: None, Verdict.REJECTED: 0.0, Verdict.UNPARSEABLE: 0.0},
}

# Improvements come from fp32 log-probs, which resolve a sequence to about 1e-6: a smaller spread is rounding.
MIN_IMPROVEMENT_STD = 1e-6


def solver_reward(verdict: Verdict, ladder: Ladder) -> float:
    """Reward of a solution (eq. 6). Raises ValueError for a verdict on a proposal."""
    rewards = SOLVER_REWARDS[ladder]
    if verdict not in rewards:
        raise ValueError(f"verdict {verdict}: not of a solution; expected one of {', '.join(rewards)}")
    return rewards[verdict]


def proposer_floor(verdict: Verdict, ladder: Ladder) -> float | None:
    """Reward of a proposal that became no problem; None where it did, and learnability plus novelty is its reward.

    Raises ValueError for EXCLUDED, which is neither valid nor invalid and has no reward, and for verdicts on solutions.
    """
    floors = PROPOSER_FLOORS[ladder]
    if verdict not in floors:
        raise ValueError(f"verdict {verdict}: no reward of a proposal; expected one of {', '.join(floors)}")
    return floors[verdict]


def one_minus_rate(p: float) -> float:
    """1 - p, and 0 for a problem that all or none solve (eq. 4)."""
    return 0.0 if p in (0, 1) else 1 - p


def uncertainty(p: float) -> float:
    """1 at p = 1/2, 0 at both ends, straight between (R-Zero, arXiv 2508.05004)."""
    return 1 - abs(2 * p - 1)


def variance(p: float) -> float:
    """That of one solution's being right, 1 at its largest."""
    return 4 * p * (1 - p)


def none(p: float) -> float:
    return 0.0


# Learnability in [0, 1] of a problem by its success rate p, a share of right answers (never of rewards). `improvement`
# is none of these: it needs log-probs.
SHAPES: dict[str, Callable[[float], float]] = {
    "one_minus_rate": one_minus_rate,
    "uncertainty": uncertainty,
    "variance": variance,
    "none": none,
}


def learnability_shape(name: str) -> Callable[[float], float] | None:
    """The function of `reward.learnability`; None for `improvement`, which is no function of the success rate alone.

    Raises UserError as `azero.plugs.find` does.
    """
    if name == "improvement":
        return None
    return checked(f"reward.learnability={name}", find("reward.learnability", name, SHAPES), no_number)


def improvement(log_ratios: np.ndarray, correct: np.ndarray, behaviour_log_ratios: np.ndarray) -> float:
    """Success rate on one problem after the update minus before it, in [-1, 1], from samples of before it.

        before = sum w c / sum w    after = sum w u c / sum w u    u = exp(log_ratios), w = exp(behaviour_log_ratios)

    Self-normalised importance sampling. All arguments are [samples], ratios of whole sequences: `log_ratios` is
    log pi_{v+1} - log pi_v, `behaviour_log_ratios` is log pi_v - log pi_behaviour (zeros for samples of v itself, where
    before is the plain success rate). Exactly 0 where all samples are right or all wrong.
    Raises ValueError for shapes that differ, no samples, or values that are not finite.
    """
    correct = np.asarray(correct, dtype=bool)
    logs = np.array([behaviour_log_ratios, log_ratios], dtype=np.float64)  # [2, samples]
    if correct.ndim != 1 or not correct.size or logs.shape != (2, correct.size):
        raise ValueError(f"improvement: log-ratios {logs.shape[1:]} and correct {correct.shape}: must be [samples]")
    if not np.isfinite(logs).all():
        raise ValueError("improvement: a log-ratio is not finite")
    if correct.all() or not correct.any():
        return 0.0
    logs = np.cumsum(logs, axis=0)  # log w, log w u
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    before, after = weights[:, correct].sum(axis=1) / weights.sum(axis=1)
    return float(after - before)


def scale_improvements(raw: np.ndarray) -> np.ndarray:
    """Improvements of one step's valid proposals, [proposals], as learnabilities in [0, 1].

    Standardised over the step, clipped to one standard deviation, mapped by (x + 1) / 2. Without a spread (fewer than
    two proposals, or a std under MIN_IMPROVEMENT_STD) nothing sets one proposal apart, and each gets the neutral 0.5.
    """
    raw = np.asarray(raw, dtype=np.float64)
    if not raw.size or raw.std() < MIN_IMPROVEMENT_STD:
        return np.full(raw.shape, 0.5)
    return (np.clip((raw - raw.mean()) / raw.std(), -1, 1) + 1) / 2


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson correlation of two [n] arrays; None where either is constant or n < 2."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    x, y = a - np.mean(a), b - np.mean(b)
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(np.dot(x, y) / scale, -1, 1)) if scale > 0 else None


class NoveltyWindow:
    """How rare a problem is: how often its forms occurred among the last `size` valid proposals.

    The proposals of a step are scored in order and each is added right after its own score, so that repeats within one
    step lower each other too. Adding and scoring take O(1).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._recent: deque[tuple[str, str]] = deque()  # (canonical, structure), oldest first
        self._canonical: Counter[str] = Counter()
        self._structure: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._recent)

    def novelty(self, problem: Problem) -> float:
        """0.5 / (1 + n) + 0.5 (1 - log(1 + m) / log(1 + N)), in (0, 1]; 1 where form and structure are both unseen.

        Of the N problems in the window n have the canonical form and m have the structure. The first half falls fast,
        since a repeat teaches nothing. The second is the structure's surprise, -log((1 + m) / (1 + N)) over its largest
        value: structures are few and must recur, and its mean rises with the entropy of what is proposed.
        """
        form = 1 / (1 + self._canonical[problem.canonical])
        known = self._structure[problem.structure]
        structure = 1 - math.log1p(known) / math.log1p(len(self)) if known else 1.0
        return 0.5 * form + 0.5 * structure

    def add(self, problem: Problem) -> None:
        self._add(problem.canonical, problem.structure)

    def state(self) -> dict[str, Any]:
        return {"recent": [list(pair) for pair in self._recent]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the contents; of more than `size` entries the last ones stay."""
        self._recent.clear()
        self._canonical.clear()
        self._structure.clear()
        for canonical, structure in state["recent"]:
            self._add(canonical, structure)

    def _add(self, canonical: str, structure: str) -> None:
        self._recent.append((canonical, structure))
        self._canonical[canonical] += 1
        self._structure[structure] += 1
        if len(self) > self.size:
            for counter, key in zip((self._canonical, self._structure), self._recent.popleft(), strict=True):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
