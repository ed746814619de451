"""What a code model does before any reinforcement: `python -m benchmarks.code_model.measure FOLDER`.

Prints, on the dev set, greedy accuracy and pass@k at temperature 1 by task and size, and by task the share of its
proposals that are valid, from two seed problems as references.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from azero.domains.code.domain import Code
from azero.domains.code.prompts import INDUCTION, TASKS
from azero.types import ProposalRequest, Verdict

SOLUTION_TOKENS, PROPOSAL_TOKENS = 64, 160
REFERENCES = 2  # more of induction do not fit into 512 tokens
BATCH = 64  # prompts


class Writer:
    """Samples completions of one model with plain transformers."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def write(self, prompts: Sequence[str], *, samples: int, tokens: int, stop: str) -> Iterator[list[str]]:
        """The completions of each prompt before `stop`: one greedy one where `samples` is 0, else so many."""
        drawn = {"do_sample": True, "top_k": 0, "num_return_sequences": samples} if samples else {"do_sample": False}
        for start in range(0, len(prompts), BATCH):
            asked = self.tokenizer(list(prompts[start : start + BATCH]), return_tensors="pt", padding=True)
            made = self.model.generate(
                **asked, **drawn, max_new_tokens=tokens, stop_strings=[stop], tokenizer=self.tokenizer
            )
            texts = self.tokenizer.batch_decode(made[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
            each = max(samples, 1)
            for i in range(0, len(texts), each):
                yield [text.partition(stop)[0] for text in texts[i : i + each]]


def solutions(domain: Code, writer: Writer, samples: int, step: int) -> None:
    """Print accuracies on every `step`-th problem of the dev set."""
    items = domain.evaluation("dev")[::step]
    prompts = [domain.pose(item.problem, None) for item in items]
    table: dict[str, Counter[str]] = defaultdict(Counter)
    kinds = {"greedy": 0, "pass": samples} if samples else {"greedy": 0}
    for kind, number in kinds.items():
        written = writer.write(prompts, samples=number, tokens=SOLUTION_TOKENS, stop="\n")
        for item, texts in zip(items, written, strict=True):
            verdicts = [domain.judge(text, item.problem, False).verdict for text in texts]
            for row in (item.label, f"{item.label}, {item.operation}"):
                table[row][kind] += Verdict.RIGHT in verdicts
                table[row][f"{kind} mean"] += verdicts.count(Verdict.RIGHT) / len(verdicts)
                table[row]["n"] += kind == "greedy"
    for row in sorted(table):
        counts = table[row]
        shares = "  ".join(f"{kind} {counts[kind] / counts['n']:.1%}" for kind in ("greedy", "pass mean", "pass"))
        print(f"{row:32} n {counts['n']:4}  {shares}")


def proposals(domain: Code, writer: Writer, number: int) -> None:
    """Print the share of valid proposals of each task, and the commonest reasons against others."""
    rng, seeds = random.Random(0), domain.seeds()
    for task in TASKS:
        cells = [cell for cell in domain.cells if cell.task == task]
        requests = []
        for cell in rng.choices(cells, k=number):
            known = [problem for problem in seeds if problem.cell == cell]
            given = [p for p in seeds if p.cell.tier == cell.tier and p.cell.task != INDUCTION]
            requests.append(
                ProposalRequest(
                    cell=cell,
                    references=tuple(rng.sample(known, min(REFERENCES, len(known)))),
                    given=rng.choice(given) if task == INDUCTION else None,
                )
            )
        prompts = [domain.ask(request, None) for request in requests]
        reasons: Counter[str] = Counter()
        tiers: Counter[str] = Counter()
        texts = writer.write(prompts, samples=1, tokens=PROPOSAL_TOKENS, stop="\n\n")
        for request, [text] in zip(requests, texts, strict=True):
            read = domain.read(text, request, False, 0)
            reasons[read.reason or "valid"] += 1
            if read.problem is not None:
                tiers[f"{request.cell.tier} as {read.problem.cell.tier}"] += 1
        print(
            f"{task}: valid {reasons['valid'] / number:.1%}", dict(reasons.most_common(6)), dict(sorted(tiers.items()))
        )


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--samples", type=int, default=16, help="of each problem, at temperature 1; 0: greedy only")
    parser.add_argument("--step", type=int, default=1, help="take every so many-th problem")
    parser.add_argument("--proposals", type=int, default=100, help="of each task")
    args = parser.parse_args()
    torch.manual_seed(0)
    domain, writer = Code(), Writer(args.folder)
    solutions(domain, writer, args.samples, args.step)
    if args.proposals:
        proposals(domain, writer, args.proposals)


if __name__ == "__main__":
    main()
