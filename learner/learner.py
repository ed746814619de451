"""The Ray actor that learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from azero.config import Config
from azero.process import redirect_output
from azero.types import Episode, WeightSnapshot
from learner.core import LearnerCore, Update


@ray.remote
class Learner:
    """One learner: updates, publishes each version once into Ray's object store, writes checkpoints."""

    def __init__(
        self, config: Config, model_path: str, checkpoint: str | None, probe_texts: Sequence[str], log: str
    ) -> None:
        redirect_output(log)
        self._arguments = (config, model_path, Path(checkpoint) if checkpoint else None, probe_texts)
        self._core: LearnerCore | None = None

    # Built on first use and not in __init__: what goes wrong here then reaches the driver as it is, and not as the
    # death of an actor.
    @property
    def core(self) -> LearnerCore:
        if self._core is None:
            threads = self._arguments[0].learner.threads
            if threads:
                torch.set_num_threads(threads)
            self._core = LearnerCore(*self._arguments)
        return self._core

    def start(self) -> tuple[WeightSnapshot, dict[str, Any]]:
        """The snapshot of the present version and the driver's own state in the checkpoint that it came from."""
        return self._publish(), self.core.driver_state

    def update(self, episodes: list[Episode]) -> tuple[Update, WeightSnapshot]:
        update = self.core.update(episodes)
        return update, self._publish()

    def save(self, folder: str, driver: dict[str, Any]) -> str:
        return str(self.core.save(Path(folder), driver))

    def _publish(self) -> WeightSnapshot:
        buffer, manifest = self.core.weights()
        return WeightSnapshot(
            version=self.core.version,
            handle=ray.put(buffer),
            manifest=manifest,
            dtype=self.core.config.model.dtype.value,
            bytes=buffer.nbytes,
            probes=self.core.policy.probe(self.core.probes),
        )
