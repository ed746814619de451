"""What a run could never save is found before step 1, and what transformers alone refuses is saved as it was."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from helpers import trainer_of

from azero.config import load_config
from azero.errors import UserError
from azero.models.loading import EMBEDDED, load_model
from azero.models.weights import owned_state
from azero.types import SHARED
from learner.checkpoint import Checkpoint
from learner.trainer import Trainer

# transformers refuses to write each: a temperature that sampling would need, and values out of range
IDLE = b'{"eos_token_id": 0,   "do_sample": false, "temperature": 0.6, "top_k": 20, "ours": 1}\n'
ODD = b'{"eos_token_id": [0, 1], "do_sample": true, "top_p": 1.5, "num_return_sequences": 3}'


def model(folder: Path, generation: bytes | None) -> str:
    copytree(EMBEDDED, folder)
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_bytes(generation)
    return str(folder)


def trainer(path: str, state: Checkpoint | None = None) -> Trainer:
    return trainer_of(load_config("local", ["algorithm.kl_beta=0"]), path, state=state)


def model_in(checkpoint: Checkpoint | None) -> Path:
    assert checkpoint is not None
    return checkpoint.model(SHARED)


@pytest.mark.parametrize("generation", [IDLE, ODD])
def test_a_generation_config_is_saved_as_it_was(tmp_path: Path, generation: bytes) -> None:
    saved = trainer(model(tmp_path / "model", generation)).save(tmp_path / "checkpoints", {}, 1)
    assert (model_in(saved) / "generation_config.json").read_bytes() == generation
    again = trainer(str(model_in(saved)), saved)
    once_more = again.save(tmp_path / "again", {}, 1)
    assert (model_in(once_more) / "generation_config.json").read_bytes() == generation


def test_without_one_the_ends_of_the_config_are_saved(tmp_path: Path) -> None:
    saved = trainer(model(tmp_path / "model", None)).save(tmp_path / "checkpoints", {}, 1)
    assert json.loads((model_in(saved) / "generation_config.json").read_text())["eos_token_id"] == 0
    weights = {k: v.numpy() for k, v in owned_state(load_model(str(model_in(saved)))).items()}
    for name, tensor in owned_state(load_model(str(EMBEDDED))).items():
        assert np.array_equal(weights[name], tensor.numpy()), name


def refused(*_: Any, **__: Any) -> None:
    raise ValueError("not serializable\nat all")


@pytest.mark.parametrize(
    "what",
    [
        "transformers.PreTrainedConfig.save_pretrained",
        "transformers.PreTrainedTokenizerBase.save_pretrained",
        "transformers.Qwen2ForCausalLM.save_pretrained",  # as for weights that are quantised
        "learner.saving.remove_tied_weights_from_state_dict",  # as for tensors that share memory
    ],
)
def test_what_can_never_be_saved_is_found_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = model(tmp_path / "model", IDLE)
    monkeypatch.setattr(what, refused)
    said = r"no checkpoint of Qwen2ForCausalLM can be written \(ValueError: not serial"
    with pytest.raises(UserError, match=said) as e:
        trainer(path)
    assert "\n" not in str(e.value) and str(tmp_path / "model") in str(e.value)


def test_tensors_that_share_memory_are_found_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(path: str, *_: Any) -> Any:
        made = load_model(path)
        norm = made.model.norm.weight
        made.model.layers[0].input_layernorm.weight.data = norm.data
        return made

    monkeypatch.setattr("learner.net.load_model", shared)
    with pytest.raises(UserError, match="no checkpoint of Qwen2ForCausalLM can be written"):
        trainer(model(tmp_path / "model", None))
