import io
import json
import math

import pytest
from helpers import problem
from rich.console import Console

from azero.errors import UserError
from azero.evaluation.solver import McNemar, evaluate, mcnemar, paired, table, wilson_interval
from azero.types import SHARED, Completion, EvalItem, Role, Verdict


def test_wilson_interval_literature_values():
    # Newcombe (1998), table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_interval_ends_and_symmetry():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for n in (1, 7, 200, 1319):
        for k in range(0, n + 1, max(1, n // 7)):
            low, high = wilson_interval(k, n)
            assert 0 <= low <= k / n <= high <= 1
            assert wilson_interval(n - k, n) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(3, 10, 0.99)[0] < wilson_interval(3, 10, 0.9)[0]
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson_interval(5, 4)


def test_mcnemar_by_hand():
    before = [True] * 5 + [False] * 5
    # b = 1 and c = 5: 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64
    after = [True] * 4 + [False] + [True] * 5
    assert mcnemar(before, after) == McNemar(b=1, c=5, p_value=pytest.approx(14 / 64))
    assert mcnemar(after, before) == McNemar(b=5, c=1, p_value=pytest.approx(14 / 64))
    assert mcnemar(before, before) == McNemar(b=0, c=0, p_value=1.0)
    assert mcnemar([True, False], [False, True]).p_value == 1.0
    assert mcnemar([False] * 4000, [True] * 4000).p_value == 0.0  # 2 / 2^4000: no overflow
    with pytest.raises(ValueError):
        mcnemar([True], [True, False])


class FakeEngine:
    """Answers greedily what it is told, and samples right answers every other time. Two requests end in each step."""

    version = 0
    max_tokens = 100_000

    def __init__(self, answers):
        self.answers, self.queue, self.prompts, self.stops = answers, [], [], set()

    def encode(self, text, rendered=False, policy=SHARED):
        self.prompts.append(text)
        return tuple(text.encode())

    def chat_template(self, user_message, policy=SHARED):
        return f"<user>{user_message}</user>"

    def submit(self, tag, prompt_ids, n, sampling, policy=SHARED):
        assert tag not in [t for t, *_ in self.queue]
        self.queue.append((tag, bytes(prompt_ids).decode(), n, sampling))
        self.stops.add(sampling.stop)

    def busy(self):
        return bool(self.queue)

    def step(self):
        out = []
        for tag, prompt, n, sampling in [self.queue.pop() for _ in range(min(2, len(self.queue)))]:
            answer = next(a for text, a in self.answers.items() if text in prompt)
            texts = [answer] if sampling.temperature == 0 else [answer if i % 2 == 0 else "?" for i in range(n)]
            out.append((tag, tuple(_completion(t) for t in texts)))
        return out


class FakeDomain:
    def pose(self, problem, chat):
        if chat is None:
            return f"Calculate: {problem.statement} = "
        return chat(f"What is {problem.statement}?")

    def judge(self, completion, problem, chat):
        if not completion.isdigit():
            return Verdict.MALFORMED
        return Verdict.RIGHT if completion == problem.answer else Verdict.WRONG


class Stops(FakeDomain):
    stops = {(Role.SOLVER, "arithmetic"): ("#",)}


def test_without_a_stop_the_domain_says_what_ends_an_answer():
    for domain, stop, ends in ((Stops(), None, ("#",)), (FakeDomain(), None, ("\n",)), (Stops(), ("x",), ("x",))):
        engine = FakeEngine(ANSWERS)
        evaluate(engine, domain, ITEMS, chat=False, samples=1, **{**OPTIONS, "stop": stop})
        assert engine.stops == {ends}


def _completion(text):
    return Completion(prompt_ids=(1,), token_ids=(2,), logprobs=(-0.1,), text=text, version=0, finish_reason="stop")


def _item(text, answer, label, operation):
    return EvalItem(problem=problem(text, answer=answer), label=label, operation=operation)


ITEMS = [
    _item("1 + 2", "3", "easy", "+"),
    _item("2 + 5", "7", "easy", "+"),
    _item("3 * 4", "12", "hard", "*"),
    _item("7 - 5", "2", "hard", "-"),
]
OPTIONS = dict(temperature=0.7, max_new_tokens=8, stop=("\n",), data="test")
ANSWERS = {"1 + 2": "3", "2 + 5": "8", "3 * 4": "12", "7 - 5": "two"}


def test_evaluate():
    engine = FakeEngine(ANSWERS)
    result = evaluate(engine, FakeDomain(), ITEMS, chat=False, samples=4, **OPTIONS)
    assert engine.prompts == [
        "Calculate: 1 + 2 = ",
        "Calculate: 2 + 5 = ",
        "Calculate: 3 * 4 = ",
        "Calculate: 7 - 5 = ",
    ]
    assert (result["accuracy"], result["mean_at_k"], result["k"], result["n"]) == (0.5, 0.25, 4, 4)
    assert result["interval"] == pytest.approx(list(wilson_interval(2, 4))) and result["data"] == "test"
    assert list(result["by_label"]) == ["easy", "hard"]
    assert result["by_label"]["easy"] == {
        "accuracy": 0.5, "mean_at_k": 0.25, "n": 2, "correct": 1, "interval": list(wilson_interval(1, 2))
    }  # fmt: skip
    assert {k: v["accuracy"] for k, v in result["by_operation"].items()} == {"+": 0.5, "*": 1.0, "-": 0.0}
    assert [p["verdict"] for p in result["problems"]] == ["right", "wrong", "right", "malformed"]
    assert result["problems"][0] == {
        "text": "1 + 2", "label": "easy", "operation": "+", "answer": "3", "completion": "3", "verdict": "right",
        "correct": True, "sampled_correct": 2,
    }  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_evaluate_greedy_only_through_the_chat_template():
    engine = FakeEngine(ANSWERS)
    result = evaluate(engine, FakeDomain(), ITEMS, chat=True, samples=0, **OPTIONS)
    assert engine.prompts[0] == "<user>What is 1 + 2?</user>"
    assert result["mean_at_k"] is None and result["by_label"]["hard"]["mean_at_k"] is None
    assert result["accuracy"] == 0.5


def test_evaluate_refuses_an_empty_set():
    with pytest.raises(UserError, match=r"eval\.data=test: holds no problems"):
        evaluate(FakeEngine({}), FakeDomain(), [], chat=False, samples=0, **OPTIONS)


def _rendered(before, after):
    console = Console(file=io.StringIO(), width=160)
    console.print(table(before, after))
    return console.file.getvalue()


def test_table_and_pairing():
    domain = FakeDomain()
    before = evaluate(FakeEngine(ANSWERS), domain, ITEMS, chat=False, samples=2, **OPTIONS)
    better = evaluate(FakeEngine({**ANSWERS, "2 + 5": "7"}), domain, ITEMS, chat=False, samples=2, **OPTIONS)
    assert paired(before, better) == McNemar(b=0, c=1, p_value=1.0)
    text = _rendered(before, better)
    row = next(line for line in text.splitlines() if "all" in line and "%" in line)
    assert "50.0% [15.0, 85.0]" in row and "75.0% [30.1, 95.4]" in row and "+25.0" in row and "1 (-0 +1)" in row
    assert [n for n in ("easy", "hard", "+", "*", "all") if n not in text] == []
    alone = _rendered(None, better)
    assert "McNemar" not in alone and "75.0%" in alone


def test_table_without_pairs():
    domain = FakeDomain()
    before = evaluate(FakeEngine(ANSWERS), domain, ITEMS[:1], chat=False, samples=0, **OPTIONS)
    after = evaluate(FakeEngine(ANSWERS), domain, ITEMS, chat=False, samples=0, **OPTIONS)
    assert paired(before, after) is None
    hard = next(line for line in _rendered(before, after).splitlines() if "hard" in line)
    assert hard.count(" - ") >= 3  # no accuracy before, no change, no p


def test_interval_width_at_two_hundred_problems():
    low, high = wilson_interval(110, 200)
    assert math.isclose(high - low, 0.137, abs_tol=1e-3)
