"""The Ray actor that learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from azero.config import Config
from azero.errors import UserError
from azero.process import deadline_stacks, keep_heap, keep_log_short, redirect_output, trim_heap, use_threads
from azero.types import Episode, ProbeSet, Update, WeightSnapshot
from learner.mirror import Mirror

if TYPE_CHECKING:  # the driver has this class too, and no need of torch
    import torch

    from learner.checkpoints import Kept
    from learner.core import LearnerCore


class Learner:  # made an actor where it is placed, with the concurrency that it needs there
    """A worker of the learner: all of them are called with the same, and the first one's answers count.

    What it publishes and keeps are return values: Ray then counts them as the driver's, and they outlive this process.
    """

    def __init__(
        self,
        rank: int,
        config: Config,
        model_path: str,
        checkpoint: str | None,
        kept: Sequence[Any],
        probe_texts: Sequence[str],
        log: str,
        make_sender: Callable[[torch.device], Any] | None = None,
    ) -> None:
        """Goes on from the first of `kept`, a reference to what `keep` returned, or from the checkpoint, or begins.

        `make_sender`: of what sends weights to actors that ask (actors/transfer.py: Sender), beside Ray's object store.
        """
        redirect_output(log)
        use_threads(config.learner.threads)
        keep_heap()
        from learner.workers import Workers

        self.log = log
        self.config = config
        self.workers = Workers(rank, config.learner.workers)
        self._arguments = (config, model_path, Path(checkpoint) if checkpoint else None, probe_texts)
        self._kept = list(kept)
        self._core: LearnerCore | None = None
        self._make_sender = make_sender if rank == 0 else None
        self._sender: Any = None

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return f"Learner, worker {self.workers.rank}"

    # Not built in __init__: what goes wrong in `start` reaches the driver as it is, not as the death of an actor.
    @property
    def core(self) -> LearnerCore:
        assert self._core is not None, "start comes first"
        return self._core

    def listen(self) -> str:
        """Where the other workers find this first one."""
        return self.workers.listen(ray.util.get_node_ip_address(), self.config.learner.timeout_s)

    @ray.method(num_returns=2)
    def start(self, address: str) -> tuple[tuple[WeightSnapshot, dict[str, Any]], np.ndarray]:
        """((the present version, the driver's own state in what this goes on from), weights)."""
        import torch

        from learner.core import LearnerCore
        from learner.policy import make_repeatable

        learner = self.config.learner
        device = torch.device("cuda" if torch.cuda.is_available() and learner.gpus_per_worker else "cpu")
        make_repeatable(device)
        with deadline_stacks(self.config.cluster.start_timeout_s):
            self.workers.join(address, ray.util.get_node_ip_address(), device, learner.timeout_s)
            self._bring_checkpoint()
            kept: Kept | None = ray.get(self._kept.pop(0)) if self._kept else None
            self._core = LearnerCore(*self._arguments, kept, self.workers, device)
            self._sender = self._make_sender(device) if self._make_sender else None
            snapshot, weights = self._publish()
        return (snapshot, self.core.driver_state), weights

    def ping(self) -> None: ...

    # Of the sender: an actor calls them, and they run beside an update.
    def prepare(self, actor: int, process: str, version: int) -> tuple[str, int] | None:
        port = self._sender.prepare(actor, process, version)
        return (ray.util.get_node_ip_address(), port) if port else None

    def open(self, actor: int, host: str, port: int, workers: int) -> None:
        self._sender.open(actor, host, port, workers)

    def send(self, actor: int) -> None:
        self._sender.send(actor)

    @ray.method(num_returns=2)
    def update(self, episodes: list[Episode]) -> tuple[tuple[Update, WeightSnapshot] | None, np.ndarray]:
        """((what was done, the new version), weights)."""
        with deadline_stacks(self.config.learner.timeout_s):
            update = self.core.update(episodes)
            snapshot, weights = self._publish()
        keep_log_short(self.log)
        return (update, snapshot) if self.workers.is_first else None, weights

    def probe(self) -> ProbeSet:
        """Of the present version. A call of its own: engines load meanwhile."""
        with deadline_stacks(self.config.learner.timeout_s):
            return self.core.probe()

    def save(self, folder: str, driver: dict[str, Any]) -> tuple[str, str]:
        """What kept the checkpoint from being written, as a full disk, and what kept it from being copied."""
        run = self.config.run
        with deadline_stacks(self.config.learner.timeout_s):
            try:
                checkpoint = self.core.save(Path(folder), driver)
            except OSError as e:
                return e.strerror or str(e), ""
            try:
                if checkpoint and run.mirror:
                    Mirror(run.mirror).put(checkpoint, run.keep_checkpoints)
            except Exception as e:  # each store has errors of its own
                return "", f"{type(e).__name__}: {e}"
        trim_heap()  # not every step: the next one needs most of it again, and new pages take time
        return "", ""

    @ray.method(num_returns=2)
    def keep(self, driver: dict[str, Any]) -> tuple[int, Kept]:
        """(the present version, the whole state)."""
        with deadline_stacks(self.config.learner.timeout_s):
            return self.core.version, self.core.keep(driver)

    def _bring_checkpoint(self) -> None:
        """From the mirror, where this node does not see the driver's disk. Raises UserError for a damaged copy."""
        _, _, checkpoint, _ = self._arguments
        mirror = self.config.run.mirror
        if not checkpoint or checkpoint.exists() or not mirror:
            return
        if wrong := Mirror(mirror).fetch(checkpoint.name, checkpoint.parent):
            raise UserError(f"checkpoint {checkpoint.name} of {mirror}: damaged ({wrong})")

    def _publish(self) -> tuple[WeightSnapshot, np.ndarray]:
        weights, manifest = self.core.weights()
        snapshot = WeightSnapshot(
            version=self.core.version,
            manifest=manifest,
            dtype=self.core.config.model.dtype.value,
            bytes=weights.nbytes,
        )
        if self._sender:
            self._sender.hold(snapshot.version, weights, manifest, snapshot.dtype)
            snapshot = replace(snapshot, sender=ray.get_runtime_context().current_actor)
        return snapshot, weights
