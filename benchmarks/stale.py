"""Each tensor of a model kept stale in turn, and right syncs: what the proof of sync says of either.

    python benchmarks/stale.py MODEL [--engine vllm] [--dtype bfloat16] [--syncs 200]

prints one line. The second of two versions, between which the right syncs alternate, has all weights moved by about
`--step` of their size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch

from actors.engines import build_engine
from actors.proof import SyncProof
from azero.config import ModelConfig, RolloutConfig
from azero.errors import SyncError
from azero.models.loading import load_model, resolve_model_path
from azero.models.weights import digests, flatten, owned_state, unflatten
from azero.policies import one_policy
from azero.types import SHARED, ProbeSet, Publication, PublishedWeights, WeightVersion

ANY = 1e9  # nats: the tensors decide alone


class Syncs:
    """Publishes versions of a model to one engine, and proves each."""

    def __init__(self, path: str, engine: str, dtype: str, step: float) -> None:
        rollout = RolloutConfig(engine=engine, max_model_len=64, max_num_seqs=8, kv_cache_gib=0.05)
        path = resolve_model_path(path)
        self.engine = build_engine(ModelConfig(path=path, dtype=dtype), rollout, 0, one_policy(path))
        self.state, self.dtype, self.step = owned_state(load_model(path)), dtype, step
        self.generator = torch.Generator().manual_seed(0)
        self.seconds: list[tuple[float, float, float]] = []  # of a sync, of the proof's readings, of the digests

    def next(self) -> tuple[dict[str, Any], ProbeSet]:
        for tensor in self.state.values():
            noise = torch.randn(min(tensor.numel(), 2**16), generator=self.generator)
            tensor.view(-1).mul_(1 + self.step * noise.repeat(-(-tensor.numel() // len(noise)))[: tensor.numel()])
        buffer, manifest = flatten(self.state, getattr(torch, self.dtype))
        began = time.perf_counter()
        found = digests(buffer, manifest, self.dtype)
        self.digest_seconds = time.perf_counter() - began
        probes = ProbeSet(sequences=((1, 2, 3, 4),), logprobs=((-1.0,) * 3,), digests=found)
        return unflatten(buffer, manifest, self.dtype), probes

    def prove(self, version: int, loaded: Any, probes: ProbeSet) -> None:
        part = PublishedWeights(layout=(), dtype=self.dtype, bytes=1)
        publication = Publication(version=WeightVersion(lineage=0, step=version), parts={SHARED: part})
        load = partial(self.engine.load, publication.version, loaded)
        report = SyncProof(ANY).load_and_prove(self.engine, publication, load, lambda: {SHARED: probes})
        self.seconds.append((report.seconds, report.proof_seconds, self.digest_seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--engine", choices=["vllm", "hf"], default="vllm")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--syncs", type=int, default=200)
    parser.add_argument("--step", type=float, default=1e-3)
    given = parser.parse_args()
    syncs = Syncs(given.model, given.engine, given.dtype, given.step)
    two = (old, _), (new, probes) = syncs.next(), syncs.next()
    caught, same = 0, 0
    for name in new:
        if torch.equal(old[name], new[name]):
            same += 1
            continue
        try:
            syncs.prove(1, new | {name: old[name]}, probes)
        except SyncError as e:
            caught += f"1 of {len(new)} tensors" in str(e) and str(e).endswith(name)
    for version in range(given.syncs):
        syncs.prove(version, *two[version % 2])
    whole, proof, digesting = (statistics.median(s) for s in zip(*syncs.seconds[-given.syncs :], strict=True))
    print(
        f"{given.engine} {given.dtype}: caught and named {caught} of {len(new) - same} stale tensors ({same} did not "
        f"differ); {given.syncs} right syncs passed; a sync {whole:.3f} s, of it the tensors' proof {proof:.3f} s "
        f"({proof / whole:.0%}); digests at the learner {digesting:.3f} s"
    )


if __name__ == "__main__":
    main()
