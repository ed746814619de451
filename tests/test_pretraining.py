"""The loop that pre-trains embedded models."""

from __future__ import annotations

import math
import random
from itertools import chain
from typing import Any

import pytest
import torch

from azero.domains.code.prompts import TASKS
from benchmarks.code_model.corpus import Corpus, Crowd
from benchmarks.code_model.words import WORDS
from benchmarks.pretraining import (
    IGNORE,
    PADDING,
    Batch,
    Muon,
    build_model,
    build_tokenizer,
    losses,
    orthogonal,
    tensorise,
)

DOCUMENTS = [("2 + 3 =", " 5\n", "7 =", " 7\n"), ("ab", "c")]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_labels_are_on_completions() -> None:
    tokenizer = build_tokenizer()
    ids, labels = tensorise(DOCUMENTS, tokenizer)
    assert ids.shape == labels.shape == (2, 16)
    answers = [IGNORE] * 7, ids_of(tokenizer, " 5\n"), [IGNORE] * 3, ids_of(tokenizer, " 7\n")
    assert labels[0].tolist() == [*chain(*answers)]
    assert labels[1].tolist() == [IGNORE] * 2 + ids_of(tokenizer, "c") + [IGNORE] * 13
    assert ids[1].tolist() == ids_of(tokenizer, "abc") + [PADDING] * 13


@pytest.mark.parametrize("prompt_weight", [0.0, 0.2])
def test_the_loss_is_the_mean_over_completions_and_a_share_of_that_over_prompts(prompt_weight: float) -> None:
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), 0, width=8, layers=1).eval()
    each: dict[bool, list[float]] = {True: [], False: []}  # whether the character is a completion's -> its loss
    with torch.no_grad():
        for document in DOCUMENTS:
            text, answered = "".join(document), [k % 2 == 1 for k, part in enumerate(document) for _ in part]
            ids = ids_of(tokenizer, text)
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            for i, token in enumerate(ids[1:]):
                each[answered[i + 1]].append(-logprobs[i, token].item())
        loss, objective = losses(model, tokenizer, Batch("some", DOCUMENTS, 0.5, prompt_weight))
    answers, prompts = (math.fsum(values) / len(values) for values in (each[True], each[False]))
    assert loss.item() == pytest.approx(answers, rel=1e-5)
    assert objective.item() == pytest.approx(0.5 * (answers + prompt_weight * prompts), rel=1e-5)


def test_muon_steps_along_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    for shape in ((8, 24), (24, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 1e-3, 5))
        assert values.min() > 0.6 and values.max() < 1.3
    matrix = torch.nn.Parameter(torch.zeros(4, 4))
    matrix.grad = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))
    Muon([matrix], lr=0.1).step()
    step = 0.1 * 0.2 * 4**0.5  # of AdamW's size
    expected = torch.diag(torch.tensor([-step, -step, step, -step]))
    assert torch.allclose(matrix.data, expected, atol=0.4 * step)


def test_words_leave_strings_in_characters_and_texts_whole() -> None:
    tokenizer, rng, corpus = build_tokenizer(WORDS), random.Random(1), Corpus([])
    pieces = [tokenizer.decode([i]) for i in ids_of(tokenizer, "def f(a): return a[1:]\nassert f('cab') == 'ab'\n")]
    assert pieces == ["def f(a): return", *" a[1:]\n", "assert f(", *"'cab'", ") ==", *" 'ab'\n"]
    assert [tokenizer.decode([i]) for i in ids_of(tokenizer, " [7, 12, -3]")] == [*" [7", ", 12", ", ", *"-3]"]
    for document in [corpus.solved(rng, task, Crowd(0.5, 0.5)) for task in TASKS] + [corpus.listed(rng)]:
        for text in document:
            assert tokenizer.decode(ids_of(tokenizer, text)) == text
