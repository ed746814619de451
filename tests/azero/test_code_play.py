"""The code domain in an assignment, with an engine that answers from a script."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from scripted import ScriptedEngine, rules

from azero.domains import get_domain
from azero.play import Player
from azero.types import SHARED, Assignment, Cell, Group, ProposalRequest, Sampling, Slot, Verdict

DOMAIN = get_domain("code")
SEEDS = DOMAIN.seeds()


class Writer(ScriptedEngine):
    """Takes a prompt that ends with a blank line, or with a given program's line, for a proposer's."""

    stops: list[tuple[str, ...]]

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        super().submit(tag, prompt_ids, n, sampling, policy)
        self.stops = [*getattr(self, "stops", []), sampling.stop]

    def step(self) -> list[tuple[Hashable, tuple]]:  # type: ignore[type-arg]
        tag, prompt, n, policy = self.queue.pop()
        script = self.proposals if prompt.endswith("\n") else self.answers
        return [(tag, tuple(self._completion(policy, prompt, script.pop(0)) for _ in range(n)))]


def request(task: str) -> ProposalRequest:
    cell = Cell(task=task, tier="small")
    references = tuple(p for p in SEEDS if p.cell == cell)[:2]
    return ProposalRequest(cell=cell, references=references, given=SEEDS[0] if task == "induction" else None)


def play(task: str, proposal: str, answers: Sequence[str]) -> tuple[Writer, Group, float]:
    """The engine, the group, and how often the sandbox was called."""
    engine = Writer([proposal], answers)
    player = Player(engine, DOMAIN, replace(rules(), domain_stops=True))  # type: ignore[arg-type]
    (episode,) = player.play(Assignment(id="0/0", batch=0, slots=(Slot(id="0.0", tries=(request(task),)),)))
    assert episode.proposal and episode.proposal.verdict is Verdict.VALID, episode.proposal
    assert episode.group and episode.references == tuple(p.statement for p in request(task).references)
    return engine, episode.group, player.counts["executions"]


def verdicts(group: Group) -> list[str]:
    return [f"{sample.verdict} {sample.reason}".strip() for sample in group.samples]


def test_deduction() -> None:
    engine, group, executions = play("deduction", "def f(a): return a * 5\nassert f(3) == 99", [" 15", " 99"])
    assert group.problem.statement == "def f(a): return a * 5\nassert f(3) == 15"
    assert verdicts(group) == ["right", "wrong"]
    assert engine.asked == [
        "# Small functions, each with a value\n\ndef f(a): return a + 4\nassert f(3) == 7\n\n"
        "def f(a): return a * 3\nassert f(5) == 15\n\n",
        "def f(a): return a * 5\nassert f(3) ==",
    ]
    assert engine.stops == [("\n\n",), ("\n",)]
    assert executions == 4  # of the proposal, on its own input twice and on two others; answers are literals


def test_abduction_takes_any_right_input() -> None:
    engine, group, executions = play("abduction", "def f(a): return a // 4\nassert 0 == f(9)", ["11)", "12)"])
    assert verdicts(group) == ["right", "wrong"]
    assert engine.asked[1] == "def f(a): return a // 4\nassert 2 == f("
    assert executions == 7  # as in deduction, on the output as input, and of each answer


def test_induction_is_about_a_given_program() -> None:
    written = "f(3)\nf(-2)\nf(12)\nf(7)\n# more by four"
    engine, group, executions = play("induction", written, [" a + 4", " {3: 7, -2: 2}[a]"])
    assert verdicts(group) == ["right", "wrong raises"]  # a KeyError of the first hidden pair
    assert group.problem.statement == f"def f(a): return a + 4\n{written}"
    assert engine.asked[0].endswith("# a times 3\n\ndef f(a): return a + 4\n")
    assert engine.asked[1] == "# more by four\nassert f(3) == 7\nassert f(-2) == 2\ndef f(a): return"
    assert executions == 12  # on four inputs twice, and of each answer on two hidden ones
