"""The learner's processes as one: sharded parameters, sums over all, and what each needs to find the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class Workers:
    """This process among the learner's workers. Alone, each method is the plain case and no group is made."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._store: dist.TCPStore | None = None
        self._device = torch.device("cpu")

    def listen(self, host: str, timeout_s: float) -> str:
        """host:port where this first worker waits for the others; of no interface but the one of `host`."""
        server = socket.create_server((host, 0))
        port = server.getsockname()[1]
        self._store = dist.TCPStore(
            host,
            port,
            self.size,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=server.detach(),
        )
        return f"{host}:{port}"

    def join(self, address: str, own_address: str, device: torch.device, timeout_s: float) -> None:
        """Form the group: NCCL between GPUs, gloo between CPUs. No collective waits longer than `timeout_s`.

        `address`: what the first one's `listen` gave; `own_address`: of the interface of this machine to use.
        """
        self._device = device
        if self.size == 1:
            return
        host, port = address.rsplit(":", 1)
        limit = timedelta(seconds=timeout_s)
        if name := interface(own_address):  # else gloo takes that of the host's name, which may be loopback's
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        store = self._store or dist.TCPStore(host, int(port), self.size, is_master=False, timeout=limit)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=limit)

    @property
    def is_first(self) -> bool:
        """Whether this one publishes and writes for all."""
        return self.rank == 0

    def shard(self, root: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """FSDP2: each block's parameters, and then the rest, split over the workers; gradients are summed."""
        if self.size == 1:
            return
        mesh = init_device_mesh(self._device.type, (self.size,))
        for module in (*blocks, root):
            # The root too is split again after a forward pass, so that its parameters are always the shares.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for module in root.modules():
            if isinstance(module, FSDPModule):  # each worker's loss has the whole batch's denominator: no mean
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def gather(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Whole tensors on the CPU, by name, for the first worker; the others take part and get none."""
        found = {}
        for name, tensor in tensors:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.is_first:
                found[name] = full.detach().cpu()
        return found

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise over the workers, in float64; the same bits on each."""
        if self.size == 1:
            return values
        tensor = torch.as_tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()


def interface(address: str) -> str:
    """Name of the network interface that carries an IP address of this machine; empty where none does."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == address for a in addresses):
            return name
    return ""


def sharded_like(tensor: Tensor, target: Tensor) -> Tensor:
    """This worker's share of a whole tensor that every worker has, laid out as `target` is."""
    if not isinstance(target, DTensor):
        return tensor.to(target.device)
    mesh = target.device_mesh
    return distribute_tensor(tensor.to(target.device), mesh, target.placements, src_data_rank=None)
