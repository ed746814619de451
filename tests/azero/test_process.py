"""What worker processes do with their log and their memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from azero.process import trim_heap


def test_a_log_that_grows_too_long_goes_on_in_a_new_one(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "actor-0.log"
    script = """
import sys
from azero import process
process.MAX_LOG_BYTES = 1000
process.redirect_output(sys.argv[1])
for i in range(100):
    print(f"line {i} " + 20 * "-", flush=True)
    process.keep_log_short(sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", script, log], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    said = log.with_name("actor-0.log.old").read_text() + log.read_text()
    assert said.splitlines()[-1].startswith("line 99 ") and len(said) < 2100


def test_what_hangs_at_a_deadline_shows_its_stacks() -> None:
    script = """
import time
from azero.process import deadline_stacks
def in_time():
    with deadline_stacks(30.0):
        pass
def too_late():
    with deadline_stacks(0.2):
        time.sleep(0.5)
in_time()
too_late()
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stderr.count("Timeout (") == 1 and "in too_late" in done.stderr and "in in_time" not in done.stderr


def test_free_memory_inside_the_heap_goes_back_to_the_system() -> None:
    blocks = [torch.ones(25_000) for _ in range(2000)]  # 100 kB each: too small for pages of their own
    end = torch.ones(25_000)  # what lies behind them keeps them in the heap
    del blocks
    before = psutil.Process().memory_info().rss
    trim_heap()
    assert before - psutil.Process().memory_info().rss > 100e6 and end.sum() == 25_000


def test_a_kept_heap_lets_go_when_it_is_told() -> None:
    script = """
import psutil, torch
from azero.process import keep_heap, trim_heap
keep_heap()
rss = lambda: psutil.Process().memory_info().rss
one = torch.ones(50_000_000)  # 200 MB
held = rss()
del one
kept = rss()
trim_heap()
print(held - kept < 10e6, kept - rss() > 190e6)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("preloaded", [False, True])
def test_threads_are_set_before_torch_is_there(preloaded: bool) -> None:
    script = "from azero.process import use_threads; use_threads(1); import torch; print(torch.get_num_threads())"
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    if preloaded:  # as vLLM leaves it for its processes
        openmp = next(Path(torch.__file__).parents[1].glob("torch*/**/libgomp*.so*"))
        environment["LD_PRELOAD"] = str(openmp)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "1\n"
