"""The domain of docs/your-own-domain.md; what every domain has to keep is in test_domain_contract.py."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azero.domains.sorting import LENGTHS, Rejected, Sorting, make_problem
from azero.models.loading import EMBEDDED, load_tokenizer
from azero.types import TIERS, Tier, Verdict

DOMAIN = Sorting()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown", "answer", "tier", "structure"),
    [
        ("d b a", "d b a", "a b d", Tier.EASY, ">>"),
        (" d,b , a\n", "d b a", "a b d", Tier.EASY, ">>"),
        ("m m f", "m m f", "f m m", Tier.EASY, "=>"),
        ("g a d b", "g a d b", "a b d g", Tier.EASY, "><>"),
        ("y n x e b", "y n x e b", "b e n x y", Tier.MEDIUM, "><>>"),
        ("f e d c b a", "f e d c b a", "a b c d e f", Tier.MEDIUM, ">>>>>"),
        ("n o n a m e s", "n o n a m e s", "a e m n n o s", Tier.HARD, "<>><><"),
        ("h v d y g m a p", "h v d y g m a p", "a d g h m p v y", Tier.HARD, "<><><><"),
    ],
)
def test_problems(text: str, shown: str, answer: str, tier: Tier, structure: str) -> None:
    problem = make_problem(text, 3)
    assert (problem.text, problem.answer, problem.tier) == (shown, answer, tier)
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
    outcome = DOMAIN.parse_proposal(completion, ("k c q",), False, 0)
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
    assert DOMAIN.verify(completion, "a b d", chat) is verdict


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


def test_tiers_grow_with_the_number_of_letters() -> None:
    lengths = [n for tier in TIERS for n in range(LENGTHS[tier][0], LENGTHS[tier][1] + 1)]
    assert lengths == list(range(3, 9))


def test_evaluation_sets_are_frozen() -> None:
    test, dev = DOMAIN.evaluation_set("test"), DOMAIN.evaluation_set("dev")
    assert Counter(item.label for item in test) == {"easy": 40, "medium": 40, "hard": 40}
    assert {item.operation for item in test} == {f"{n} letters" for n in range(3, 9)}
    assert [item.text for item in test[:2] + dev[:2]] == ["x m j v", "v t m", "t x n q", "o z i v"]


def test_the_embedded_tokenizer_gives_every_character_back() -> None:
    tokenizer = load_tokenizer(str(EMBEDDED))
    for tier in TIERS:
        seeds = [p for p in DOMAIN.seed_problems() if p.tier is tier]
        texts = [DOMAIN.proposer_prompt(tier, [p.text for p in seeds], None)]
        texts += [f"{DOMAIN.solver_prompt(p.text, None)}{p.answer}\n" for p in seeds]
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
