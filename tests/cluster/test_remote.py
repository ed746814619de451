"""The lists of remote methods: real and simulated processes have them all, and supervisors call no others."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from remote import methods, require_follows

from actors.rollout import RolloutActor
from benchmarks.scale.actor import SimulatedActor
from benchmarks.scale.learner import SimulatedLearner
from cluster.supervise import fleet, learning
from cluster.supervise.remote import RemoteActor, RemoteLearner
from learner.learner import Learner


@pytest.mark.parametrize(
    ("cls", "protocol"),
    [
        (RolloutActor, RemoteActor),
        (SimulatedActor, RemoteActor),
        (Learner, RemoteLearner),
        (SimulatedLearner, RemoteLearner),
    ],
)
def test_each_follows_its_list(cls: Any, protocol: type) -> None:
    require_follows(cls, protocol)


@pytest.mark.parametrize(("module", "protocol"), [(fleet, RemoteActor), (learning, RemoteLearner)])
def test_supervisors_call_what_is_listed(module: Any, protocol: type) -> None:
    called = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr == "remote" and isinstance(node.value, ast.Attribute):
            called.add(node.value.attr)  # handle.method.remote(...)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_call":
            called.add(ast.literal_eval(node.args[0]))  # LearnerHost: of all workers
    assert called == set(methods(protocol))
