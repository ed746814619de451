"""The proof of sync on an engine whose scores are given. Real engines are proven in test_engines.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from helpers import at, publication

from actors.proof import SyncProof
from azero.errors import SyncError
from azero.types import SHARED, HeldWeights, ProbeSet, Publication, WeightVersion

SEQUENCES = ((1, 2, 3), (4, 5))
DIGESTS = {"a": 5, "b": 6}


class Scripted:
    """`load` takes the scores that `score` then gives."""

    version: WeightVersion | None = None

    def load(self, version: WeightVersion, weights: Mapping[str, Any], policy: str) -> None:
        self.version, self.scores = version, weights["scores"]

    def forget(self) -> None:
        self.version = None

    def held(self, policy: str) -> HeldWeights:
        return HeldWeights(digests=DIGESTS, in_order=1, seconds=0.25)

    def score(self, sequences: Sequence[Sequence[int]], policy: str) -> list[list[float]]:
        assert tuple(sequences) == SEQUENCES
        return [list(s) for s in self.scores]


def prove(proof: SyncProof, engine: Any, version: int, learner: Any, scores: Any, dtype: str = "float32") -> Any:
    probes = ProbeSet(sequences=SEQUENCES if learner else (), logprobs=learner, digests=DIGESTS)
    published = publication(version, dtype, 44)
    load = partial(engine.load, published.version, {"scores": scores})
    return proof.load_and_prove(engine, published, load, lambda: {SHARED: probes})


LEARNER = ((-1.0, -2.0), (-3.0,))


def test_the_report_has_the_largest_and_the_mean_gap() -> None:
    engine = Scripted()
    report = prove(SyncProof(0.5), engine, 3, LEARNER, ((-1.25, -2.0), (-2.5,)))
    assert (report.version.step, report.bytes, report.gap_max, report.gap_mean) == (3, {SHARED: 44}, 0.5, 0.25)
    assert (report.proof_seconds, report.tensors, report.tensors_in_order) == (0.25, 2, 1)
    assert report.seconds >= 0 and engine.version == at(3)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (((-1.0, -2.6), (-3.0,)), r"version 3: .* by up to 0.6 nats, over rollout.sync_tolerance=0.5"),
        (((-1.0, float("nan")), (-3.0,)), "version 3: .* not finite"),
        (((-1.0, -2.0), (float("-inf"),)), "version 3: .* not finite"),
    ],
)
def test_a_gap_stops_the_run_and_the_engine_holds_nothing(scores: Any, message: str) -> None:
    engine = Scripted()
    with pytest.raises(SyncError, match=message):
        prove(SyncProof(0.5), engine, 3, LEARNER, scores)
    assert engine.version is None


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        ({"a": 5, "b": 7}, "1 of 2 tensors in the engine are not those that were published: b"),
        ({"a": 5}, "1 of 2 tensors in the engine are not those that were published: b"),
        (DIGESTS | {"c": 8}, "1 of 2 tensors in the engine are not those that were published: c"),
        ({name: 5 for name in "wxyz"}, "6 of 2 tensors .*: a, b, w, ..."),
    ],
)
def test_tensors_that_are_not_those_published_stop_the_run(digests: dict[str, int], message: str) -> None:
    """Whatever the log-probs say."""

    class Stale(Scripted):
        def held(self, policy: str) -> HeldWeights:
            return HeldWeights(digests=digests, in_order=1, seconds=0.0)

    engine = Stale()
    with pytest.raises(SyncError, match=f"weights of version 3: {message}"):
        prove(SyncProof(0.5), engine, 3, LEARNER, LEARNER)
    assert engine.version is None


def test_of_a_publication_without_anything_new_nothing_is_loaded() -> None:
    """As where an actor holds the policy of one role, and the other's alone has moved."""

    class Kept(Scripted):
        def keep(self, version: WeightVersion, policy: str) -> None:
            self.version = version

    engine, proof, parts = Kept(), SyncProof(0.5), {SHARED: replace(publication().parts[SHARED], since=at(1))}
    probes = {SHARED: ProbeSet(sequences=SEQUENCES, logprobs=LEARNER, digests=DIGESTS)}

    def load(part: str) -> None:
        engine.load(at(1), {"scores": LEARNER}, part)

    first, second = Publication(version=at(1), parts=parts), Publication(version=at(2), parts=parts)
    assert proof.load_and_prove(engine, first, load, lambda: probes)  # type: ignore[arg-type]
    assert proof.load_and_prove(engine, second, pytest.fail, pytest.fail) is None  # type: ignore[arg-type]
    assert engine.version == at(2)


def test_a_gap_of_the_tolerance_is_allowed() -> None:
    prove(SyncProof(0.5), Scripted(), 3, LEARNER, ((-1.5, -2.0), (-3.0,)))


def test_in_bfloat16_the_mean_counts_not_one_unlikely_token() -> None:
    prove(SyncProof(0.5), Scripted(), 3, LEARNER, ((-1.0, -2.0), (-4.5,)), "bfloat16")
    with pytest.raises(SyncError, match=r"by a mean of 0.6 nats, over rollout.sync_tolerance=0.5"):
        prove(SyncProof(0.5), Scripted(), 3, LEARNER, ((-1.6, -2.6), (-3.6,)), "bfloat16")


def test_without_probes_nothing_is_proven() -> None:
    class Silent(Scripted):
        def score(self, sequences: Sequence[Sequence[int]], policy: str) -> list[list[float]]:
            return []

    with pytest.raises(SyncError, match="no probe tokens"):
        prove(SyncProof(0.5), Silent(), 3, (), ())


@pytest.mark.parametrize(
    ("dtype", "by", "refused"),
    [("float32", 1e-4, True), ("float32", 1e-7, False), ("bfloat16", 0.05, True), ("bfloat16", 0.005, False)],
)
def test_an_engine_that_does_not_move_with_the_learner_is_caught(dtype: str, by: float, refused: bool) -> None:
    """Even within the tolerance: a small step with a lost update would show in no gap."""
    engine, proof = Scripted(), SyncProof(0.5)
    prove(proof, engine, 1, LEARNER, LEARNER, dtype)
    after = ((-1.0, -2.0 - by), (-3.0,))
    if refused:
        with pytest.raises(SyncError, match=r"version 2: the learner's probe log-probs moved by up to .* not at all"):
            prove(proof, engine, 2, after, LEARNER, dtype)
        assert engine.version is None
    else:
        prove(proof, engine, 2, after, LEARNER, dtype)
    prove(proof, engine, 3, after, ((-1.0, -2.0), (-3.0000001,)), dtype)  # it moved, if by rounding alone


def test_an_engine_that_fails_to_load_holds_nothing() -> None:
    class Broken(Scripted):
        def load(self, version: WeightVersion, weights: Mapping[str, Any], policy: str) -> None:
            self.version = version
            raise SyncError("weights do not fit")

    engine = Broken()
    with pytest.raises(SyncError, match="do not fit"):
        prove(SyncProof(0.5), engine, 1, LEARNER, LEARNER)
    assert engine.version is None
