"""Accuracy by two readings of an answer, of files of `azero eval --json`, each against the first with McNemar's test.

    python benchmarks/readings.py BEFORE.json AFTER.json ...

The arithmetic domain reads a number whole: 0.155 is no answer to 0 / 78. In the other the first integer counts, 0.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from azero.evaluation.solver import mcnemar


def right(file: str) -> dict[str, list[bool]]:
    problems = json.loads(Path(file).read_text())["problems"]
    found = [re.search(r"-?[0-9]+", p["completion"]) for p in problems]
    return {
        "whole number": [p["correct"] for p in problems],
        "first integer": [bool(m) and m[0] == p["answer"] for m, p in zip(found, problems, strict=True)],
    }


def main() -> None:
    before = right(sys.argv[1])
    for file in sys.argv[1:]:
        for reading, after in right(file).items():
            p = mcnemar(before[reading], after).p_value
            print(f"{file}: {reading} {sum(after) / len(after):.1%}, p {p:.2g}")


if __name__ == "__main__":
    main()
