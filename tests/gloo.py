"""vLLM's NCCL weight transfer on CPUs: gloo moves the bytes, everything else is vLLM's and ours."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

LIMIT = timedelta(seconds=30)


def in_place_of_nccl() -> None:
    """In this process, for both sides."""
    from vllm.distributed.weight_transfer import factory
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine, NCCLWeightTransferEngine

    class Trainer(NCCLTrainerWeightTransferEngine):
        @classmethod
        def trainer_init(cls, init_info: Any, *, client: Any, source: Any = None) -> Any:
            made = cls(client=client, source=source, packed=False)
            made.model_update_group = Group(init_info, 0)
            return made

        def _broadcast(self, source: Any, meta: Any) -> None:
            for _, tensor in self._checked_iter(source, meta):
                self.model_update_group.broadcast(tensor)

    class Worker(NCCLWeightTransferEngine):
        def init_transfer_engine(self, init_info: Any) -> None:
            self.model_update_group = Group(init_info, init_info.rank_offset + self.parallel_config.rank)

        def update_weights(self, update_info: Any) -> None:
            info = self.parse_update_info(update_info)
            for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                self.model_update_group.broadcast(tensor)
                self.model.load_weights([(name, tensor)])

    factory.WeightTransferTrainerFactory._registry["nccl"] = lambda: Trainer
    factory.WeightTransferEngineFactory._registry["nccl"] = lambda: Worker


class Group:
    available = True

    def __init__(self, info: Any, rank: int) -> None:
        store = dist.TCPStore(info.master_address, info.master_port, info.world_size, rank == 0, LIMIT)
        self.group = dist.ProcessGroupGloo(store, rank, info.world_size, LIMIT)

    def broadcast(self, tensor: torch.Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self.group.broadcast([tensor], options).wait()

    def destroy(self) -> None:
        del self.group
