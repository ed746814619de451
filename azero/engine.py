"""What an inference engine is: token ids in, token ids with behaviour log-probs out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from azero.types import SHARED, Completion, HeldWeights, Sampling, WeightVersion


class Texts(Protocol):
    """Makes token ids of the prompts of a policy or several. That takes no weights."""

    max_tokens: int  # of a prompt and its completion together

    def encode(self, text: str, rendered: bool = False, policy: str = SHARED) -> tuple[int, ...]:
        """Token ids of a prompt, after those that the tokenizer begins every text with, and without any that end it.

        `rendered`: by `chat_template`, which writes all that the model expects.
        """

    def chat_template(self, user_message: str, policy: str = SHARED) -> str:
        """The prompt text of one user message. Raises UserError where the tokenizer's template is missing or fails."""


class Engine(Texts, Protocol):
    """Serves one policy or several, by name. Not thread-safe; the caller drives it by `step`.

    With adapters the base that they share is loaded and proven as a policy is, under the name BASE.
    """

    @property
    def version(self) -> WeightVersion | None:
        """That it holds of all policies; None before the first load."""

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        """Queue n samples of a prompt from a policy. `tag` comes back with them; it is unique among those in flight."""

    def step(self) -> list[tuple[Hashable, tuple[Completion, ...]]]:
        """Work for a moment; the requests that ended in it, all n samples of each, in the order of submission."""

    def busy(self) -> bool:
        """Whether submitted requests have not come back yet."""

    def score(self, sequences: Sequence[Sequence[int]], policy: str | Sequence[str] = SHARED) -> list[list[float]]:
        """Log-probs (temperature 1) of tokens 1.. of each sequence, given those before. Nothing may be in flight.

        `policy`: whose, of all sequences, or of each its own.
        """

    def load(self, version: WeightVersion, weights: Mapping[str, Any], policy: str = SHARED) -> None:
        """Replace all weights of a policy (HF name -> numpy array or torch tensor). Caches of old ones are dropped."""

    def keep(self, version: WeightVersion, policy: str = SHARED) -> None:
        """Take what it holds of a policy for that of `version` too, where nothing of it has changed."""

    def held(self, policy: str = SHARED) -> HeldWeights:
        """Digests of a policy's weights as they are now in what the engine computes with."""

    def forget(self) -> None:
        """Hold no version any more, so that nobody takes what is loaded for proven."""

    def reseed(self, seed: int) -> None:
        """Fix all later sampling. Nothing may be in flight."""

    def sleep(self) -> None:
        """Give the accelerator's memory back, where the engine can. Nothing may be in flight; `wake` comes next."""

    def wake(self) -> None:
        """Ready again, with the same weights; nothing where it was awake."""

    def close(self) -> None: ...


def of_each(sequences: Sequence[Sequence[int]], policy: str | Sequence[str]) -> list[tuple[Sequence[int], str]]:
    """Each sequence with its policy, where one name stands for all."""
    names = [policy] * len(sequences) if isinstance(policy, str) else policy
    return list(zip(sequences, names, strict=True))
