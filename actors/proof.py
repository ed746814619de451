"""Proof of sync: after loading, the engine must hold the published tensors and reproduce the learner's log-probs.

The tensors show a single one that is stale, in any dtype. The log-probs show what no tensor does: that the engine
makes of them the learner's function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from azero.engine import Engine
from azero.errors import SyncError, listed
from azero.types import SHARED, HeldWeights, ProbeSet, Publication, SyncReport, WeightVersion

# Nats. Where the learner's values moved by more than this, an engine with the new weights cannot give the very same
# numbers as before: well above rounding. A bfloat16 learner keeps norms and embeddings in fp32 and so can move a
# little where the engine's rounded weights do not.
MOVED = {"float32": 1e-6, "bfloat16": 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proven:
    """Holds what was found of one part of a publication."""

    since: WeightVersion | None
    probes: ProbeSet
    held: HeldWeights
    scores: list[list[float]]  # the engine's, of the probes
    gaps: list[float]  # |engine - learner| of each probe token


class SyncProof:
    """Loads publications into one engine, and proves each. An engine that fails is marked as holding no version."""

    def __init__(self, tolerance: float) -> None:
        """`tolerance` of |engine - learner| in nats: of any probe token in fp32, of their mean in bf16.

        Two bf16 implementations differ by a nat at some unlikely token, which says nothing; their mean over the probes
        is steady (SmolLM2-135M, 60 texts of 24 tokens under four sets of weights: at most 0.07, a token up to 0.6).
        """
        self.tolerance = tolerance
        self._last: dict[str, _Proven] = {}  # by part

    def is_proven(self, publication: Publication, part: str) -> bool:
        """Whether the engine holds a part of the publication already: it has not changed since it was proven."""
        last, since = self._last.get(part), publication.parts[part].since
        return last is not None and since is not None and last.since == since

    def load_and_prove(
        self,
        engine: Engine,
        publication: Publication,
        load: Callable[[str], None],
        learner_probes: Callable[[], Mapping[str, ProbeSet]],
    ) -> SyncReport | None:
        """Load and prove what is new of the publication; None if nothing is. `load` loads one part.

        Raises SyncError, and what `load` and `learner_probes` raise. The report's seconds are of all of it.
        """
        began = time.monotonic()
        new = [part for part in publication.parts if not self.is_proven(publication, part)]
        try:
            for part in new:
                load(part)
            load_seconds = time.monotonic() - began
            proven = self._prove(engine, new, publication, learner_probes()) if new else {}
            for part in publication.parts.keys() - proven.keys():
                engine.keep(publication.version, part)
        except BaseException:  # an interrupted load too
            engine.forget()
            self._last = {}
            raise
        if not proven:
            return None
        self._last |= proven
        gaps = [gap for p in proven.values() for gap in p.gaps]
        return SyncReport(
            version=publication.version,
            seconds=time.monotonic() - began,
            load_seconds=load_seconds,
            proof_seconds=sum(p.held.seconds for p in proven.values()),
            bytes={part: publication.parts[part].bytes for part in new},
            tensors=sum(len(p.held.digests) for p in proven.values()),
            tensors_in_order=sum(p.held.in_order for p in proven.values()),
            gaps={part: max(p.gaps) for part, p in proven.items()},
            gap_mean=sum(gaps) / len(gaps),
        )

    def _prove(
        self, engine: Engine, new: Sequence[str], publication: Publication, probes: Mapping[str, ProbeSet]
    ) -> dict[str, _Proven]:
        """Return what was found of each new part. Their probes are scored in one batch."""
        who = {
            name: f"weights of version {publication.version.step}" + (f" of {name}" if name != SHARED else "")
            for name in new
        }
        held = {name: engine.held(name) for name in new}
        for name in new:
            _check_tensors(who[name], probes[name].digests, held[name])
        asked = [(sequence, name) for name in new for sequence in probes[name].sequences]
        scores = iter(engine.score([sequence for sequence, _ in asked], [name for _, name in asked]))
        proven = {}
        for name in new:
            part, own = publication.parts[name], list(islice(scores, len(probes[name].sequences)))
            gaps = _differences(own, probes[name].logprobs)
            found = _Proven(since=part.since, probes=probes[name], held=held[name], scores=own, gaps=gaps)
            self._check_logprobs(who[name], found, part.dtype, self._last.get(name))
            proven[name] = found
        return proven

    def _check_logprobs(self, who: str, proven: _Proven, dtype: str, last: _Proven | None) -> None:
        gaps = proven.gaps
        if not gaps:
            raise SyncError(f"{who}: the publication has no probe tokens, so nothing is proven")
        if not all(map(math.isfinite, gaps)):
            raise SyncError(f"{who}: a probe log-prob of the engine or of the learner is not finite")
        exact = dtype == "float32"
        gap = max(gaps) if exact else sum(gaps) / len(gaps)
        if gap > self.tolerance:
            raise SyncError(
                f"{who}: the engine's probe log-probs differ from the learner's by {'up to' if exact else 'a mean of'} "
                f"{gap:.3g} nats, over rollout.sync_tolerance={self.tolerance:g}: the engine does not hold the "
                "learner's weights"
            )
        if last is None or last.probes.sequences != proven.probes.sequences:
            return
        moved = max(_differences(proven.probes.logprobs, last.probes.logprobs))
        if moved > MOVED[dtype] and proven.scores == last.scores:
            raise SyncError(
                f"{who}: the learner's probe log-probs moved by up to {moved:.3g} nats, "
                "the engine's not at all: it kept the old weights"
            )


def _check_tensors(who: str, published: Mapping[str, int], held: HeldWeights) -> None:
    if not published:
        raise SyncError(f"{who}: the publication has no digests of its tensors, so nothing is proven")
    wrong = {name for name in published.keys() | held.digests.keys() if published.get(name) != held.digests.get(name)}
    if wrong:
        raise SyncError(
            f"{who}: {len(wrong)} of {len(published)} tensors in the engine are not those that were published: "
            f"{listed(wrong)}"
        )


def _differences(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """|one - other| of all probe tokens."""
    return [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
