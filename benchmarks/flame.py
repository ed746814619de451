"""Where a run's processor time goes, as flame graphs: `python benchmarks/flame.py OUT_DIR [CONFIG] [key=value ...]`.

Runs `azero train` for a while and has py-spy look at driver, learner and first rollout actor, each by itself, once the
first steps are done. OUT_DIR gets driver.svg, learner.svg and actor.svg; a box is as wide as the share of the process's
busy time that was spent in it. py-spy needs the right to look at other processes (root, or CAP_SYS_PTRACE).
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cluster.records.rundir import read_jsonl

PY_SPY = str(Path(sys.executable).with_name("py-spy"))
WARM_UP = 3  # steps
PROCESSES = {"learner": "ray::Learner", "actor": "ray::RolloutActor"}


def processes(root: int) -> dict[str, int]:
    """Process ids by name."""
    found = {"driver": root}
    for child in psutil.Process(root).children(recursive=True):
        for name, title in PROCESSES.items():
            if title in " ".join(child.cmdline()):
                found[name] = child.pid
    return found


def flame(run: subprocess.Popen[bytes], out: Path, seconds: int) -> None:
    for name, pid in processes(run.pid).items():
        command = [PY_SPY, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "50", "--nonblocking"]
        picture = out / f"{name}.svg"
        subprocess.run([*command, "--output", str(picture)], check=True, stdout=subprocess.DEVNULL)
        drawn = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", picture.read_text())  # what --nonblocking misread
        picture.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{name}", drawn))
        print(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("config", nargs="?", default="local")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seconds", type=int, default=20, help="of each process")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        told = [given.config, *given.overrides, f"run.dir={folder}/run"]
        with open(given.out / "run.log", "wb") as log:
            run = subprocess.Popen([sys.executable, "-m", "cluster.cli", "train", *told], stdout=log, stderr=log)
        try:
            while run.poll() is None and len(read_jsonl(Path(folder) / "run" / "metrics.jsonl")) <= WARM_UP:
                time.sleep(0.5)
            if run.poll() is not None:
                sys.exit(f"the run ended before step {WARM_UP}; see {given.out / 'run.log'}")
            flame(run, given.out, given.seconds)
        finally:
            run.send_signal(signal.SIGINT)
            run.wait()


if __name__ == "__main__":
    main()
