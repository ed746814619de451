"""Verdicts beside decoding: a slow domain does not stop the engine, and the order of its verdicts leaves no trace."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
from helpers import problem, request
from scripted import rules
from timing import timed

from azero.domains import Checked
from azero.domains.arithmetic import Arithmetic
from azero.domains.base import Inline, Proposal, executor_of, judged
from azero.errors import RunFailed
from azero.evaluation.solver import evaluate
from azero.play import Player
from azero.types import (
    SHARED,
    Assignment,
    Completion,
    Episode,
    EvalItem,
    Problem,
    ProposalRequest,
    Sampling,
    Slot,
    Verdict,
)


class DecodingEngine:
    """Ends the oldest request in each step of `seconds`. What it writes depends on the prompt and on what it wrote."""

    version, max_tokens = 4, 100_000

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.queue: list[tuple[Hashable, str, int]] = []
        self.asked: list[str] = []
        self.ended = 0

    def encode(self, text: str, rendered: bool = False, policy: str = SHARED) -> tuple[int, ...]:
        return tuple(text.encode())

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        self.asked.append(bytes(prompt_ids).decode())
        self.queue.append((tag, self.asked[-1], n))

    def busy(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[tuple[Hashable, tuple[Completion, ...]]]:
        time.sleep(self.seconds)
        tag, prompt, n = self.queue.pop(0)
        rng, self.ended = random.Random(f"{prompt}/{self.ended}"), self.ended + 1
        texts = [self._text(prompt, rng) for _ in range(n)]
        return [(tag, tuple(self._completion(prompt, text) for text in texts))]

    def _text(self, prompt: str, rng: random.Random) -> str:
        if prompt.startswith("Calculate"):
            return str(rng.randrange(3, 12))
        return rng.choice(["x", "1 + 1", f"{rng.randrange(9)} + {rng.randrange(9)}"])

    def _completion(self, prompt: str, text: str) -> Completion:
        return Completion(
            prompt_ids=tuple(prompt.encode()),
            token_ids=tuple(text.encode()),
            logprobs=(-1.0,) * len(text),
            text=text,
            version=self.version,
            finish_reason="stop",
        )


class Slow(Arithmetic):
    """Waits before each answer, as for a sandbox; `jitter` makes the answers come in another order."""

    judges = 32

    def __init__(self, seconds: float, jitter: int | None = None) -> None:
        self.seconds, self.rng = seconds, None if jitter is None else random.Random(jitter)

    def read(self, completion: str, request: ProposalRequest, exclude: bool, version: int) -> Proposal:
        self._wait()
        return super().read(completion, request, exclude, version)

    def judge(self, completion: str, problem: Problem, chat: bool) -> Verdict:
        self._wait()
        return super().judge(completion, problem, chat)

    def _wait(self) -> None:
        time.sleep(self.seconds if self.rng is None else self.seconds * self.rng.random())


def play(engine: DecodingEngine, domain: Any, slots: int, barrier: bool = False) -> list[Episode]:
    asked = tuple(Slot(id=f"0.{i}", tries=(request("1 + 1"),) * 3, problem=problem("2 + 2")) for i in range(slots))
    with executor_of(domain) as judges:
        player = Player(engine, domain, rules(barrier), judges=judges)  # type: ignore[arg-type]
        return player.play(Assignment(id="0/0", batch=0, slots=asked))


def test_a_verdict_of_a_quarter_second_does_not_stop_decoding() -> None:
    """About 100 requests with some 170 verdicts: one after another they would take 40 s."""

    def played(seconds: float) -> Callable[[], object]:
        return lambda: play(DecodingEngine(0.03), Slow(seconds), 48)

    quick = timed(played(0.0), limit=0.0, tries=1)[1]
    assert quick > 2, "a short run would measure the last verdict alone"
    assert timed(played(0.25), 1.2 * quick)[1] < 1.2 * quick


@pytest.mark.parametrize("jitter", range(3))
def test_with_a_barrier_the_order_of_verdicts_leaves_no_trace(jitter: int) -> None:
    """Without threads, and with verdicts in another order each time: equal requests to the engine, equal episodes."""
    engines = [DecodingEngine() for _ in range(2)]
    inline, beside = (
        play(engine, domain, 24, barrier=True)
        for engine, domain in zip(engines, (Arithmetic(), Slow(0.01, jitter)), strict=True)
    )
    assert engines[0].asked == engines[1].asked and len(engines[0].asked) > 48
    assert inline == beside


def test_without_a_barrier_episodes_keep_the_order_of_the_slots() -> None:
    ids = [e.id for e in play(DecodingEngine(), Slow(0.01, 0), 24)]
    assert ids == sorted(ids, key=lambda i: [int(part) for part in i.split(".")])


def test_a_domain_without_judges_is_asked_in_the_players_own_thread() -> None:
    threads = set()

    class Own(Arithmetic):
        def judge(self, completion: str, problem: Problem, chat: bool) -> Verdict:
            threads.add(threading.current_thread())
            return super().judge(completion, problem, chat)

    assert isinstance(executor_of(Own()), Inline)
    play(DecodingEngine(), Own(), 4)
    assert threads == {threading.main_thread()}


@pytest.mark.parametrize("barrier", [False, True])
def test_what_a_domain_does_wrong_in_a_thread_is_told_as_ever(barrier: bool) -> None:
    class Failing(Slow):
        def judge(self, completion: str, problem: Problem, chat: bool) -> Verdict:
            raise ZeroDivisionError("no such luck")

    domain = Checked(Failing(0.01), "mine:Failing")
    said = (
        r"^task\.domain=mine:Failing: Failing\.judge fails with ZeroDivisionError: no such luck \(.*test_judging\.py:"
    )
    with pytest.raises(RunFailed, match=said):
        play(DecodingEngine(), domain, 8, barrier)


def test_an_evaluation_is_judged_beside_the_engine() -> None:
    items = [EvalItem(problem=problem(f"{i} + 1", answer="3"), label="", operation="+") for i in range(24)]
    options: dict[str, Any] = {
        "chat": False, "samples": 3, "temperature": 1.0, "max_new_tokens": 8, "stop": (), "data": "dev"
    }  # fmt: skip
    with executor_of(Slow(0.05)) as judges:

        def beside() -> object:
            return evaluate(DecodingEngine(), Slow(0.05), items, judges=judges, **options)  # type: ignore[arg-type]

        found, seconds = timed(beside, 2.4)
    assert seconds < 2.4, "96 verdicts one after another would take 4.8 s"
    assert found == evaluate(DecodingEngine(), Arithmetic(), items, **options)  # type: ignore[arg-type]
    assert judged(Arithmetic(), DecodingEngine()._completion("", "3"), items[0].problem, False) is Verdict.RIGHT
