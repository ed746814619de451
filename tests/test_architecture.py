"""The rules of the layout, held by the syntax tree: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("azero", "actors", "learner", "cluster")
MAX_LINES, MAX_LINES_OF_TESTS = 350, 450  # a file that fits in a head
MAX_FUNCTION = 60  # lines

# Imports point one way: cluster -> {actors, learner} -> azero. Only actors know vLLM.
FORBIDDEN = {
    "azero": ("ray", "vllm", "actors", "learner", "cluster"),
    "actors": ("learner", "cluster"),
    "learner": ("vllm", "actors", "cluster"),
    "cluster": ("vllm",),
}
# `import azero` offers what is above it too, by name: azero/__init__.py imports nothing of it until it is asked for.
# Inside cluster: cli -> api -> commands -> run -> supervise -> records, and commands -> report -> records.
MAY_IMPORT = {
    "records": {"records"},
    "supervise": {"supervise", "records"},
    "run": {"run", "supervise", "records"},
    "report": {"report", "records"},
    "commands": {"commands", "run", "supervise", "records", "report"},
    "api": {"commands", "records"},
    "cli": {"api", "commands", "report", "supervise"},
}
# Nothing outside azero/domains knows a particular domain, so that a second one needs no change elsewhere.
SHARED_BY_DOMAINS = ("__init__", "base")  # modules of azero/domains that any file may import


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, lazily or not, by statement or by name.

    `from a import b` gives a and a.b, as b may be a module. import_module("a.b") and __import__("a.b") count too.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([base] if base else [])])
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def under(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    relative = path.relative_to(ROOT).with_suffix("")
    is_package = relative.name == "__init__"
    module = ".".join(relative.parent.parts if is_package else relative.parts)
    return imported(path.read_text(encoding="utf-8"), module, is_package)


def test_every_package_has_files() -> None:
    """Otherwise the other tests would pass by looking at nothing."""
    assert [p for p in PACKAGES if len(files(p)) < 2] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(package)
        for line, name in imports_of(path)
        if under(name, *FORBIDDEN[package])
    ]
    assert not wrong, f"{package} may not import {', '.join(FORBIDDEN[package])}:\n" + "\n".join(wrong)


def test_cluster_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("cluster")
        for line, name in imports_of(path)
        if (own := path.relative_to(ROOT / "cluster").parts[0].removesuffix(".py")) != "__init__"
        and (parts := name.split("."))[0] == "cluster"
        and len(parts) > 1
        and parts[1] not in MAY_IMPORT[own]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_domains_know_a_particular_domain() -> None:
    one_domain = [f"azero.domains.{p.stem}" for p in files("azero/domains") if p.stem not in SHARED_BY_DOMAINS]
    assert {"azero.domains.arithmetic", "azero.domains.sorting"} <= set(one_domain)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in PACKAGES
        for path in files(package)
        if (ROOT / "azero" / "domains") not in path.parents
        for line, name in imports_of(path)
        if under(name, *one_domain)
    ]
    assert not wrong, "ask azero.domains.get_domain and use the Domain protocol instead:\n" + "\n".join(wrong)


def test_types_name_no_heavy_module() -> None:
    heavy = ("torch", "transformers", "numpy", "ray", "vllm")
    wrong = [name for _, name in imports_of(ROOT / "azero" / "types.py") if under(name, *heavy)]
    assert not wrong, "light processes import azero/types.py"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("azero", {"torch", "transformers", "ray", "vllm", "numpy", "pydantic", "cluster", "rich"}),
        ("azero.types, azero.config", {"torch", "transformers", "ray", "vllm"}),
        ("cluster.api", {"torch", "transformers", "ray", "vllm"}),
        ("cluster.commands.train", {"torch", "transformers", "vllm"}),  # a driver starts seconds earlier without
    ],
)
def test_what_light_processes_need_loads_nothing_heavy(modules: str, heavy: set[str]) -> None:
    """What they import may not import torch either; a fresh process shows it."""
    code = f"import sys, {modules}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr[-2000:]


# What a model writes is data, and no file that is read is code: see SECURITY.md.
DANGEROUS_CALLS = ("eval", "exec", "compile", "system", "popen")
DANGEROUS_MODULES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
DANGEROUS_ARGUMENTS = {("shell", True), ("trust_remote_code", True), ("weights_only", False), ("allow_pickle", True)}


# The one file that runs programs does so in a sandbox, as a process of its own: see azero/sandbox/cpython.py.
RUNS_PROGRAMS = "azero/sandbox/worker.py"


def dangers(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of every call that could turn data into code. A method such as model.eval() is none."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in DANGEROUS_CALLS:
            yield node.lineno, node.func.id
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in ("os.system", "os.popen", "torch.load"):
            yield node.lineno, ast.unparse(node.func)
        for k in node.keywords:
            if isinstance(k.value, ast.Constant) and (k.arg, k.value.value) in DANGEROUS_ARGUMENTS:
                yield node.lineno, f"{k.arg}={k.value.value}"


def test_nothing_turns_data_into_code() -> None:
    for source in ("eval('1')", "os.system('ls')", "torch.load(f)", "subprocess.run('ls', shell=True)"):
        assert list(dangers(source)), source
    assert not list(dangers("model.eval(); re.compile('a'); subprocess.run(['ls'])"))
    wrong = []
    for package in PACKAGES:
        for path in files(package):
            text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
            if str(name) != RUNS_PROGRAMS:
                wrong += [f"{name}:{line} {what}" for line, what in dangers(text)]
                wrong += [
                    f"{name}:{line} imports it" for line, m in imports_of(path) if under(m, "azero.sandbox.worker")
                ]
            wrong += [f"{name}:{line} imports {m}" for line, m in imports_of(path) if under(m, *DANGEROUS_MODULES)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("path", "name"), [("actors/rollout.py", "RolloutActor"), ("learner/learner.py", "Learner")])
def test_ray_classes_have_the_names_that_process_lists_show(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_files_fit_in_a_head() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in files(folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines()))
        > (MAX_LINES if folder in PACKAGES else MAX_LINES_OF_TESTS)
    ]
    assert not too_long, "split by what a reader would look for"


def test_functions_fit_on_a_screen() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for package in PACKAGES
        for path in files(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION
    ]
    assert not too_long


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import ray.util as u", "azero.a", False, ["ray.util"]),
        ("from azero import types", "actors.a", False, ["azero", "azero.types"]),
        ("def f():\n    from vllm import LLM", "learner.a", False, ["vllm", "vllm.LLM"]),
        ("from . import engines", "actors.rollout", False, ["actors", "actors.engines"]),
        (
            "from .arithmetic import A",
            "azero.domains",
            True,
            ["azero.domains.arithmetic", "azero.domains.arithmetic.A"],
        ),
        ("from ..learner import b", "cluster.sub.a", False, ["cluster.learner", "cluster.learner.b"]),
        ("import importlib\nimportlib.import_module('torch')", "azero.a", False, ["importlib", "torch"]),
    ],
)
def test_the_walk_sees_every_form_of_import(source: str, module: str, is_package: bool, expected: list[str]) -> None:
    assert [name for _, name in imported(source, module, is_package)] == expected


def test_a_longer_name_is_another_module() -> None:
    assert under("ray.util", "ray") and under("ray", "ray") and not under("rayon", "ray")
