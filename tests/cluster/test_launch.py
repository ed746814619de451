"""The launch files, each checked by what will read it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.records import machine
from cluster.records.rundir import read_jsonl
from cluster.run.sinks import prometheus_name

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "cluster" / "launch"
SCHEMAS = ROOT / "tests" / "data"  # of KubeRay 1.7.0's custom resources (Apache-2.0), without their descriptions


def strict(schema: Any) -> Any:
    """A Kubernetes structural schema that also refuses unknown fields, and knows its two kinds of numbers."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kubernetes_manifests_fit_kuberays_schema(name: str) -> None:
    manifest = yaml.safe_load((LAUNCH / "kubernetes" / f"{name}.yaml").read_text())
    schema = strict(json.loads(gzip.decompress((SCHEMAS / f"kuberay-1.7.0-{name}s.json.gz").read_bytes())))
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    validator(schema).validate(manifest)
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert spec["rayVersion"] == locked("ray")
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "a slip"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        validator(schema).validate(manifest)


def test_every_pod_has_the_disk_that_storage_claims() -> None:
    claim = yaml.safe_load((LAUNCH / "kubernetes" / "storage.yaml").read_text())
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert set(claim["spec"]) == {"accessModes", "storageClassName", "resources"}
    for name in ("raycluster", "rayjob"):
        text = (LAUNCH / "kubernetes" / f"{name}.yaml").read_text()
        mounted = re.findall(r"persistentVolumeClaim: \{claimName: ([\w-]+)\}", text)
        assert mounted == [claim["metadata"]["name"]] * 2, name  # head and workers


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_ray_up_accepts_the_cluster_yaml(provider: str) -> None:
    """What `ray up` does to a file before it talks to a cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((LAUNCH / f"{provider}.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] in types and types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["max_workers"] > types["gpu"]["min_workers"]  # which is what scaling by itself means
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepared | {"max_workerss": 1})


def test_the_image_has_what_the_project_needs() -> None:
    text = (LAUNCH / "Dockerfile").read_text()
    sources = [part for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for part in line.split()]
    assert all((ROOT / source).exists() for source in sources)
    packages = {"azero", "actors", "learner", "cluster", "configs", "requirements", "Makefile", "pyproject.toml"}
    assert packages <= set(sources)
    for target in re.findall(r"make (\w+)", re.sub(r"^#.*$", "", text, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) or target == "openssh"


def test_grafana_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((LAUNCH / "grafana.json").read_text())
    documented = re.findall(r"`([a-z_]+(?:/[a-z_{},<>]+)*)`", (ROOT / "docs" / "metrics.md").read_text())
    known = {"ray_" + prometheus_name(name) for entry in documented for name in expanded(entry)}
    targets = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    shown = {re.search(r"ray_\w+", expr)[0] for expr in targets}  # type: ignore[index]
    families = {name for name in shown if any(k.startswith(name) for k in known) and name.endswith("_")}
    assert families == {"ray_azero_problems_share_"}  # a metric a cell, by a pattern
    assert len(shown) > 30 and shown - families <= known, shown - families - known


def expanded(entry: str) -> list[str]:
    """`a/{b,c}` -> a/b, a/c."""
    found = re.search(r"\{([^}]*)\}", entry)
    if not found:
        return [entry]
    return [name for part in found[1].split(",") for name in expanded(entry.replace(found[0], part, 1))]


def locked(package: str) -> str:
    return re.search(rf"^{package}==(\S+)", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def test_shellcheck() -> None:
    assert shutil.which("shellcheck") or not os.environ.get("CI"), "shellcheck is missing"
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed; .ci/run installs it")
    scripts = [str(LAUNCH / "slurm.sh"), str(ROOT / ".ci" / "run")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


SHIMS = {
    "scontrol": 'if [ "$1" = show ]; then printf "nodea\\nnodeb\\n"; else echo "$@" >>"$SHIM_LOG"; fi',
    "srun": 'while [[ "$1" == -* ]]; do case "$1" in -w) shift 2 ;; *) shift ;; esac; done; exec "$@"',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which SLURM's commands run what they are given on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in {**SHIMS, "hostname": "echo 127.0.0.1"}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return environment | {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "AZERO_VENV": str(Path(sys.executable).parents[1]),
        "AZERO_RAY_PORT": "46379",
        "SLURM_JOB_NODELIST": "node[a-b]",
        "SLURM_JOB_ID": "7",
        "SHIM_LOG": str(tmp_path / "scontrol.log"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    }


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slurm_runs_on_its_nodes_and_goes_on_when_its_time_was_up(slurm: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ["rollout.engine=hf", "rollout.problems_per_step=6", "rollout.solutions_per_problem=4", "eval.samples=0"]
    small += ["cluster.progress=plain", "run.eval_every=0", "rollout.threads=1", "learner.threads=1"]
    command = ["bash", str(LAUNCH / "slurm.sh"), "local", f"run.dir={folder}", *small]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "run.steps=1000"], env=slurm, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while len(read_jsonl(folder / "metrics.jsonl")) < 4:
                assert process.poll() is None, (tmp_path / "log").read_text()
            process.send_signal(signal.SIGUSR1)  # as SLURM does to the batch shell
            assert process.wait(120) == 130, (tmp_path / "log").read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "requeue 7" in (tmp_path / "scontrol.log").read_text()
    done = len(read_jsonl(folder / "metrics.jsonl")) - 1
    with open(tmp_path / "log", "a") as log:
        end = [*command, f"run.steps={done + 2}"]
        again = subprocess.run(end, env=slurm, stdout=log, stderr=log, timeout=200, check=False)
    assert again.returncode == 0, (tmp_path / "log").read_text()
    assert [r["step"] for r in read_jsonl(folder / "metrics.jsonl")] == list(range(done + 3))
    assert machine.output_of("sh", "-c", f"ls {slurm['HOME']}/.azero-ray-token.* 2>/dev/null") is None


@pytest.mark.parametrize(("given", "said"), [([], "usage: sbatch"), (["local"], "give run.dir=DIR")])
def test_slurm_says_what_it_needs(given: list[str], said: str) -> None:
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sh"), *given], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr
