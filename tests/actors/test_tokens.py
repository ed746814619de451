"""Ends and beginnings: which tokens end a completion, and what stands around a prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from actors.base import ModelEngine
from azero.errors import UserError
from azero.models.loading import load_tokenizer

BOS, EOT = "<s>", "<eot>"
TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


def edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({k: v for k, v in (content | values).items() if v is not None}))


@pytest.fixture
def folder(tiny_path: str, tmp_path: Path) -> Path:
    """The tiny model, of which nothing but the tokenizer names an end; 0 is <|end|>, 97 to 99 are free."""
    folder = Path(shutil.copytree(tiny_path, tmp_path / "model"))
    edit(folder / "config.json", eos_token_id=None)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def engine(folder: Path, processor: str = "", template: str = "") -> Any:
    """`processor`: what the tokenizer puts around a text, such as "<s> $A <eot>"."""
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"bos_token": BOS, "additional_special_tokens": [EOT]})
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in (BOS, EOT)}
    if processor:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=processor, special_tokens=[(t, i) for t, i in ids.items()]
        )
    tokenizer.chat_template = template or None
    made = ModelEngine.__new__(ModelEngine)
    made.path = str(folder)
    made.use_tokenizer(tokenizer)
    return made, tuple(ids.values())


def test_an_end_that_only_the_tokenizer_names_ends_a_completion(folder: Path) -> None:
    assert ModelEngine(str(folder)).eos_ids == (0,)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "in_tokenizer", "ids"),
    [
        (5, None, "<|end|>", {5, 0}),
        (None, 6, "<|end|>", {6, 0}),
        (5, [6, 7], "<|end|>", {5, 6, 7, 0}),
        (5, 5, "a", {5, "a"}),
        (0, [0], "<|end|>", {0}),
    ],
)
def test_every_end_that_is_named_counts_once(
    in_config: Any, in_generation: Any, in_tokenizer: Any, ids: set[Any], folder: Path
) -> None:
    edit(folder / "config.json", eos_token_id=in_config)
    if in_generation is not None:
        edit(folder / "generation_config.json", eos_token_id=in_generation)
    edit(folder / "tokenizer_config.json", eos_token=in_tokenizer)
    made = ModelEngine(str(folder))
    wanted = {made.tokenizer.convert_tokens_to_ids(i) if isinstance(i, str) else i for i in ids}
    assert set(made.eos_ids) == wanted and len(made.eos_ids) == len(wanted)


@pytest.mark.parametrize(
    ("processor", "before"),
    [
        ("", 0),
        ("<s> $A", 1),
        ("$A <eot>", 0),
        ("<s> $A <eot>", 1),
        ("<s> <s> $A <eot> <eot>", 2),
        ("$A:0 <eot>:0 <s>:0", 0),
    ],
)
def test_a_raw_prompt_begins_as_the_tokenizer_says_and_does_not_end(processor: str, before: int, folder: Path) -> None:
    made, (bos, _) = engine(folder, processor)
    bare = tuple(made.tokenizer.encode("3 + 5 = ", add_special_tokens=False))
    assert made.encode("3 + 5 = ") == (bos,) * before + bare and len(bare) == 8
    assert made.encode(f"{BOS * before}3 + 5 = ") == (bos,) * before + bare  # a domain may write it itself


@pytest.mark.parametrize("processor", ["", "<s> $A", "$A <eot>", "<s> $A <eot>"])
@pytest.mark.parametrize(
    ("template", "before"), [(TEMPLATE, 0), ("{{ bos_token }}" + TEMPLATE, 1), ("<s>" + TEMPLATE, 1)]
)
def test_a_chat_prompt_is_what_its_template_writes(processor: str, template: str, before: int, folder: Path) -> None:
    made, (bos, _) = engine(folder, processor, template)
    rendered = made.encode(made.chat_template("ab"), rendered=True)
    assert rendered == (bos,) * before + tuple(made.tokenizer.encode("[ab]", add_special_tokens=False))
    own = made.tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=True, return_dict=False)
    assert rendered == tuple(own)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "Conversation roles must alternate"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[3].content.strip() }}", "no element"),
        ("{% for m in messages %}{{ m.content }}", "endfor"),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('a system\nmessage first') }}{% endif %}", "system"),
        ("{% for m in messages %}{{ 1 // 0 }}{% endfor %}", "ZeroDivisionError"),
        ("{{ nothing(messages) }}", "undefined"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out the message"),
        ("<s>", "leaves out the message"),
    ],
)
def test_a_template_that_fails_is_told_in_one_line(template: str, says: str, folder: Path) -> None:
    made, _ = engine(folder, "", template)
    with pytest.raises(UserError, match=r"^model\.path=.* chat template .*protocol=raw") as error:
        made.chat_template("Calculate: 3 + 5")
    assert says in str(error.value) and "\n" not in str(error.value)
