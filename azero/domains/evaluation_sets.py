"""Evaluation sets of the arithmetic domain: generated offline, read from a file, or loaded from the Hugging Face Hub.

All have the columns of `morgan/arithmetic_eval`. Hashes of the canonical forms of the published and the generated
problems ship beside this module, so that training can leave them out. To rebuild them from the published file:

    python -m azero.domains.evaluation_sets PUBLISHED_FILE > azero/domains/arithmetic_evaluation_hashes.json
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from azero.domains.base import Rejected
from azero.domains.expression import HARD, Operation, canonical, make_problem, parse, render
from azero.domains.rows import hash_file, hashes_in, read_rows, short_hash
from azero.errors import UserError
from azero.types import EvalItem, Problem

PUBLISHED = "morgan/arithmetic_eval"
SEEDS = {"test": 20_250_503, "dev": 20_250_504}
COLUMNS = ("prompt", "answer", "difficulty", "metadata")
HASH_FILE = Path(__file__).with_name("arithmetic_evaluation_hashes.json")

_DRAWS = 400  # tries to find a row that is new before the next weaker meaning of new is taken
_PROMPT = re.compile(r"\s*Calculate:\s*(.*?)\s*=\s*")
_INTEGER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the rows of one label are drawn: operands uniform in [low, high], operator uniform."""

    rows: int
    low: int
    high: int
    operators: str


RECIPES = {
    "very_easy": Recipe(30, 0, 5, "+"),
    "easy": Recipe(40, 0, 10, "+-*"),
    "medium": Recipe(50, 0, 20, "+-*"),
    "hard": Recipe(40, 10, 50, "+-*"),
    "very_hard": Recipe(40, 20, 100, "+-*/"),
}


def draw(rng: random.Random, label: str) -> Operation:
    """One operation of the label's recipe; before a division a is lowered to a multiple of b, most often to 0."""
    recipe = RECIPES[label]
    operator = rng.choice(recipe.operators)
    a, b = rng.randint(recipe.low, recipe.high), rng.randint(recipe.low, recipe.high)
    return Operation(operator, a - a % b if operator == "/" else a, b)


@cache
def generated(name: str) -> tuple[EvalItem, ...]:
    """The 200 rows of "test" or "dev".

    A row is new up to the order of a sum or product, in `dev` also to `test`. Sums of 0 to 5 are only 21 and have 36
    texts: there test repeats sums but no text, and dev repeats no text of its own but shares its sums with test.
    """
    rng = random.Random(SEEDS[name])
    forms = {_unordered(item.problem.statement) for item in generated("test")} if name == "dev" else set()
    texts: set[str] = set()
    items = []
    for label, recipe in RECIPES.items():
        for _ in range(recipe.rows):
            row = (
                _first(rng, label, lambda new: _unordered(render(new)) not in forms)
                or _first(rng, label, lambda new: render(new) not in texts)
                or draw(rng, label)
            )
            text = render(row)
            forms.add(_unordered(text))
            texts.add(text)
            items.append(EvalItem(problem=make_problem(text, -1), label=label, operation=row.operator))
    return tuple(items)


def _unordered(text: str) -> tuple[str, ...]:
    """Return a form of "a op b" that is equal if a and b may change places.

    The sets are drawn by this and not by `canonical`, so that they stay what they are.
    """
    a, operator, b = text.split()
    return (operator, *(sorted((a, b)) if operator in "+*" else (a, b)))


def _first(rng: random.Random, label: str, accept: Callable[[Operation], bool]) -> Operation | None:
    return next((row for _ in range(_DRAWS) if accept(row := draw(rng, label))), None)


def load(source: str) -> list[EvalItem]:
    """The rows of `source`: test, dev, a file, or a Hub id (split test). Raises UserError."""
    if source in SEEDS:
        return list(generated(source))
    return [_item(where, row) for where, row in read_rows(source, PUBLISHED, COLUMNS)]


def _item(where: str, row: Mapping[str, Any]) -> EvalItem:
    metadata = row["metadata"]
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: metadata is no JSON; give an object with the key operation") from error
    if not isinstance(metadata, Mapping) or not metadata.get("operation"):
        raise UserError(f"{where}: no metadata.operation; metadata is an object, or its JSON, with that key")
    prompt, answer = str(row["prompt"]), str(row["answer"])
    problem = _PROMPT.fullmatch(prompt)
    if not problem:
        raise UserError(f"{where}: prompt {prompt[:60]!r}; it must have the form 'Calculate: a op b = '")
    if not _INTEGER.fullmatch(answer):
        raise UserError(f"{where}: answer {answer[:60]!r}; it must be an integer")
    return EvalItem(
        problem=as_written(problem[1], prompt, answer),
        label=str(row["difficulty"]),
        operation=str(metadata["operation"]),
    )


def as_written(text: str, prompt: str, answer: str) -> Problem:
    """The row's problem with its own text, prompt and answer.

    A text outside the domain's rules has a canonical form that no problem of the domain has.
    """
    try:
        problem = make_problem(text, -1)
    except Rejected:
        form = f"outside: {text}"
        problem = Problem(
            id=short_hash(form),
            cell=HARD,
            statement=text,
            answer=answer,
            canonical=form,
            structure="outside",
            author_version=-1,
        )
    payload = {} if prompt == raw_prompt(text) else {"prompt": prompt}
    return replace(problem, statement=text, answer=answer, payload=payload)


def raw_prompt(text: str) -> str:
    """Return what the published set asks of a problem with this text; it ends in a space."""
    return f"Calculate: {text} = "


def shipped_hashes() -> frozenset[str]:
    """Hashes of the canonical forms of the published, test and dev problems."""
    return hashes_in(HASH_FILE)


def build_hash_file(published: Sequence[str]) -> str:
    """The text of HASH_FILE from files of published problems, together with the generated sets."""
    about = (
        f"every problem in {PUBLISHED} (split test) and in the generated sets test and dev; "
        "made by: python -m azero.domains.evaluation_sets FILE"
    )
    forms = (canonical(parse(i.problem.statement)) for source in [*published, *SEEDS] for i in load(source))
    return hash_file(about, SEEDS, forms)


if __name__ == "__main__":
    try:
        sys.stdout.write(build_hash_file(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
