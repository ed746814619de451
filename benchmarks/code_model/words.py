"""What the code model's tokenizer takes as one token, besides single characters.

These are the fixed parts of its texts, the numbers of two digits, and the further elements of a list with the comma
before them: what is copied then follows what was copied, with nothing between, which is what attention learns first.
Strings and names stay in characters. A longer word goes before a shorter one, and none holds a newline, which ends an
answer. Texts have two tokens for five characters then, in pre-training as in a run.
"""

from __future__ import annotations

HEADERS = (
    *("# Small", "# Medium", "# Large"),
    *(" functions, each with a value", " functions, each with an input to find"),
    " functions, each with inputs and a description",
)
CODE = (
    *("def f(a): return", "def f(a, b): return", "assert f(", "assert ", ") ==", " == f(", "f("),
    *(" + ", " - ", " * ", " // ", " % ", " > ", " < ", " in ", " if ", " else ", " % 2 == 0", ", "),
    *("max(", "min(", "sum(", "len(", "sorted(", "list(range(", ".count(", ".upper()", ".replace(", "[::-1]", "[:-1]"),
    *("[x + ", "[x * ", "[x", " for x in ", " if x > "),
)
MESSAGES = (
    *("plus", "minus", "times", "over", "modulo", "at least", "at most", "sum", "largest", "smallest", "first", "last"),
    *("item", "count", "length", "size", "above", "below", "even", "has", "reversed", "without first", "without last"),
    *("cut to", "then", "upper", "to", "sorted", "append", "range", "each plus", "each times", "only above", "# "),
)
NUMBERS = (*(f", {number}" for number in reversed(range(100))), *map(str, range(10, 100)))
WORDS = (*HEADERS, *CODE, *MESSAGES, *NUMBERS)
