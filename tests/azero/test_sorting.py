"""The domain of docs/your-own-domain.md; what every domain has to keep is in test_domain_contract.py."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from helpers import request
from hypothesis import given
from hypothesis import strategies as st

from azero.domains.sorting import CELLS, EASY, HARD, LENGTHS, MEDIUM, Rejected, Sorting, make_problem
from azero.models.loading import EMBEDDED, load_tokenizer
from azero.types import Cell, ProposalRequest, Verdict

DOMAIN = Sorting()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown", "answer", "cell", "structure"),
    [
        ("d b a", "d b a", "a b d", EASY, ">>"),
        (" d,b , a\n", "d b a", "a b d", EASY, ">>"),
        ("m m f", "m m f", "f m m", EASY, "=>"),
        ("g a d b", "g a d b", "a b d g", EASY, "><>"),
        ("y n x e b", "y n x e b", "b e n x y", MEDIUM, "><>>"),
        ("f e d c b a", "f e d c b a", "a b c d e f", MEDIUM, ">>>>>"),
        ("n o n a m e s", "n o n a m e s", "a e m n n o s", HARD, "<>><><"),
        ("h v d y g m a p", "h v d y g m a p", "a d g h m p v y", HARD, "<><><><"),
    ],
)
def test_problems(text: str, shown: str, answer: str, cell: Cell, structure: str) -> None:
    problem = make_problem(text, 3)
    assert (problem.statement, problem.answer, problem.cell) == (shown, answer, cell)
    assert (problem.canonical, problem.structure, problem.author_version) == (answer, structure, 3)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "unparseable"),
        ("3 + 8", "unparseable"),
        ("D B A", "unparseable"),
        ("dba", "unparseable"),
        ("é b a", "unparseable"),
        ("b a", "length"),
        ("i h g f e d c b a", "length"),
        ("a b d", "already_sorted"),
        ("a a a", "already_sorted"),
        ("k c q", "repeats_reference"),
    ],
)
def test_rejected_proposals(completion: str, reason: str) -> None:
    outcome = DOMAIN.read(completion, request("k c q"), False, 0)
    assert outcome.reason == reason and outcome.problem is None
    assert outcome.verdict is (Verdict.UNPARSEABLE if reason == "unparseable" else Verdict.REJECTED)


@pytest.mark.parametrize(
    ("completion", "chat", "verdict"),
    [
        ("a b d", False, Verdict.RIGHT),
        ("a, b, d", False, Verdict.RIGHT),
        ("\na b d\nd b a", False, Verdict.RIGHT),
        ("a d b", False, Verdict.WRONG),
        ("a b", False, Verdict.WRONG),
        ("a b d d", False, Verdict.WRONG),
        ("abd", False, Verdict.MALFORMED),
        ("a b d is it", False, Verdict.MALFORMED),
        ("I sort them.\n\nAnswer: a b d", True, Verdict.RIGHT),
        ("**Answer:** a, b, d.", True, Verdict.RIGHT),
        ("Answer: d b a\nNo. Answer: a b d\nDone.", True, Verdict.RIGHT),
        ("Answer: d b a", True, Verdict.WRONG),
        ("Answer:", True, Verdict.MALFORMED),
        ("a b d", True, Verdict.MALFORMED),
    ],
)
def test_verify(completion: str, chat: bool, verdict: Verdict) -> None:
    assert DOMAIN.judge(completion, make_problem("d b a", 0), chat) is verdict


@given(st.lists(st.sampled_from("abcdxyz"), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_the_letters_is_a_symmetry(letters: list[str], rng) -> None:  # type: ignore[no-untyped-def]
    forms = set()
    for _ in range(5):
        rng.shuffle(letters)
        try:
            forms.add(make_problem(" ".join(letters), 0).canonical)
        except Rejected:
            continue
    assert len(forms) <= 1


def test_cells_grow_with_the_number_of_letters() -> None:
    lengths = [n for cell in CELLS for n in range(LENGTHS[cell][0], LENGTHS[cell][1] + 1)]
    assert lengths == list(range(3, 9))


def test_evaluation_sets_are_frozen() -> None:
    test, dev = DOMAIN.evaluation("test"), DOMAIN.evaluation("dev")
    assert Counter(item.label for item in test) == {"easy": 40, "medium": 40, "hard": 40}
    assert {item.operation for item in test} == {f"{n} letters" for n in range(3, 9)}
    assert [item.problem.statement for item in test[:2] + dev[:2]] == ["x m j v", "v t m", "t x n q", "o z i v"]


def test_the_embedded_tokenizer_gives_every_character_back() -> None:
    tokenizer = load_tokenizer(str(EMBEDDED))
    for cell in CELLS:
        seeds = tuple(p for p in DOMAIN.seeds() if p.cell == cell)
        texts = [DOMAIN.ask(ProposalRequest(cell=cell, references=seeds), None)]
        texts += [f"{DOMAIN.pose(p, None)}{p.answer}\n" for p in seeds]
        for text in texts:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text and len(ids) == len(text)


def test_the_guide_quotes_the_file() -> None:
    guide = (ROOT / "docs" / "your-own-domain.md").read_text()
    source = (ROOT / "azero" / "domains" / "sorting.py").read_text()
    quotes = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(quotes) >= 5
    for quote in quotes:
        assert quote in source, quote
