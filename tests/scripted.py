"""An engine that answers from a script, and rules to play it by."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from azero.play import PlayRules
from azero.types import SHARED, Completion, Sampling, WeightVersion


class ScriptedEngine:
    """Answers by prompt text; the newest request ends first, so that order of completion differs from submission."""

    version = WeightVersion(lineage=0, step=4)
    max_tokens = 100_000

    def __init__(self, proposals: Sequence[str], answers: Sequence[str]) -> None:
        self.proposals, self.answers = list(proposals), list(answers)
        self.queue: list[tuple[Hashable, str, int, str]] = []
        self.asked: list[str] = []

    def encode(self, text: str, rendered: bool = False, policy: str = SHARED) -> tuple[int, ...]:
        return tuple(text.encode())

    def chat_template(self, user_message: str, policy: str = SHARED) -> str:
        return f"<user>{user_message}</user>"

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        self.asked.append(bytes(prompt_ids).decode())
        self.queue.append((tag, self.asked[-1], n, policy))

    def busy(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[tuple[Hashable, tuple[Completion, ...]]]:
        tag, prompt, n, policy = self.queue.pop()
        script = self.answers if prompt.startswith(("Calculate", "Sort")) else self.proposals
        return [(tag, tuple(self._completion(policy, prompt, script.pop(0)) for _ in range(n)))]

    def _completion(self, policy: str, prompt: str, text: str) -> Completion:
        return Completion(
            prompt_ids=tuple(prompt.encode()),
            token_ids=tuple(text.encode()),
            logprobs=(-1.0,) * len(text),
            text=text,
            policy=policy,
            version=self.version.step,
            finish_reason="stop",
        )


def rules(
    barrier: bool = False, list_mark: str = "", chat: bool = False, other_tiers: bool = True, exclude: bool = False
) -> PlayRules:
    sampling = Sampling(temperature=1.0, max_new_tokens=8, stop=("\n",))
    return PlayRules(
        solutions=2,
        proposer=sampling,
        solver=sampling,
        list_mark=list_mark,
        chat=chat,
        exclude_evaluation=exclude,
        other_tiers=other_tiers,
        ladder="paper",
        barrier=barrier,
    )
