"""How proposals and answers are written in a domain, for the tests that every domain has to pass."""

from __future__ import annotations

from azero.domains.base import ChatTemplate, Domain
from azero.types import Problem, ProposalRequest


def asked(problem: Problem, *references: Problem) -> ProposalRequest:
    return ProposalRequest(cell=problem.cell, references=references)


class Lines:
    """The default: a line in the raw protocol; in chat the rest of the line after "Problem:" or "Answer:"."""

    outside = 0.0  # share of evaluation problems, at most, that a proposer may not write

    def proposals(self, problem: Problem) -> list[str]:
        return [f"{problem.statement}{end}" for end in ("", "\n")] + [f"A thought.\nProblem: {problem.statement}"]

    def answers(self, problem: Problem) -> tuple[list[str], str]:
        """Raw spellings, and one in chat."""
        return [problem.answer, f"{problem.answer}\n"], f"Let me see.\nAnswer: {problem.answer}"

    def is_wrong(self, problem: Problem, other: Problem) -> bool:
        """Whether the other's answer is a wrong one here."""
        return problem.answer != other.answer

    def is_posed(self, problem: Problem, domain: Domain, chat: ChatTemplate | None) -> bool:
        return problem.statement in domain.pose(problem, chat)

    def last(self, reference: Problem) -> str:
        """How a raw prompt ends that shows the reference last."""
        return f"{reference.statement}\n"

    def is_whole(self, problem: Problem) -> bool:
        return "\n" not in problem.statement + problem.answer


class Programs(Lines):
    """Of the code domain: texts that end at a blank line, and fenced blocks."""

    outside = 0.04  # constant, or the identity, on the few inputs that a proposal is tried on
    BLOCKS = {"deduction": "output", "abduction": "input", "induction": "python"}

    def proposals(self, problem: Problem) -> list[str]:
        asked = problem.payload
        pairs = [*asked.get("shown", ()), *asked.get("hidden", ())]
        inputs = "\n".join(given for given, _ in pairs) or asked["arguments"]
        blocks = {"python": asked["program"], "input": inputs, "message": asked.get("message", "")}
        fenced = "".join(f"So:\n```{kind}\n{text}\n```\n" for kind, text in blocks.items() if text)
        return [problem.statement, f"{problem.statement}\n\ndef f(a): return 7\n", fenced]

    def answers(self, problem: Problem) -> tuple[list[str], str]:
        task, answer = problem.cell.task, problem.answer
        raw = {
            "deduction": f" {answer}",
            "abduction": f"{answer})",
            "induction": answer.removeprefix(answer.partition(" return")[0] + " return"),
        }[task]
        return [raw, f"{raw}\nassert f(1) == 2\n"], f"So:\n```{self.BLOCKS[task]}\n{answer}\n```\n"

    def is_wrong(self, problem: Problem, other: Problem) -> bool:
        return problem.cell.task == other.cell.task == "deduction" and problem.answer != other.answer

    def is_posed(self, problem: Problem, domain: Domain, chat: ChatTemplate | None) -> bool:
        posed, parts = domain.pose(problem, chat), problem.payload
        if problem.cell.task == "induction":
            hidden = [f"f({given})" in posed for given, _ in parts["hidden"]]
            return parts["message"] in posed and parts["program"] not in posed and not any(hidden)
        shown = {"deduction": "arguments", "abduction": "output"}[problem.cell.task]
        return parts["program"] in posed and parts[shown] in posed

    def last(self, reference: Problem) -> str:
        return f"{reference.statement}\n\n"

    def is_whole(self, problem: Problem) -> bool:
        return "\n\n" not in problem.statement


FORMS = {"code": Programs()}


def forms(domain: Domain) -> Lines:
    return FORMS.get(domain.name, Lines())
