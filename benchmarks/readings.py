"""Accuracy where the first integer of a completion counts, so that "0.155" answers 0; of files of `azero eval --json`.

    python benchmarks/first_integer.py BEFORE.json AFTER.json ...

The arithmetic domain reads numbers whole; other evaluations of these problems read as this does.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from azero.evaluation import mcnemar


def right(file: str) -> list[bool]:
    problems = json.loads(Path(file).read_text())["problems"]
    found = [re.search(r"-?[0-9]+", p["completion"]) for p in problems]
    return [bool(m) and m[0] == p["answer"] for m, p in zip(found, problems, strict=True)]


def main() -> None:
    before = right(sys.argv[1])
    for file in sys.argv[1:]:
        after = right(file)
        print(f"{file}: {sum(after) / len(after):.1%}, McNemar p {mcnemar(before, after).p_value:.2g}")


if __name__ == "__main__":
    main()
