"""Every command that a page shows is run, or says why not, and then names only what exists.

A block of shell (```sh or ```bash) is run as it stands, in a folder that looks like the checkout and holds one small
run in `runs/local`: the one that docs/python.md makes. A comment above a block says why it is not run:
`<!-- not run here: REASON -->`. Its targets of make, its files and its config keys are looked up all the same.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKER = re.compile(r"<!-- not run here: (\S.*?) -->")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(azero|make|python|pip|ray|apt-get|sbatch|kubectl|pytest) ")
SHELL = {"|", "&", ">", "<", ";", "&&"}
LIMIT_S = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    page: str
    line: int
    text: str
    reason: str  # why it is not run; empty where it is

    @property
    def is_azero(self) -> bool:
        """Whether it is nothing but commands of azero, of which some may fail."""
        return all(
            words[0] == "azero" and not SHELL & set(words) and ("||" not in words or words[-2:] == ["||", "true"])
            for words in self.commands
        )

    @property
    def commands(self) -> list[list[str]]:
        """Its lines as words, continued lines joined, without what begins a variable or a comment."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [[w.removeprefix(".venv/bin/") for w in line] for line in words if line]


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] not in ("sh", "bash"):
                continue
            above = text[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
            marker = MARKER.fullmatch(above.strip())
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page=page.name, line=line, text=match[2], reason=marker[1] if marker else ""))
    return found


BLOCKS = blocks()


def place(block: Block) -> str:
    return f"{block.page}:{block.line}"


def test_shell_stands_in_blocks_that_say_so() -> None:
    """Not in indented text, nor in a block without a language, where nobody would look for it."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            assert match[1], f"{page.name}: a block without a language:\n{match[2]}"
        for line in FENCE.sub("", text).splitlines():
            assert not re.match(rf"    {COMMAND.pattern}", line), f"{page.name}: {line}"


@pytest.mark.parametrize("block", BLOCKS, ids=place)
def test_what_a_block_names_exists(block: Block) -> None:
    for words in block.commands:
        words = [w for w in words if not re.match(r"[A-Z_]+=", w)]
        if words and words[0] == "make":
            targets = [w for w in words[1:] if re.fullmatch(r"[a-z-]+", w)]
            done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{place(block)}: make {' '.join(targets)}: {done.stderr}"
        if words and words[0] == "azero":
            require_azero(block, words[1:])
        for word in words:
            if re.fullmatch(r"(benchmarks|cluster|configs|tests|requirements|azero)/[\w/.-]+\.\w+", word):
                assert (ROOT / word).exists(), f"{place(block)}: {word}"


def require_azero(block: Block, words: list[str]) -> None:
    """The command, its options and its config keys exist."""
    import typer.main

    from azero.config import Config
    from azero.config.overrides import known_keys
    from cluster.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if words[0].startswith("-"):
        return
    assert words[0] in commands, f"{place(block)}: azero {words[0]}"
    options = {o for p in commands[words[0]].params for o in p.opts} | {"--help"}
    for word in words[1:]:
        if word in ("|", "&", ">"):
            return
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"{place(block)}: azero {words[0]} {word}"
        elif (key := re.match(r"([a-z_]+\.[a-z_]+)=", word)) and words[0] != "scale":
            assert key[1] in known_keys(Config), f"{place(block)}: {word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    folder: Path
    page: str  # what the Python page printed


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A folder with the checkout's files, by links, and in runs/local the run of the Python page."""
    folder = tmp_path_factory.mktemp("docs")
    for name in (
        "azero",
        "actors",
        "learner",
        "cluster",
        "benchmarks",
        "configs",
        "tests",
        "Makefile",
        "pyproject.toml",
    ):
        (folder / name).symlink_to(ROOT / name)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    (folder / "page.py").write_text("\n".join(blocks))
    with chdir(folder), redirect_stdout(StringIO()) as said:
        runpy.run_path("page.py")
    (folder / "runs" / "small").rename(folder / "runs" / "local")
    return Checkout(folder=folder, page=said.getvalue())


def shell(script: str, folder: Path) -> str:
    """What the script printed. Fails where one of its commands does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120"}
    env.pop("CI", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        text=True,
        timeout=LIMIT_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_python_page_runs(checkout: Checkout) -> None:
    assert "\ndone runs/small 2\n" in checkout.page and " of 200, 95 % interval (" in checkout.page
    assert re.search(r"^0 +NaN +NaN\n1 +[01]\.\d+ ", checkout.page, re.MULTILINE)
    assert "\nrun.stepz: unknown key in the command line; did you mean run.steps" in checkout.page


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.reason], ids=place)
def test_a_block_runs_as_it_stands(block: Block, checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process where it is azero's commands alone: a process for each would load the same libraries again."""
    if not block.is_azero:
        shell(block.text, checkout.folder)
        return
    from cluster.cli import main

    monkeypatch.chdir(checkout.folder)
    monkeypatch.delenv("CI", raising=False)
    for words in block.commands:
        may_fail = words[-1] == "true"
        assert main(words[1:-2] if may_fail else words[1:]) == 0 or may_fail, f"{place(block)}: {words}"
