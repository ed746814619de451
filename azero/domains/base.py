"""What a domain is. Nothing outside azero/domains/ knows more about a domain than this protocol says."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from azero.types import Completion, EvalItem, Problem, Tier, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a proposer's completion amounts to: a problem, or a named reason why not."""

    verdict: Verdict  # VALID, REJECTED, UNPARSEABLE or EXCLUDED
    problem: Problem | None = None  # where VALID
    reason: str = ""  # where not VALID, from the domain's documented list


# Turns one user message into a prompt by the model's own chat template; None stands for the raw protocol.
ChatTemplate = Callable[[str], str]


class Domain(Protocol):
    """A family of problems with exact answers.

    Every method is pure and total: any string gives a result in bounded time and memory.
    """

    name: str

    def seed_problems(self) -> Sequence[Problem]:
        """A few problems of every tier; they fill the buffer at the start of a run."""

    def generate(self, rng: random.Random, tier: Tier) -> Problem:
        """One problem of `tier` from the documented distribution of task.source random and fixed."""

    def proposer_prompt(self, tier: Tier, references: Sequence[str], chat: ChatTemplate | None) -> str:
        """The few-shot prompt that asks for one new problem of `tier`."""

    def parse_proposal(self, completion: str, references: Sequence[str], exclude: bool, version: int) -> Proposal:
        """Validate a proposer's completion. `exclude`: drop problems that `in_evaluation` knows.

        A text of a problem alone gives that problem. azero/problems/exclusion.py leaves out the set that a run loaded.
        """

    def solver_prompt(self, problem: str, chat: ChatTemplate | None) -> str:
        """The prompt that asks for the answer to the problem with this text."""

    def verify(self, completion: str, answer: str, chat: bool) -> Verdict:
        """RIGHT, WRONG or MALFORMED, from the completion alone (never the prompt)."""

    def evaluation_set(self, source: str) -> list[EvalItem]:
        """`source`: test or dev (generated offline from fixed seeds), a file, or a Hugging Face Hub id.

        Raises UserError for a missing file, a wrong format or wrong columns.
        """

    def in_evaluation(self, canonical: str) -> bool:
        """Whether the canonical form belongs to an evaluation problem that is known without loading any."""


def judge(domain: Domain, completion: Completion, answer: str, chat: bool) -> Verdict:
    """`verify` of what a completion says; of one that was cut by its length, of what it surely says.

    That is nothing in the chat protocol, where the answer comes last. In the raw one it is all but the last word: "12"
    may be the beginning of "123".
    """
    text = completion.text
    if completion.finish_reason == "length":
        text = "" if chat else re.sub(r"\S+\Z", "", text)
    return domain.verify(text, answer, chat)
