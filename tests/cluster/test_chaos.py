"""The long suite of `make chaos`: what test_faults.py does once, many times over, with the figures printed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from chaos import Victim, check_whole, timeless
from ray.cluster_utils import Cluster

from actors.rollout import TRIM_EVERY_S
from cluster.records.rundir import read_jsonl
from learner.checkpoint import Checkpoint

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(7200)]
HF = ["rollout.engine=hf", "rollout.threads=1", "learner.threads=1", "cluster.progress=plain"]
TWO = ["rollout.actors=2", "rollout.cpus_per_actor=0.5"]


def final_accuracy(folder: Path) -> float:
    return float(read_jsonl(folder / "evals.jsonl")[-1]["accuracy"])


def test_twenty_kills_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local config as it ships, on three Ray nodes, each with room for the learner or an actor."""
    arm = ["rollout.actors=2", "cluster.progress=plain", "run.checkpoint_every=20", "rollout.timeout_s=120"]
    arm += ["run.eval_every=0", "rollout.threads=1", "learner.threads=1", "run.steps=120"]  # the last kills take 40
    undisturbed = []
    for seed in range(3):
        victim = Victim.start(tmp_path / f"whole-{seed}", [*arm, f"run.seed={seed}", "rollout.cpus_per_actor=0.5"])
        assert victim.finish(1800) == 0, victim.said()
        undisturbed.append(final_accuracy(victim.folder))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    rng = random.Random(0)
    kinds = ["actor"] * 9 + ["learner"] * 6 + ["node"] * 5
    rng.shuffle(kinds)
    node_s = []
    victim = Victim.start(tmp_path / "killed", arm, root=os.getpid())
    try:
        for kind, moment in zip(kinds, sorted(rng.sample(range(2, 78), 20)), strict=True):
            victim.wait_for_step(moment, 900)
            time.sleep(rng.uniform(0, 3))  # also into starts, evaluations and what is made again
            if kind != "node":
                victim.kill_one(rng, kind)
                continue
            victim.wait_until(victim.is_well, "the return of all that was lost before", 300)
            began, lost = time.monotonic(), victim.losses()
            cluster.remove_node(nodes.pop(rng.randrange(3)), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))
            victim.wait_until(
                lambda n=lost: victim.losses() > n and victim.is_well(), "the return of who was there", 300
            )
            node_s.append(time.monotonic() - began)
        assert victim.finish(1800) == 0, victim.said()
    finally:
        cluster.shutdown()
    check_whole(victim.folder, 120, 32)
    for who, seconds in (
        ("rollout actor", victim.recoveries("serves again")),
        ("learner", victim.recoveries("the learner goes on")),
        ("node", node_s),
    ):
        print(f"{who}: back {len(seconds)} times, median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f}")
    mean, last = statistics.mean(undisturbed), final_accuracy(victim.folder)
    print(f"accuracy {last:.3f} after 20 kills, undisturbed {mean:.3f} {undisturbed}")
    assert last >= mean - 0.03
    assert "Traceback" not in victim.said()


def test_the_driver_is_killed_at_ten_moments_and_nothing_shows(tmp_path: Path) -> None:
    overrides = [*HF, "rollout.max_staleness=0", "rollout.problems_per_step=6", "rollout.solutions_per_problem=4"]
    overrides += ["run.steps=60", "run.eval_every=10", "run.checkpoint_every=3", "eval.samples=0"]
    whole = Victim.start(tmp_path / "whole", overrides)
    assert whole.finish() == 0, whole.said()
    rng = random.Random(0)
    victim = Victim.start(tmp_path / "killed", overrides)
    for i in range(10):
        victim.wait_for_step(victim.step + 1, 120)
        time.sleep(rng.uniform(0, 1))
        assert victim.process.poll() is None, "it ended before it was killed ten times"
        if i % 2:
            victim.kill_all()  # as when its machine dies
        else:
            victim.process.kill()
            victim.process.wait()
        victim = Victim.start(tmp_path / "killed", overrides, resume=True)
    assert victim.finish() == 0, victim.said()
    check_whole(tmp_path / "killed", 60, 6)
    runs = [[timeless(m) for m in read_jsonl(tmp_path / d / "metrics.jsonl")] for d in ("whole", "killed")]
    assert runs[0] == runs[1]
    evals = [read_jsonl(tmp_path / d / "evals.jsonl") for d in ("whole", "killed")]
    assert evals[0] == evals[1]


def fill(file: Path, leave: int = 0) -> None:
    """Take all of the file's disk but so many bytes."""
    pieces = max(0, shutil.disk_usage(file.parent).free - leave) // 4096
    try:
        with open(file, "ab", buffering=0) as out:
            for _ in range(pieces if leave else 2**20):
                out.write(b"0" * 4096)
    except OSError as e:
        assert e.errno == errno.ENOSPC


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    """The run directory lies on a small file system of its own. First records fit there and a checkpoint does not,
    which so breaks off while it is written; then nothing fits; then there is room again.
    """
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        overrides = [*HF, "run.steps=60", "run.checkpoint_every=4", "run.eval_every=0"]
        victim = Victim.start(small / "run", overrides, log=tmp_path / "log")
        filler, checkpoints = small / "filler", small / "run" / "checkpoints"
        victim.wait_until((checkpoints / "latest").exists, "a checkpoint")
        fill(filler, leave=5 * 2**20)  # a checkpoint takes 10
        victim.wait_to_say("no checkpoint (", 120)
        assert "wait in memory" not in victim.said() and not list(checkpoints.glob(".step_*.tmp"))
        assert Checkpoint(checkpoints / (checkpoints / "latest").read_text()).damage() == ""
        fill(filler)
        victim.wait_to_say("lines wait in memory", 120)
        full_at = victim.step
        assert Checkpoint(checkpoints / (checkpoints / "latest").read_text()).damage() == ""
        filler.unlink()
        victim.wait_for_step(full_at + 8, 120)
        assert victim.finish() == 0, victim.said()
        check_whole(small / "run", 60, 32)
        assert (small / "run" / "checkpoints" / "latest").read_text() == "step_000060"
    finally:
        subprocess.run(["umount", "-l", small], check=False)


def object_store(raylet: int) -> str:
    """The raylet's descriptor of the memory file that all objects lie in, whose blocks are the pages that were used."""
    folder = f"/proc/{raylet}/fd"
    found = [f"{folder}/{fd}" for fd in os.listdir(folder) if "plasma" in os.readlink(f"{folder}/{fd}")]
    assert len(found) == 1, [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return found[0]


def test_memory_and_descriptors_are_flat_over_a_thousand_steps(tmp_path: Path) -> None:
    """The local config, with a buffer that is full when the first look is taken: a larger one fills for all of the run.

    Memory is each process's own (its PSS without what it shares), the least of a little over a minute, once in which an
    actor gives back what it does not need; the object store's is apart.
    """
    overrides = ["cluster.progress=plain", "run.steps=1000", "run.eval_every=0", "task.buffer_size=1000"]
    victim = Victim.start(tmp_path / "run", overrides)
    usage: dict[str, list[tuple[float, int]]] = {}
    steps = 100, 350, 600, 820
    for step in steps:
        victim.wait_for_step(step, 7200)
        processes = {"driver": psutil.Process(victim.process.pid)}
        processes |= {"actor": victim.actors()[0], "learner": victim.learners()[0]}
        processes |= {name: next(victim._named(f"/{name} ")) for name in ("raylet", "gcs_server")}
        store = object_store(processes["raylet"].pid)
        seen: dict[str, list[tuple[float, int]]] = {name: [] for name in [*processes, "object store"]}
        until = time.monotonic() + TRIM_EVERY_S + 10
        while time.monotonic() < until:
            for name, p in processes.items():
                seen[name].append((p.memory_full_info().uss / 2**20, p.num_fds()))
            seen["object store"].append((os.stat(store).st_blocks * 512 / 2**20, 0))
            time.sleep(0.5)
        for name, looks in seen.items():
            usage.setdefault(name, []).append((min(m for m, _ in looks), max(f for _, f in looks)))
    assert victim.finish(600) == 0, victim.said()
    for name, looks in usage.items():
        memory, descriptors = ([f"{look[i]:.0f}" for look in looks] for i in (0, 1))
        print(f"{name}: {', '.join(memory)} MiB from steps {steps} on; descriptors {', '.join(descriptors)}")
    for name, looks in usage.items():
        (before, fds_before), (after, fds_after) = looks[0], looks[-1]
        assert before > 1 and after - before < 0.05 * before and fds_after <= 1.05 * fds_before + 1, name


def test_every_hang_ends_within_its_deadline(tmp_path: Path) -> None:
    """SIGSTOP of the learner, of a sole actor, and of one of two."""
    for name, actors, kind in (("learner", [], "learner"), ("sole", [], "actor"), ("one", TWO, "actor")):
        overrides = [*HF, *actors, "run.steps=16", "rollout.timeout_s=10", "learner.timeout_s=10", "run.eval_every=0"]
        victim = Victim.start(tmp_path / name, overrides)
        victim.wait_for_step(4)
        found = victim.learners() if kind == "learner" else victim.actors()
        os.kill(found[0].pid, signal.SIGSTOP)
        began = time.monotonic()
        victim.wait_to_say("the driver waited", 20)
        print(f"{name}: named after {time.monotonic() - began:.1f} s")
        assert victim.finish(300) == 0, victim.said()
        check_whole(victim.folder, 16, 32)
