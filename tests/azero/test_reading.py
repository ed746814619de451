"""How a number is read out of a completion: the table of docs/algorithm.md, and what was cut by its length."""

from __future__ import annotations

import pytest
from helpers import completion, problem
from hypothesis import given
from hypothesis import strategies as st

from azero.domains.arithmetic import Arithmetic
from azero.domains.base import judged
from azero.domains.reading import as_integer, raw_number
from azero.types import Completion, Verdict

DOMAIN = Arithmetic()

# As an answer alone, in both protocols: the integer, "no" where a number is no integer, "" where there is no number.
ALONE = {
    "8": "8", " 8": "8", "8\n": "8", "8.": "8", "8,": "8", "8;": "8", "(8)": "8", "**8**": "8", "$8$": "8", "`8`": "8",
    r"\boxed{8}": "8", "8 apples": "8", "8!": "8", "008": "8", "+8": "8", "+ 8": "8", "= 8": "8", "8 (eight)": "8",
    "-8": "-8", "- 8": "-8", "-  8": "-8", "\u22128": "-8", "\u2212 8": "-8", "$-8$": "-8", r"\boxed{-8}": "-8",
    "= - 8": "-8", "-0": "0", "- 0": "0", "-008": "-8", "(-8)": "-8",
    "8,000": "8000", "1,234": "1234", "1,234,567.": "1234567", "-1,234": "-1234", "- 1,234": "-1234", "12,345": "12345",
    "8.0": "8", "8.00": "8", "-8.0": "-8", "1,234.0": "1234", "8.0.": "8",
    "8,5": "no", "8.5": "no", "3.5": "no", ".5": "no", "-.5": "no", "0,5": "no", "12,34": "no", "1,2345": "no",
    "1234,567": "no", "1,234,56": "no", "0,123": "no", "8,9,10": "no", "1.234": "no", "1,234.5": "no", "1.2.3": "no",
    "8/2": "no", "8/3": "no", "-8/2": "no", "8e3": "no", "8E3": "no", "8e-3": "no", "0x8": "no", "0b11": "no",
    "8%": "no", "8 %": "no", "8^2": "no", "8**2": "no", "8\u00b2": "no", "8\u00bd": "no", "1_000": "no", "1'000": "no",
    "8\u0663": "no",
    "": "", "eight": "", "\uff18": "", "\u0668": "", "\u2078": "", "-": "", ".": "", "None": "", "\0": "",
}  # fmt: skip

# Where it stands in a raw completion: the first number.
RAW = {
    "3 + 5 = 8": "3", "5 - 3 = 2": "5", "8 - 3": "8", "8-3": "8", "8 9": "8", "8, 9": "8", "8 or 9": "8", "x = 8": "8",
    "= 8 (3 + 5)": "8", "is 8": "8", "8 + 1": "8", "--8": "-8", "8\n9": "8", "\n\n 8": "8", "Answer: 8": "8",
    "8..9": "8", "8e": "8", "8th": "8",
}  # fmt: skip

# In a chat completion: what "Answer:" states, or else the last number.
CHAT = {
    "Answer: 3 + 5 = 8": "8",
    "Answer: 3 + 5 = **8**": "8",
    "Answer: 3 - 11 = - 8": "-8",
    "Answer: 3 - 11 = -8": "-8",
    "Answer: 8 = 3 + 5": "8",
    "Answer: 8 (because 3 + 5 = 8)": "8",
    "Answer: 8 (because 3 + 5)": "8",
    "Answer: 3 + 5 equals 8": "8",
    "Answer: (3 + 5) * 2 = 16": "16",
    "Answer: x = 8": "8",
    "Answer: 8 (of 2 numbers)": "8",
    "Answer:\n8": "8",
    "Answer:\n\n3 + 5 = 8\n9": "8",
    "Answer: 8\nCheck: 3 + 5 = 9": "8",
    "Answer: 7\nNo.\nAnswer: 8": "8",
    r"Answer: 3 \times 5 = 15": "15",
    "Answer: 3 + 5": "no",
    "Answer: 8 - 3": "no",
    "Answer: 10-2": "no",
    "Answer: (3 + 5) * 2": "no",
    "Answer: 8 * (-2)": "no",
    r"Answer: 3 \times 5": "no",
    "Answer: 3 + 5 = 8,5": "no",
    "3 + 5 = 8": "8",
    "It is 8": "8",
    "10 - 8": "8",
    "10-8": "8",
    "(10)-8": "8",
    "so 3 - 11 = - 8": "-8",
    "8\nAnswer:": "8",
    "8\nAnswer: eight": "8",
    "5 apples and 3 make 8.": "8",
    "It costs 8,5": "no",
}


def verdicts(text: str, reads: str, chat: bool) -> None:
    """The completion is right for what it reads and for nothing else."""
    for answer in ("8", "-8", "5", "3", "0", "8000", "1234", "1", reads):
        wanted = Verdict.MALFORMED if not reads else Verdict.RIGHT if answer == reads != "no" else Verdict.WRONG
        if answer not in ("", "no"):
            assert DOMAIN.judge(text, problem(answer=answer), chat) is wanted, (text, answer)


def test_the_tables_are_long_enough() -> None:
    assert len(ALONE) >= 80 and len(ALONE) + len(RAW) + len(CHAT) >= 130


@pytest.mark.parametrize("text", ALONE)
def test_a_number_is_read_alike_everywhere(text: str) -> None:
    verdicts(text, ALONE[text], chat=False)
    verdicts(text, ALONE[text], chat=True)
    verdicts(f"Let me think of 77.\nAnswer: {text}", ALONE[text] or "77", chat=True)


@pytest.mark.parametrize("text", RAW)
def test_raw_reads_the_first_number(text: str) -> None:
    verdicts(text, RAW[text], chat=False)


@pytest.mark.parametrize("text", CHAT)
def test_chat_reads_what_is_stated(text: str) -> None:
    verdicts(text, CHAT[text], chat=True)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{}\n", " {}.", "{:,}", "{} is it", "**{:,}**", "{}.0"]))
def test_an_integer_is_read_as_it_was_written(n: int, form: str) -> None:
    for text in (form.format(n), form.format(n).replace("-", "\u2212"), form.format(n).replace("-", "- ")):
        number = raw_number(text)
        assert number is not None and as_integer(number) == str(n)
        assert DOMAIN.judge(f"Answer: {text}", problem(answer=str(n)), chat=True) is Verdict.RIGHT


def cut(text: str) -> Completion:
    made = completion()
    return Completion(
        prompt_ids=made.prompt_ids,
        token_ids=made.token_ids,
        logprobs=made.logprobs,
        text=text,
        version=0,
        finish_reason="length",
    )


@pytest.mark.parametrize(
    ("text", "chat", "verdict"),
    [
        ("12", False, Verdict.MALFORMED),  # perhaps of 123
        (" 8", False, Verdict.MALFORMED),
        ("8.", False, Verdict.MALFORMED),  # perhaps of 8.5
        ("8,", False, Verdict.MALFORMED),
        ("8 ", False, Verdict.RIGHT),
        ("8 apples, bec", False, Verdict.RIGHT),
        ("8\n9", False, Verdict.RIGHT),
        ("9 and 8", False, Verdict.WRONG),
        ("", False, Verdict.MALFORMED),
        ("3 + 5 is 8, so", True, Verdict.MALFORMED),
        ("Answer: 8", True, Verdict.MALFORMED),
        ("I take 8 and", True, Verdict.MALFORMED),
    ],
)
def test_what_was_cut_by_its_length_has_no_answer(text: str, chat: bool, verdict: Verdict) -> None:
    assert judged(DOMAIN, cut(text), problem(answer="8"), chat) is verdict
