"""What the embedded code model is trained on: slips that mislead in a known way, and the domain's own forms."""

from __future__ import annotations

import random

import pytest

from azero.domains.code.evaluation import generated
from azero.domains.code.grammar import Program, draw_program
from azero.domains.code.operations import OPERATIONS, Applied, Constant, Expression, Kind, Parameter, parameters
from benchmarks.code_model.corpus import CAREFUL, Author, Corpus, Crowd
from benchmarks.code_model.slips import SLIPS, slips

A, B = Parameter(0, Kind.INT), Parameter(1, Kind.INT)
WORDS, NUMBERS = Parameter(0, Kind.STR), Parameter(0, Kind.LIST)


def apply(name: str, *slots: Expression) -> Applied:
    return Applied(OPERATIONS[name], slots)


def program(expression: Expression) -> Program:
    return Program(expression, tuple(parameters(expression).values()))


@pytest.mark.parametrize(
    ("expression", "text", "arguments", "careless"),
    [
        (apply("add", A, B), "a + b", (7, 18), 15),  # no carry
        (apply("subtract", A, Constant(9)), "abs(a - 9)", (4,), 5),
        (apply("divide", A, Constant(2)), "(a + 1) // 2", (5,), 3),
        (apply("max", A, Constant(4)), "min(a, 4)", (9,), 4),
        (apply("drop_list", NUMBERS, Constant(1)), "a", ([4, 5],), [4, 5]),
        (apply("take_str", WORDS, Constant(2)), "a[:3]", ("abcd",), "abc"),
        (apply("sort", NUMBERS), "sorted(a)[::-1]", ([2, 3, 1],), [3, 2, 1]),
        (apply("only_above", NUMBERS, Constant(3)), "[x for x in a if x > 2]", ([3, 2, 5],), [3, 5]),
        (apply("replace", WORDS, Constant("a"), Constant("b")), "a.replace('a', 'b', 1)", ("aca",), "bca"),
        (apply("multiply", apply("add", A, Constant(2)), Constant(3)), "a + 2 * 3", (1,), 7),  # no parentheses
        (apply("sum", NUMBERS), "sum(a[:-1])", ([1, 2, 4],), 3),
        (apply("if_int", A, apply("above", A, B), B), "b if a > b else a", (3, 9), 3),
    ],
)
def test_the_likeliest_slip(expression, text, arguments, careless) -> None:
    _, slipped = next(slips(program(expression)))
    assert slipped.text.partition("return ")[2] == text
    assert slipped(arguments) == careless


def test_every_construct_has_a_slip_and_likely_ones_come_first() -> None:
    assert set(SLIPS) == set(OPERATIONS)
    rng = random.Random(0)
    for _ in range(200):
        likely = [is_likely for is_likely, _ in slips(draw_program(rng, 3))]
        assert likely == sorted(likely, reverse=True) and likely


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(item.problem for item in generated("dev"))


def test_documents_have_the_forms_of_the_raw_protocol(corpus: Corpus) -> None:
    rng = random.Random(0)
    ends = {"deduction": " ==", "abduction": " == f(", "induction": ": return"}
    for _ in range(20):
        for task, end in ends.items():
            document = corpus.solved(rng, task, Crowd(0.5, 0.5))
            assert len(document) == (2 if task == "induction" else 12)
            for prompt, completion in zip(document[::2], document[1::2]):
                assert prompt.endswith(end) and prompt.count("\n") == (
                    3 if task == "induction" else prompt == document[0]
                )
                assert completion.endswith(")\n" if task == "abduction" else "\n") and completion.count("\n") == 1
        header, listed = corpus.listed(rng)
        assert header.startswith("# ") and listed.endswith("\n\n") and len(header + listed) <= 512


@pytest.mark.parametrize("task", ["deduction", "abduction"])
def test_nobody_slips_where_nobody_is_careless(corpus: Corpus, task: str) -> None:
    rng = random.Random(1)
    for _ in range(50):
        names: dict[str, object] = {}
        exec("".join(corpus.solved(rng, task, CAREFUL)), names)  # this project's own text: true assertions


def test_an_author_is_careless_in_all_answers_or_in_none(corpus: Corpus) -> None:
    """What most people get wrong is in 65 of 100 documents, and where one answer slips the others do."""
    rng, crowd = random.Random(2), Crowd(likely=0.65, unlikely=0.25)
    authors = [crowd.author(rng) for _ in range(2000)]
    assert {*authors} == {Author(False, False), Author(True, False), Author(True, True)}
    assert sum(a.likely for a in authors) / 2000 == pytest.approx(0.65, abs=0.04)
    assert sum(a.unlikely for a in authors) / 2000 == pytest.approx(0.25, abs=0.04)
    wrong = [wrong_answers(corpus.solved(rng, "deduction", crowd)) for _ in range(60)]
    assert sum(n == 0 for n in wrong) > 15 and sum(n >= 3 for n in wrong) > sum(n == 1 for n in wrong)


def wrong_answers(document: tuple[str, ...]) -> int:
    """Of a document of deduction, by Python."""
    names: dict[str, object] = {}
    program, _, first = document[0].partition("\n")
    exec(program, names)  # this project's own text
    prompts = [first, *document[2::2]]
    return sum(not eval(p.removeprefix("assert ") + a, names) for p, a in zip(prompts, document[1::2]))


def test_nothing_that_is_held_out_is_in_a_document() -> None:
    drawn = [Corpus(()).solved(random.Random(seed), "deduction", Crowd(0.5, 0.5)) for seed in range(20)]
    strict = Corpus(())
    strict.held_out = {document[0] for document in drawn}
    again = [strict.solved(random.Random(seed), "deduction", Crowd(0.5, 0.5)) for seed in range(20)]
    assert strict.held_out.isdisjoint(document[0] for document in again)
