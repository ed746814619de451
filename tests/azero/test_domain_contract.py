"""What every domain has to keep, so that nothing else needs to know which one it is. Run it on your own:

AZERO_DOMAIN=my_domain:Sorting python -m pytest tests/azero/test_domain_contract.py

The default formats are part of it: the raw protocol ends a proposal and an answer at a newline; in the chat protocol
they follow "Problem:" and "Answer:". A domain with other ones says in tests/forms.py what they are.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from forms import asked, forms
from hypothesis import given, settings
from hypothesis import strategies as st

from azero.config import Source, TaskConfig
from azero.domains import DOMAINS, get_domain
from azero.domains.base import Domain, judged
from azero.errors import UserError
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Completion, Problem, ProposalRequest, Verdict

NAMES = [own] if (own := os.environ.get("AZERO_DOMAIN")) else sorted(DOMAINS)
# Of dev with test: there are no more sums of 0 to 5, and of 7 and 9 alone only one form. Nothing for any other domain.
SHARED_FORMS = {"arithmetic": 23}
PROPOSALS = {Verdict.VALID, Verdict.REJECTED, Verdict.UNPARSEABLE, Verdict.EXCLUDED}
ANSWERS = {Verdict.RIGHT, Verdict.WRONG, Verdict.MALFORMED}
HOSTILE = (
    *("", "\0", "\n" * 10_000, "9" * 10_000, "9**9**9", "(" * 10_000, "a " * 50_000, "\ud800", "٣"),
    *("Problem:" * 9_000, "Answer:" * 9_000, "__import__('os').abort()"),
)


@pytest.fixture(params=NAMES)
def domain(request: pytest.FixtureRequest) -> Domain:
    return get_domain(request.param)


def chat(message: str) -> str:
    return f"<user>{message}</user>"


def verdict(domain: Domain, text: str, problem: Problem, is_chat: bool) -> Verdict:
    whole = Completion(prompt_ids=(), token_ids=(), logprobs=(), text=text, version=0, finish_reason="stop")
    return judged(domain, whole, problem, is_chat)


def problems(domain: Domain) -> list[Problem]:
    """The seed problems and 90 generated ones, of every cell as many."""
    rng, each = random.Random(0), 90 // len(domain.cells)
    return [*domain.seeds(), *(domain.generate(rng, cell) for cell in domain.cells for _ in range(each))]


def parsed(domain: Domain, text: str, problem: Problem) -> Problem | None:
    """What a text is that was asked for as `problem` is."""
    return domain.read(text, asked(problem), False, -1).problem


def test_seeds_outside_the_evaluation_sets_cover_the_cells(domain: Domain) -> None:
    seeds = domain.seeds()
    assert {p.cell for p in seeds if not domain.is_evaluation(p.canonical)} == set(domain.cells)
    assert len({p.canonical for p in seeds}) == len(seeds)


def test_the_generator_gives_the_cell_that_was_asked_for(domain: Domain) -> None:
    rng = random.Random(1)
    for cell in domain.cells:
        assert {domain.generate(rng, cell).cell for _ in range(240 // len(domain.cells))} == {cell}


def test_a_problem_is_a_function_of_its_text(domain: Domain) -> None:
    for problem in problems(domain):
        assert problem.cell in domain.cells and problem.author_version == -1
        assert problem.canonical and problem.structure and forms(domain).is_whole(problem)
        for spelling in forms(domain).proposals(problem):
            assert parsed(domain, spelling, problem) == problem
        assert domain.read(problem.statement, asked(problem), False, 7).problem.author_version == 7  # type: ignore[union-attr]


def test_a_repeated_reference_is_rejected(domain: Domain) -> None:
    for other, problem in pairwise(problems(domain)):
        outcome = domain.read(problem.statement, asked(problem, other, problem), False, 0)
        assert outcome.verdict is Verdict.REJECTED and outcome.reason and outcome.problem is None


def test_the_right_answer_is_right_and_another_is_not(domain: Domain) -> None:
    everything = problems(domain)
    for problem, other in pairwise(everything):
        raw, in_chat = forms(domain).answers(problem)
        for completion in raw:
            assert verdict(domain, completion, problem, False) is Verdict.RIGHT
        assert verdict(domain, in_chat, problem, True) is Verdict.RIGHT
        if forms(domain).is_wrong(problem, other):
            (raw, *_), in_chat = forms(domain).answers(other)
            assert verdict(domain, raw, problem, False) is verdict(domain, in_chat, problem, True) is Verdict.WRONG
        assert verdict(domain, "", problem, False) is verdict(domain, "", problem, True) is Verdict.MALFORMED


def test_prompts_hold_what_they_are_about(domain: Domain) -> None:
    for cell in domain.cells:
        references = tuple(p for p in domain.seeds() if p.cell == cell)
        wanted = ProposalRequest(cell=cell, references=references)
        for template in (None, chat):
            prompt = domain.ask(wanted, template)
            assert all(r.statement in prompt for r in references)
            assert domain.ask(ProposalRequest(cell=cell, references=()), template)
        # Raw: what the model writes next is the next member of the list.
        assert domain.ask(wanted, None).endswith(forms(domain).last(references[-1]))
        assert prompt.startswith("<user>") and prompt.endswith("</user>"), "chat: one message through the template"
        for problem in references:
            assert all(forms(domain).is_posed(problem, domain, template) for template in (None, chat))


@pytest.mark.parametrize("name", ["test", "dev"])
def test_evaluation_sets(domain: Domain, name: str) -> None:
    items = domain.evaluation(name)
    assert items and len({item.problem.statement for item in items}) == len(items)
    rejected, some = 0, items[:: max(1, len(items) // 150)]
    for item in some:
        assert item.label and item.operation
        assert domain.is_evaluation(item.problem.canonical)
        outcome = domain.read(item.problem.statement, asked(item.problem), True, 0)
        if outcome.verdict is Verdict.REJECTED:
            rejected += 1
        else:
            assert outcome.verdict is Verdict.EXCLUDED
            assert parsed(domain, item.problem.statement, item.problem) == item.problem
    assert rejected <= forms(domain).outside * len(some)


def test_dev_and_test_share_no_problem(domain: Domain) -> None:
    test, dev = ({i.problem.canonical for i in domain.evaluation(s)} for s in ("test", "dev"))
    assert len(test & dev) <= SHARED_FORMS.get(domain.name, 0)


def test_an_unknown_evaluation_set_is_a_users_mistake(domain: Domain) -> None:
    with pytest.raises(UserError, match=r"nothing\.xyz"):
        domain.evaluation("nothing.xyz")


@pytest.mark.parametrize("source", get_args(Source))
def test_every_source_of_problems(domain: Domain, source: Source) -> None:
    buffer = ProblemBuffer(1000, domain.seeds())
    slots = SlotSource(domain, TaskConfig(source=source, fixed_size=48), 12, 2, seed=0).slots(0, buffer)
    if source in ("selfplay", "solver_only"):
        assert all(request.references for slot in slots for request in slot.tries)
    else:
        assert [slot for slot in slots if slot.problem is None or domain.is_evaluation(slot.problem.canonical)] == []


@pytest.mark.parametrize("name", NAMES)
def test_processes_agree(name: str) -> None:
    """Actors and driver each have a domain of their own, with another order of sets and dictionaries of strings."""
    code = (
        "import random; from azero.domains import get_domain; "
        f"d = get_domain({name!r}); r = random.Random(3);"
        "print(d.seeds(), d.evaluation('dev'), [d.generate(r, t) for t in d.cells for _ in range(60 // len(d.cells))])"
    )
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, os.getcwd(), os.environ.get("PYTHONPATH", "")])
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and said[0]


def total(domain: Domain, text: str) -> None:
    for problem in {p.cell.task: p for p in domain.seeds()}.values():
        for exclude in (False, True):
            outcome = domain.read(text, asked(problem), exclude, 0)
            assert outcome.verdict in PROPOSALS
            assert (outcome.problem is not None) == (outcome.verdict is Verdict.VALID) == (not outcome.reason)
            if outcome.problem is not None:
                again = parsed(domain, outcome.problem.statement, outcome.problem)
                assert again is not None and again.canonical == outcome.problem.canonical
        for is_chat in (False, True):
            assert verdict(domain, text, problem, is_chat) in ANSWERS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frame", ["{}", "Problem: {}", "Answer: {}"])
def test_any_text_gets_a_verdict(name: str, frame: str) -> None:
    domain = get_domain(name)
    seeds = [p.statement for p in domain.seeds()]
    near = st.lists(st.sampled_from([*seeds, *"".join(seeds), *" \n\t,.=:*", "Problem:", "Answer:"]), max_size=20)

    @settings(max_examples=150, deadline=1000)
    @given(st.one_of(st.text(max_size=200), near.map("".join)))
    def holds(text: str) -> None:
        total(domain, frame.format(text))

    holds()
    for text in HOSTILE:
        total(domain, frame.format(text))


OWN = """
from azero.types import Cell
class Parent:
    name, cells = "own", (Cell(task="own"),)
    seeds = generate = ask = read = pose = lambda self: ()
    judge = evaluation = is_evaluation = lambda self: ()
class Own(Parent): pass
class NoJudge(Parent): judge = None
class NoCells(Parent): cells = "easy"
class Threads(Parent): judges = "many"
class NoName(Parent): name = 3
class Needs(Parent):
    def __init__(self, more): pass
class Chosen(Parent):
    def __init__(self, length=3): self.length = length
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """An empty working directory that Python does not look in, and a way to put modules there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    def put(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)

    return put


def test_a_domain_of_the_working_directory(elsewhere: Callable[[str, str], None]) -> None:
    elsewhere("own_domain_a", OWN)
    assert get_domain("own_domain_a:Own").name == "own"
    assert get_domain("own_domain_a:Chosen", {"length": 5}).length == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("poetry", ["poetry", "arithmetic, code, sorting", "package.module:name"]),
        ("own_domain_b", ["package.module:name"]),
        (":Own", ["package.module:name"]),
        ("no_such_module:Own", ["no module no_such_module", "PYTHONPATH"]),
        ("own_domain_b.no_such_part:Own", ["no module own_domain_b.no_such_part"]),
        ("own_domain_b:Nothing", ["has no Nothing"]),
        ("own_domain_b:OWN", ["OWN=<own_domain_b.Own", "cannot be called"]),
        ("own_domain_b:NoJudge", ["NoJudge lacks judge", "Domain protocol"]),
        ("own_domain_b:NoCells", ["NoCells lacks cells (a tuple of Cell)"]),
        ("own_domain_b:Threads", ["Threads lacks judges (a number of threads)"]),
        ("own_domain_b:NoName", ["NoName lacks name"]),
        ("own_domain_b:Needs", ["Needs() fails", "more", "no arguments"]),
        ("own_domain_b:Chosen", ["takes no option size", "give length"]),
        ("sorting", ["takes no option size", "give none"]),
        ("own_broken:Own", ["importing own_broken fails", "SyntaxError"]),
        ("own_needs_more:Own", ["importing own_needs_more fails", "no_such_package"]),
    ],
)
def test_mistakes_get_one_line(name: str, says: list[str], elsewhere: Callable[[str, str], None]) -> None:
    elsewhere("own_domain_b", OWN + "OWN = Own()\n")
    elsewhere("own_broken", "class Own(:\n")
    elsewhere("own_needs_more", "import no_such_package\n")
    with pytest.raises(UserError) as error:
        get_domain(name, {"size": 3} if "takes no option size" in says else None)
    assert str(error.value).startswith(f"task.domain={name}: ") and "\n" not in str(error.value)
    for word in says:
        assert word in str(error.value)
