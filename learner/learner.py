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
from azero.policies import Policies
from azero.process import deadline_stacks, keep_heap, keep_log_short, redirect_output, trim_heap, use_threads
from azero.types import ProbeSet, Publication, PublishedWeights, StepResult, TrainBatch, WeightVersion
from learner.checkpoint import Checkpoint
from learner.mirror import Mirror

if TYPE_CHECKING:  # the driver has this class too, and no need of torch
    import torch

    from learner.saving import StateCopy
    from learner.trainer import Trainer


class Learner:  # made an actor where it is placed, with the concurrency that it needs there
    """A worker of the learner: all of them are called with the same, and the first one's answers count.

    What it publishes and copies are return values: Ray then counts them as the driver's, and they outlive this process.
    """

    def __init__(
        self,
        rank: int,
        config: Config,
        policies: Policies,
        lineage: int,
        checkpoint: str | None,
        copies: Sequence[Any],
        probe_texts: Sequence[str],
        log: str,
        make_sender: Callable[[torch.device], Any] | None = None,
    ) -> None:
        """Goes on from the first of `copies`, a reference to what `copy_state` returned, or from the checkpoint, or
        begins. `lineage` is that of all versions that it makes.

        `make_sender`: of what sends weights to actors that ask (actors/transfer.py: Sender), beside Ray's object store.
        """
        redirect_output(log)
        use_threads(config.learner.threads)
        keep_heap()
        from learner.workers import Workers

        self.log = log
        self.config, self.policies, self.lineage, self.probe_texts = config, policies, lineage, probe_texts
        self._parts: dict[str, PublishedWeights] = {}  # of the newest publication
        self.workers = Workers(rank, config.learner.workers)
        self._checkpoint = Checkpoint(Path(checkpoint)) if checkpoint else None
        self._copies = list(copies)
        self._trainer: Trainer | None = None
        self._make_sender = make_sender if rank == 0 else None
        self._sender: Any = None

    def __repr__(self) -> str:
        """Return the name that Ray's dashboard shows."""
        return f"Learner, worker {self.workers.rank}"

    # Not built in __init__: what goes wrong in `start` reaches the driver as it is, not as the death of an actor.
    @property
    def trainer(self) -> Trainer:
        assert self._trainer is not None, "start comes first"
        return self._trainer

    def listen(self) -> str:
        """Return where the other workers find this first one."""
        return self.workers.listen(ray.util.get_node_ip_address(), self.config.learner.timeout_s)

    @ray.method(num_returns=2)
    def start(self, address: str) -> tuple[tuple[Publication, dict[str, Any]], dict[str, np.ndarray]]:
        """((the present version, the driver's own state in what this goes on from), weights)."""
        import torch

        from learner.policy import make_repeatable
        from learner.trainer import Trainer

        c = self.config
        device = torch.device("cuda" if torch.cuda.is_available() and c.learner.gpus_per_worker else "cpu")
        make_repeatable(device)
        with deadline_stacks(c.cluster.start_timeout_s):
            self.workers.join(address, ray.util.get_node_ip_address(), device, c.learner.timeout_s)
            self._bring_checkpoint()
            copied: StateCopy | None = ray.get(self._copies.pop(0)) if self._copies else None
            self._trainer = Trainer(
                model=c.model,
                algorithm=c.algorithm,
                learner=c.learner,
                policies=self.policies,
                state=copied or self._checkpoint,
                probe_texts=self.probe_texts,
                workers=self.workers,
                device=device,
            )
            self._sender = self._make_sender(device) if self._make_sender else None
            publication, weights = self._publish()
        return (publication, self.trainer.driver_state), weights

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
    def step(self, batch: TrainBatch) -> tuple[tuple[StepResult, Publication] | None, dict[str, np.ndarray]]:
        """((what was done, the new version), weights)."""
        with deadline_stacks(self.config.learner.timeout_s):
            result = self.trainer.step(batch)
            publication, weights = self._publish()
        keep_log_short(self.log)
        return (result, publication) if self.workers.is_first else None, weights

    def probe(self) -> dict[str, ProbeSet]:
        """Return the probes of the present version, by part. It is a call of its own: engines load meanwhile."""
        with deadline_stacks(self.config.learner.timeout_s):
            return self.trainer.probe()

    def save(self, folder: str, driver: dict[str, Any]) -> tuple[str, str]:
        """Return what kept the checkpoint from being written, as a full disk, and what kept it from being copied."""
        run = self.config.run
        with deadline_stacks(self.config.learner.timeout_s):
            try:
                checkpoint = self.trainer.save(Path(folder), driver, run.keep_checkpoints)
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
    def copy_state(self, driver: dict[str, Any]) -> tuple[int, StateCopy]:
        """(the present step, the whole state)."""
        with deadline_stacks(self.config.learner.timeout_s):
            return self.trainer.step_number, self.trainer.copy_state(driver)

    def _bring_checkpoint(self) -> None:
        """Fetch the checkpoint from the mirror if it is not on this node's disk. Raises UserError for a bad copy."""
        checkpoint, mirror = self._checkpoint, self.config.run.mirror
        if not checkpoint or checkpoint.path.exists() or not mirror:
            return
        if wrong := Mirror(mirror).fetch(checkpoint.name, checkpoint.path.parent):
            raise UserError(f"checkpoint {checkpoint.name} of {mirror}: damaged ({wrong})")

    def _publish(self) -> tuple[Publication, dict[str, np.ndarray]]:
        """The present version, and the bytes of its new parts; the driver adds where they and the probes lie."""
        version = WeightVersion(lineage=self.lineage, step=self.trainer.step_number)
        new = self.trainer.publish()
        self._parts |= {name: replace(part, since=version) for name, (_, part) in new.items()}
        publication = Publication(version=version, parts=dict(self._parts))
        if self._sender:
            ((weights, part),) = new.values()
            self._sender.hold(version.step, weights, part.layout, part.dtype)
            publication = replace(publication, sender=ray.get_runtime_context().current_actor)
        return publication, {name: weights for name, (weights, _) in new.items()}
