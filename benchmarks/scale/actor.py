"""A rollout actor whose engine is a clock; all around it is real. Free of torch, so that many fit on a laptop."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from azero.domains import get_domain
from azero.domains.base import generator
from azero.process import peak_memory_gib
from azero.types import (
    Assignment,
    Completion,
    Episode,
    EvalItem,
    Evaluated,
    Group,
    Played,
    Publication,
    Role,
    Sample,
    Slot,
    SyncReport,
    Verdict,
    WeightVersion,
)

GIB = 2**30
VOCABULARY = 30_000  # of the token ids, so that they travel with the bytes of real ones
PROPOSAL_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What the clock stands for: an engine that decodes all samples of an assignment at once."""

    solutions: int  # a problem
    tokens: int  # of a completion, the mean
    spread: float  # standard deviation of the log of a completion's length
    decode_rate: float  # tokens a second, of each sequence
    load_rate: float  # GiB a second, of an engine's own reload

    def length(self, rng: random.Random) -> int:
        """Tokens of one completion: log-normal with mean `tokens`."""
        return max(1, round(self.tokens * rng.lognormvariate(-(self.spread**2) / 2, self.spread)))


@ray.remote(num_cpus=0)
class SimulatedActor:
    """Answers as RolloutActor does, after the time that its engine would take."""

    def __init__(self, index: int, domain: str) -> None:
        self.index = index
        self.generate = generator(get_domain(domain))
        self._held: WeightVersion | None = None  # of the weights

    def set(self, timing: Timing) -> None:
        self.timing = timing
        self._held = None

    def hello(self) -> int:
        return self.index

    def ready(self) -> None: ...

    def play(self, assignment: Assignment, publication: Publication) -> Played:
        """Episodes of made up problems, each proposal valid; `seconds` is what the engine would have taken."""
        sync = self._sync(publication)
        began = time.monotonic()
        rng = random.Random(f"{assignment.id}/{publication.version.step}")
        episodes = [self._episode(slot, assignment.batch, publication.version.step, rng) for slot in assignment.slots]
        longest = max(len(s.completion.token_ids) for e in episodes if e.group for s in e.group.samples)
        seconds = longest / self.timing.decode_rate
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        return Played(
            assignment=assignment, episodes=episodes, sync=sync, seconds=seconds, memory_gib=peak_memory_gib()
        )

    def evaluate(self, items: Sequence[EvalItem], publication: Publication) -> Evaluated:
        result: dict[str, Any] = {"accuracy": 0.0, "interval": (0.0, 0.0), "n": 0, "data": "none", "by_label": {}}
        return Evaluated(result=result, sync=self._sync(publication))

    def _sync(self, publication: Publication) -> SyncReport | None:
        if self._held == publication.version:
            return None
        began = time.monotonic()
        sizes = {name: len(ray.get(part.ref)[name]) for name, part in publication.parts.items()}
        time.sleep(sum(sizes.values()) / GIB / self.timing.load_rate)
        self._held = publication.version
        seconds = time.monotonic() - began
        return SyncReport(
            version=publication.version,
            seconds=seconds,
            load_seconds=seconds,
            proof_seconds=0.0,
            bytes=sizes,
            tensors=0,
            tensors_in_order=0,
            gaps=dict.fromkeys(sizes, 0.0),
            gap_mean=0.0,
        )

    def _episode(self, slot: Slot, batch: int, version: int, rng: random.Random) -> Episode:
        request = slot.tries[0]
        problem = self.generate(rng, request.cell)
        prompt = tuple(range(32))

        def sample(role: Role, tokens: int, verdict: Verdict) -> Sample:
            start = rng.randrange(VOCABULARY)
            completion = Completion(
                prompt_ids=prompt,
                token_ids=tuple(range(start, start + tokens)),
                logprobs=(-0.5,) * tokens,
                text="",
                version=version,
                finish_reason="stop",
            )
            return Sample(role=role, cell=request.cell, completion=completion, verdict=verdict, reward=0.0)

        samples = tuple(
            sample(Role.SOLVER, self.timing.length(rng), rng.choice((Verdict.RIGHT, Verdict.WRONG)))
            for _ in range(self.timing.solutions)
        )
        return Episode(
            id=slot.id,
            batch=batch,
            requested_cell=request.cell,
            references=tuple(r.statement for r in request.references),
            proposal=sample(Role.PROPOSER, PROPOSAL_TOKENS, Verdict.VALID),
            group=Group(id=slot.id, problem=problem, samples=samples),
        )
