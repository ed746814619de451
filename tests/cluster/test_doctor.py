import io
import socket
import sys

import pytest
from rich.console import Console

from cluster.commands import doctor
from cluster.commands.doctor import Check, Status, healthy, render
from cluster.records import machine


@pytest.fixture
def versions(monkeypatch):
    """Installed versions by package; a test changes them as it likes."""
    found = {"torch": "2.13.0+cpu", "vllm": "0.32.0", "transformers": "5.19.0", "ray": "2.60.0", "omegaconf": "2.4.0"}
    found |= {name: "1.0" for name in ("datasets", "numpy", "pytest", *machine.BROUGHT_ALONG)}
    monkeypatch.setattr(machine, "version_of", found.get)
    return found


def by_name(checks):
    return {c.name: c for c in checks}


def test_doctor_is_light_and_shows(versions, monkeypatch):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    heavy = {m for m in ("torch", "ray", "vllm") if m in sys.modules}
    checks = doctor.doctor()
    assert heavy == {m for m in ("torch", "ray", "vllm") if m in sys.modules}
    console = Console(file=io.StringIO(), width=200)
    console.print(render(checks))
    assert all(c.name in console.file.getvalue() for c in checks)
    assert all(c.action for c in checks if c.status is not Status.OK)


def test_packages(versions):
    assert {c.status for c in doctor._packages()} == {Status.OK}
    del versions["vllm"], versions["ray"]
    versions["transformers"] = "4.40.0"
    found = by_name(doctor._packages())
    assert found["vllm"].status is Status.WARN and "rollout.engine=hf" in found["vllm"].action
    assert found["ray"].status is Status.MISSING and "pip install ray" in found["ray"].action
    assert found["transformers"].status is Status.WARN and "5.19" in found["transformers"].action


@pytest.mark.parametrize(
    ("torch", "torchvision", "status"),
    [
        ("2.13.0+cpu", None, Status.OK),
        ("2.13.0+cpu", "0.28.0+cpu", Status.OK),
        ("2.13.0+cpu", "0.28.0", Status.MISSING),
        ("2.13.0", "0.28.0", Status.OK),
    ],
)
def test_torchvision_of_another_build(versions, torch, torchvision, status):
    versions["torch"] = torch
    if torchvision:
        versions["torchvision"] = torchvision
    assert doctor._torchvision().status is status


def test_ray_address():
    assert doctor._ray("").status is Status.OK
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.listen()
        assert doctor._ray(f"127.0.0.1:{port}").status is Status.OK
        assert doctor._ray(f"ray://127.0.0.1:{port}").status is Status.OK
    closed = doctor._ray(f"127.0.0.1:{port}")
    assert closed.status is Status.MISSING and f"127.0.0.1:{port}" in closed.detail
    assert doctor._ray("127.0.0.1:notaport").status is Status.MISSING


def test_hub_is_not_tried_unless_asked(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *a, **k: pytest.fail("tried"))
    assert doctor._hub(network=False).detail.startswith("not tried")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in doctor._hub(network=True).detail


def test_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [{"name": "A100", "memory": "80 GiB", "driver": "1"}] * 64)
    *_, seen = doctor._gpus()
    assert seen.status is Status.WARN and "of 64 GPUs" in seen.detail


def test_healthy_means_nothing_is_missing():
    warn = Check("a", "", action="look at it")
    assert healthy([warn])
    assert not healthy([warn, Check("b", "", action="install it", blocks=True)])
