"""What a run of the arithmetic domain trained on, by quarter of its steps: shares of operations and negative answers.

python benchmarks/proposed.py RUN_DIR ...
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from cluster.records.rundir import read_jsonl

QUARTERS = 4


def main() -> None:
    for run in sys.argv[1:]:
        records = [r for r in read_jsonl(Path(run) / "samples.jsonl") if r["problem"]]
        steps, counts = max(r["step"] for r in records), [Counter[str]() for _ in range(QUARTERS)]
        for r in records:
            found = counts[(r["step"] - 1) * QUARTERS // steps]
            found.update(["problems"], **{"negative": r["problem"]["answer"].startswith("-")})
            found.update(op for op in "+-*/" if op in r["problem"]["canonical"].replace("(-", "("))
        for i, found in enumerate(counts):
            shares = "  ".join(f"{k} {found[k] / found['problems']:.1%}" for k in ("+", "-", "*", "/", "negative"))
            print(f"{run} quarter {i + 1}: {found['problems']} problems  {shares}")


if __name__ == "__main__":
    main()
