"""What is typed is what a key gets, in its own type; whatever does not fit is one line with its key and its place."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from azero.config import Config, load_config, to_yaml
from azero.config.overrides import ANY, known_keys, merged, values
from azero.errors import UserError

TEXTS = [
    *("20250112_093015", "1e5", "on", "yes", "no", "null", "a~", "0x1f", "1_000", "2025-01-12", "0.1", "1", "true"),
    *(
        "a #b",
        "#",
        "a: b",
        "{x}",
        "[easy]",
        "[/x]",
        "'quoted'",
        '"quoted"',
        "a=b",
        " blanks ",
        "back\\slash",
        "é漢",
        "*a",
    ),
    *("- ", "!x", "&x", "%x", "@x", "`x`", "|", ">", "? x", "a,b"),
]
NUMBERS = [
    key.replace(f".{ANY}.", ".shared.")  # the policy of the defaults
    for key, kind in known_keys(Config).items()
    if "int" in str(kind) or "float" in str(kind)
]
GIVEN = [
    "-1",
    "0",
    "1",
    "0.5",
    "1.5",
    "nan",
    ".nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 30,
    "1_0",
    "",
    "x",
    "true",
    "[1]",
    "null",
]


def yaml_of(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["run.name", "task.list_mark", "run.dir"])
def test_text_on_the_command_line_stays_what_was_typed(key: str, text: str) -> None:
    assert values(merged(Config, [], [f"{key}={text}"]))[key] == text


@pytest.mark.parametrize("text", ["20250112_093015", "1e5", "on", "no", "null", "0x1f", "2025-01-12", "0.10", "1_0"])
def test_text_in_a_file_stays_what_was_written(text: str, tmp_path: Path) -> None:
    config = load_config(yaml_of(tmp_path, f"run: {{name: {text}}}\ntask: {{list_mark: {text}}}\n"))
    assert (config.run.name, config.task.list_mark, config.run.dir) == (text, text, f"runs/{text}")


@pytest.mark.parametrize("text", TEXTS)
def test_a_saved_configuration_reads_back_equal(text: str, tmp_path: Path) -> None:
    config = load_config("local", [f"run.name={text}", "rollout.stop=['#', \"\\n\", on, '\\${x}']"])
    assert load_config(yaml_of(tmp_path, to_yaml(config))) == config


def test_a_reference_in_a_value_is_one_and_can_be_written_plainly(tmp_path: Path) -> None:
    config = load_config("local", ["run.name=a", "run.dir=x/${run.name}", r"task.list_mark=\${run.name}"])
    assert (config.run.dir, config.task.list_mark) == ("x/a", "${run.name}")
    assert load_config(yaml_of(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("rollout.stop=[]", []),
        ("rollout.stop=null", None),
        ("rollout.stop=", None),
        ('rollout.stop=["\\n", ","]', ["\n", ","]),
        ("rollout.stop=['#', on, 1, 1_0]", ["#", "on", "1", "1_0"]),
        ("rollout.sync_tolerance=null", None),
        ("rollout.sync_tolerance=5e-6", 5e-6),
        ("run.steps=1_000", 1000),
        ("run.trace=on", True),
        ("run.trace=False", False),
        ("optim.lr=1e-4", 1e-4),
        ("run.sinks=[tensorboard,wandb]", ["tensorboard", "wandb"]),
    ],
)
def test_other_values_are_read_in_the_type_of_their_key(given: str, value: Any) -> None:
    assert values(load_config("local", [given]))[given.partition("=")[0]] == value


@pytest.mark.parametrize("key", ["run.dir", "run.mirror", "model.path", "eval.data"])
def test_a_leading_tilde_is_the_home_folder(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert values(load_config("local", [f"{key}=~/x"]))[key] == "/home/ada/x"
    assert values(load_config("local", [f"{key}=a~b"]))[key] == "a~b"
    with pytest.raises(UserError, match=f"^{key}=~nobody-of-that-name/x: "):
        load_config("local", [f"{key}=~nobody-of-that-name/x"])


def test_there_are_numbers_to_try() -> None:
    assert len(NUMBERS) > 50 and "optim.beta1" in NUMBERS and "rollout.sync_tolerance" in NUMBERS
    assert "policies.shared.adapter.rank" in NUMBERS


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_finite_and_in_its_range_or_refused_by_name(key: str) -> None:
    for given in GIVEN:
        try:
            value = values(merged(Config, [], [f"{key}={given}"]))[key]
        except UserError as e:
            assert str(e).startswith((f"{key}={given[:80]}:", f"{key}=")) or key in str(e), e
            assert "\n" not in str(e)
        else:
            assert value is None or (
                math.isfinite(value) and 0 <= value < (1e9 if isinstance(value, float) else 2**63)
            ), (key, given, value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("optim.beta1=1.5", "optim.beta1=1.5: must be less than 1"),
        ("optim.beta2=1", "optim.beta2=1: must be less than 1"),
        ("optim.weight_decay=-0.1", "optim.weight_decay=-0.1: must be 0 or more"),
        ("optim.lr=nan", "optim.lr=nan: must be a finite number"),
        ("algorithm.kl_beta=inf", "algorithm.kl_beta=inf: must be a finite number"),
        ("rollout.threads=-2", "rollout.threads=-2: must be 0 or more"),
        ("rollout.gpus_per_actor=1.5", "rollout.gpus_per_actor=1.5: must be a whole number where it is above 1"),
        ("guard.min_unique_rate=1.1", "guard.min_unique_rate=1.1: must be 1 or less"),
        ("baseline.epsilon=0", "baseline.epsilon=0: must be greater than 0"),
        ("run.name=", "run.name=: must not be empty"),
        ("run.trace=maybe", "run.trace=maybe: must be true or false"),
        ("run.steps=null", "run.steps=null: must be a whole number"),
        ("rollout.stop=#", "rollout.stop=#: must be a list such as [a,b]"),
        ("rollout.stop=[a", "override 'rollout.stop=[a': not readable as a list"),
        ("run={}", "run: unknown key in the command line"),
        ("task.options=3", "task.options=3: must be a mapping of names (given in the command line)"),
        ("task.options.tiers=[1", "override 'task.options.tiers=[1': not readable as a list"),
        ("task.option.tiers=1", "task.option.tiers: unknown key in the command line"),
        ("run.dir=${nope}", "run.dir: Interpolation key 'nope' not found (given in the command line)"),
        ("run.dir=${run.dir}", "run.dir: "),
        ("run.dir=a${", "run.dir: "),
        ("run.dir=a\0b", "run.dir=a\0b: must not hold a null character"),
    ],
)
def test_what_an_override_is_told(given: str, says: str) -> None:
    with pytest.raises(UserError) as e:
        load_config("local", [given])
    assert str(e.value).startswith(says) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run:\n  steps: [1\n", "mine.yaml, line 3, column 1: not readable as YAML: "),
        ("run:\n\tsteps: 1\n", "mine.yaml, line 2, column 1: not readable as YAML: "),
        (
            "run: {steps: 1}\nrun: {seed: 1}\n",
            "mine.yaml, line 2, column 1: not readable as YAML: 'run' stands here twice",
        ),
        ("run:\n  steps: 1\n  steps: 2\n", "line 3, column 3: not readable as YAML: 'steps' stands here twice"),
        ("run: {steps: *nobody}\n", "mine.yaml, line 1, column 14: not readable as YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "not readable as YAML: "),
        ("run: {steps: !!python/name:os.system x}\n", "line 1, column 14: not readable as YAML: could not determine"),
        ("run: {steps: !!int many}\n", "mine.yaml: not readable as YAML: "),
        ("run: 5\n", "run=5: is a section, which holds keys such as run.name (in "),
        ("optim: [1]\n", "optim=['1']: is a section, which holds keys such as optim.lr (in "),
        ("run: {steps: null}\n", "run.steps=null: must be a whole number (given in "),
        ("run: {steps: {a: 1}}\n", "run.steps={'a': '1'}: must be a whole number (given in "),
        ("run: {steps: [1]}\n", "run.steps=['1']: must be a whole number (given in "),
        ("rollout: {stop: {a: 1}}\n", "rollout.stop={'a': '1'}: must be a list such as [a,b] (given in "),
        ("defaults: {a: 1}\n", "defaults={'a': '1'}: give the names of configs"),
        ("defaults: [nobody]\n", "nobody.yaml: no such file"),
        ("run: {dir: '${nope}'}\n", "run.dir: Interpolation key 'nope' not found (given in "),
        ("just words\n", "mine.yaml: holds a str; a config is a mapping"),
        (b"run: {name: \xff\xfe}\n", "mine.yaml: not readable as YAML: "),
        (b"\x00\x01\x02", "mine.yaml: not readable as YAML: "),
    ],
)
def test_what_a_file_is_told(text: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        load_config(yaml_of(tmp_path, text))
    assert says in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["", "run:\n", "run: {}\noptim:\n", "# nothing\n", "run: ~\n", "defaults:\n"])
def test_an_empty_file_and_an_empty_section_change_nothing(text: str, tmp_path: Path) -> None:
    assert load_config(yaml_of(tmp_path, text)) == load_config("base", ["run.name=run"])


def test_anchors_and_merge_keys_are_yaml(tmp_path: Path) -> None:
    config = load_config(yaml_of(tmp_path, "rollout: &a {threads: 3}\nlearner: {<<: *a, workers: 2}\n"))
    assert (config.rollout.threads, config.learner.threads, config.learner.workers) == (3, 3, 2)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give a YAML file"):
        load_config(tmp_path)


OPTIONS = {
    "whole": 3,
    "share": 0.5,
    "yes": True,
    "nothing": None,
    "text": "a b",
    "list": [1, "x", [2.5]],
    "in": {"k": 7},
}


def test_options_of_a_domain_are_what_yaml_reads(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"defaults": ["base"], "task": {"options": OPTIONS}}))
    config = load_config(tmp_path / "own.yaml")
    assert config.task.options == OPTIONS and values(config)["task.options"] == OPTIONS
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
    changed = load_config(
        tmp_path / "own.yaml", ["task.options.whole=4", "task.options.list=[]", "task.options.new=on"]
    )
    assert changed.task.options == OPTIONS | {"whole": 4, "list": [], "new": True}
    assert load_config("base", ["task.options={a: 1, b: [x, 2]}"]).task.options == {"a": 1, "b": ["x", 2]}
    assert load_config("base").task.options == {}
