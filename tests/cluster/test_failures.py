"""Errors in a user's code, or in this project's, are told once: what, and in which file and line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from azero.domains import get_domain
from azero.errors import RunFailed, UserError, told
from cluster.cli import main
from cluster.supervise.failures import failure, in_one_line, is_loss

BODY = {  # method -> what is wrong with it, and what is told
    "judge": ("1 / 0", "ZeroDivisionError: division by zero"),
    "pose": ("{}['problem']", "KeyError: 'problem'"),
    "ask": ("[][1]", "IndexError: list index out of range"),
    "read": ("None.group(0)", "AttributeError: 'NoneType' object has no attribute 'group'"),
    "generate": ("assert False", "AssertionError"),
    "seeds": ("int('x')", "ValueError: invalid literal for int() with base 10: 'x'"),
    "evaluation": ("json.loads('[')", "JSONDecodeError: Expecting value: line 1 column 2 (char 1)"),
    "is_evaluation": ("exit(3)", "SystemExit: 3"),
}
WRONG = {  # method -> what it returns, and what is told
    "judge": ("'right'", "judge returns 'right' (str); it must return a Verdict or a Judgement"),
    "pose": ("5", "pose returns 5 (int); it must return a str"),
    "ask": ("None", "ask returns None (NoneType); it must return a str"),
    "read": ("(1, 2)", "read returns (1, 2) (tuple); it must return a Proposal"),
    "generate": ("'1 + 1'", "generate returns '1 + 1' (str); it must return a Problem"),
    "counts": ("{'runs': 'many'}", "counts gives runs='many' (str); each must be a name with a finite number"),
    "seeds": ("[]", "seeds returns [] (list); it must return a list of Problem, with one at least"),
    "evaluation": ("[1]", "evaluation returns a list with 1 (int); each must be a EvalItem"),
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Writes slips.py, whose class Slip is the arithmetic domain with one method replaced; its line of the body."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def domain(method: str, body: str) -> int:
        text = textwrap.dedent(f"""\
            import json
            from azero.domains.arithmetic import Arithmetic
            class Slip(Arithmetic):
                def {method}(self, *arguments):
                    {body}
            """)
        (tmp_path / "slips.py").write_text(text)
        sys.modules.pop("slips", None)
        return 5

    yield domain
    sys.modules.pop("slips", None)


@pytest.mark.parametrize("method", BODY)
def test_an_error_in_a_domain_names_file_line_and_type(method: str, write) -> None:
    body, said = BODY[method]
    line = write(method, body)
    with pytest.raises(RunFailed) as raised:
        getattr(get_domain("slips:Slip"), method)()
    expected = f"task.domain=slips:Slip: Slip.{method} fails with {said} (slips.py:{line} in {method}); repair it"
    assert str(raised.value) == expected


@pytest.mark.parametrize("method", WRONG)
def test_a_result_of_another_type_is_named(method: str, write) -> None:
    body, said = WRONG[method]
    write(method, f"return {body}")
    with pytest.raises(RunFailed) as raised:
        getattr(get_domain("slips:Slip"), method)()
    assert str(raised.value) == f"task.domain=slips:Slip: Slip.{said}"


def test_a_problem_of_no_cell_of_its_domain_is_named(write) -> None:
    write("generate", "from azero.domains.sorting import make_problem; return make_problem('d b a', -1)")
    with pytest.raises(RunFailed) as raised:
        get_domain("slips:Slip").generate()  # type: ignore[attr-defined]
    cells = "arithmetic/easy, arithmetic/medium, arithmetic/hard"
    assert str(raised.value).endswith(f"Slip.generate returns a problem of sorting/easy; its cells are {cells}")


def test_bad_input_that_a_domain_refuses_stays_bad_input(write) -> None:
    write("evaluation", "from azero.errors import UserError; raise UserError('give another file')")
    with pytest.raises(UserError, match=r"^give another file$"):
        get_domain("slips:Slip").evaluation("x")


def test_a_module_that_fails_to_load_names_its_line(write) -> None:
    write("judge", "pass")
    with open("slips.py", "a") as file:
        file.write("1 / 0\n")
    with pytest.raises(
        UserError, match=r"importing slips fails with ZeroDivisionError: .* \(slips\.py:6 in <module>\)"
    ):
        get_domain("slips:Slip")
    write("judge", "return (")
    with pytest.raises(
        UserError, match=r"importing slips fails with SyntaxError: '\(' was never closed \(slips\.py, line 5\)"
    ):
        get_domain("slips:Slip")


def of_a_task(cause: Exception, text: str = "") -> RayTaskError:
    return RayTaskError("play", text or f'File "/a/b.py", line 3, in play\n{cause}', cause)


class EngineDeadError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (ActorDiedError(), True),
        (of_a_task(GetTimeoutError("late")), True),
        (of_a_task(OSError(28, "No space left on device")), True),
        (of_a_task(TimeoutError("RPC call to execute_model timed out.")), True),
        (of_a_task(MemoryError()), True),
        (of_a_task(EngineDeadError("EngineCore encountered an issue")), True),
        (of_a_task(RuntimeError("NCCL error: remote process exited")), True),
        (of_a_task(RuntimeError("CUDA error: an illegal memory access was encountered")), True),
        (of_a_task(RuntimeError("shapes (3,) and (4,) do not match")), False),
        (of_a_task(AssertionError()), False),
        (of_a_task(KeyError("x")), False),
        (of_a_task(UserError("bad")), False),
        (of_a_task(RunFailed("bug")), False),
    ],
    ids=lambda x: str(getattr(x, "cause", x))[:30],
)
def test_only_what_was_lost_is_tried_again(error: RayTaskError, loss: bool) -> None:
    assert is_loss(error) is loss


def test_one_line_of_what_failed_elsewhere() -> None:
    text = '  File "/site/ray/worker.py", line 9, in run\n  File "/home/me/mine.py", line 3, in verify\nKeyError: 1\n'
    said = failure("the learner on its update", of_a_task(KeyError(1), text), "logs/learner.log")
    assert str(said) == "the learner on its update fails with KeyError: 1 (/home/me/mine.py:3 in verify); " \
        "see logs/learner.log"  # fmt: skip
    assert str(failure("x", of_a_task(UserError("bad")), "")) == "bad"


def test_the_users_frame_is_named_and_not_the_librarys() -> None:
    def parse() -> None:
        json.loads("[")

    with pytest.raises(ValueError) as raised:
        parse()
    assert re.search(r"\(.*test_failures\.py:\d+ in parse\)$", told(raised.value))


def test_a_run_tells_a_line_and_its_log_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    with (
        pytest.raises(
            RunFailed, match=rf"internal error: KeyError: 'x' \(.*test_failures.*\); its traceback is in {log}"
        ),
        in_one_line(log),
    ):
        raise KeyError("x")
    assert log.read_text().count("Traceback") == 1
    with pytest.raises(RunFailed, match=r"^known$"), in_one_line(log):
        raise of_a_task(RunFailed("known"))


def test_an_unforeseen_error_of_a_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(paths: object, out: object) -> None:
        raise KeyError("arms")

    monkeypatch.setattr("cluster.report.page.build", broken)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert main(["report", "somewhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("azero: internal error: KeyError: 'arms' (") and said.count("\n") == 1
    file = Path(said.strip().rpartition(" ")[2])
    assert file.parent == tmp_path and "Traceback" in file.read_text()
    monkeypatch.setenv("AZERO_DEBUG", "1")
    assert main(["report", "somewhere"]) == 1 and "Traceback" in capsys.readouterr().err


def azero(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )


SMALL = ["task.domain=slips:Slip", "rollout.engine=hf", "eval.samples=0", "rollout.threads=1", "learner.threads=1"]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_error_in_verify_ends_a_run_at_once_and_its_traceback_is_in_the_log(write, tmp_path: Path) -> None:
    line = write("judge", "1 / 0")
    done = azero(tmp_path, "train", "local", *SMALL, "run.dir=run", "run.eval_every=0", "cluster.progress=plain")
    told = f"Slip.judge fails with ZeroDivisionError: division by zero (slips.py:{line} in judge)"
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(
        f"azero: task.domain=slips:Slip: {told}"
    )
    assert "starting it again" not in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr
    log = (tmp_path / "run" / "logs" / "actor-0.log").read_text()
    assert "1 / 0" in log and "Traceback" in log
    assert "1 / 0" in (tmp_path / "run" / "logs" / "driver.log").read_text() or "slips.py" in log


@pytest.mark.slow
def test_an_error_in_verify_ends_an_evaluation_in_one_line(write, tmp_path: Path) -> None:
    line = write("judge", "1 / 0")
    done = azero(tmp_path, "eval", "embedded", *SMALL)
    assert done.returncode == 1 and f"(slips.py:{line} in judge)" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
