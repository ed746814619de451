"""Seconds to publish weights to separate object stores, beside one copy of the bytes in memory.

    python benchmarks/publish.py [--gib 1] [--nodes 1 2 4] [--repeats 5]

Every node is a Ray node of this machine with an object store of its own; a reader on each reads the bytes once, as an
actor does when it loads them. The head holds the learner's put.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

GIB = 2**30


@ray.remote(num_cpus=0)
class Reader:
    """On one node: fetches what is published."""

    def read(self, refs: list[ray.ObjectRef]) -> int:
        weights = ray.get(refs[0])
        return int(weights[0]) + int(weights[-1]) + len(weights)


def copy_seconds(weights: np.ndarray) -> float:
    target = np.empty_like(weights)
    target[:] = weights  # its pages are there from now on
    began = time.monotonic()
    target[:] = weights
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    size = int(given.gib * GIB)
    store = int(2.5 * size) + 200 * 2**20
    table = Table(title=f"{given.gib:g} GiB, median of {given.repeats}", title_justify="left")
    for name in ("nodes", "put, s", "until all have it, s", "memory copy, s", "ratio"):
        table.add_column(name, justify="right")
    for nodes in given.nodes:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
        for i in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=store, resources={f"node{i}": 1})
        ray.init(address=cluster.address, log_to_driver=False)
        readers = [Reader.options(resources={f"node{i}": 1}).remote() for i in range(nodes)]  # type: ignore[attr-defined]
        small = ray.put(np.ones(8, dtype=np.uint8))
        ray.get([r.read.remote([small]) for r in readers])
        weights = np.ones(size, dtype=np.uint8)
        puts, totals, copies = [], [], []
        for _ in range(given.repeats):
            copies.append(copy_seconds(weights))
            began = time.monotonic()
            ref = ray.put(weights)
            puts.append(time.monotonic() - began)
            ray.get([r.read.remote([ref]) for r in readers])
            totals.append(time.monotonic() - began)
            del ref
            time.sleep(1.0)  # the store drops the last one
        put, total, copy = (statistics.median(x) for x in (puts, totals, copies))
        table.add_row(str(nodes), f"{put:.2f}", f"{total:.2f}", f"{copy:.2f}", f"{total / copy:.1f}")
        ray.shutdown()
        cluster.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
