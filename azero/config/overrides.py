"""A validated configuration from YAML files and key=value overrides, with one line for whatever does not fit.

OmegaConf merges the layers and resolves ${references}; pydantic validates what comes out. A scalar is text until its
key's type reads it: `run.name=on` is the name "on", `run.trace=on` is true.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from azero.errors import UserError, first_line

COMMAND_LINE = "the command line"
ANY = "*"  # in a dotted key: a name of the user's own
NULLS = ("null", "~", "")  # of a key that may be null
GONE = {  # key of an earlier version -> what says the same now
    "algorithm.name": "baseline.by=problem is GRPO's baseline, and task.source says whether proposals are trained",
}
MEANINGS = {  # pydantic's kind of error -> what it says here
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not so large",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "less_than": "must be less than {lt:g}",
    "too_short": "must not be empty",
    "dict_type": "must be a mapping of names",
    "list_type": "must be a list such as [a,b]",
}


class Section(BaseModel):
    """A part of a configuration. Unknown keys are refused; fields can be set, and are not checked again."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Words:
    """Marks a field that maps names to sections: each of these words stands for a whole mapping."""

    mappings: Mapping[str, Mapping[str, Any]]


C = TypeVar("C", bound=Section)
Layer = tuple[str, dict[str, Any]]  # where from, content


class _Text(yaml.SafeLoader):
    """Every scalar as it is written. A key that stands twice in one mapping is refused."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def typed(value: Any) -> Any:
    """Return the text of a mapping or list whose keys no schema knows as what YAML reads: a number, true, or null."""
    if isinstance(value, dict):
        return {key: typed(v) for key, v in value.items()}
    if isinstance(value, list):
        return [typed(v) for v in value]
    try:
        read = yaml.safe_load(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError):
        return value
    return read if isinstance(read, bool | int | float | NoneType) else value


def known_keys(schema: type[Section], prefix: str = "") -> dict[str, Any]:
    """Every leaf key in dotted form, with its type; ANY stands for the names of a mapping of sections."""
    keys: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        kind: Any = field.annotation
        if get_origin(kind) is dict and issubclass(get_args(kind)[1], Section):
            keys |= known_keys(get_args(kind)[1], f"{prefix}{name}.{ANY}.")
        elif isinstance(kind, type) and issubclass(kind, Section):
            keys |= known_keys(kind, f"{prefix}{name}.")
        else:
            keys[prefix + name] = kind
    return keys


def merged(schema: type[C], layers: Sequence[Layer], overrides: Sequence[str]) -> C:
    """A valid object: the schema's defaults, then the layers of `yaml_layers`, then overrides. Raises UserError."""
    keys, origins = known_keys(schema), dict[str, str]()
    words = {n: m.mappings for n, field in schema.model_fields.items() for m in field.metadata if isinstance(m, Words)}
    tree: Any = OmegaConf.create(schema().model_dump(mode="json"))
    for origin, layer in (*layers, *(_override(o, keys, words) for o in overrides)):
        spelt, whole = _spelt_out(layer, origin, words)
        given: list[str] = []
        known = _typed(spelt, origin, keys, given)
        origins.update(dict.fromkeys(given, origin))
        for name in whole:
            tree[name] = {}
        try:
            tree = OmegaConf.merge(tree, known)
        except OmegaConfBaseException as e:
            raise UserError(_no_reference(e, given[0] if len(given) == 1 else origin, origins)) from None
    try:
        content = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as e:
        raise UserError(_no_reference(e, "?", origins)) from None
    return validated(schema, content, origins)


def validated(schema: type[C], content: Any, origins: Mapping[str, str], prefix: str = "") -> C:
    """The object that the mapping describes. `origins`: where each key was given. Raises UserError.

    `prefix`: of the keys' whole names.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as e:
        raise UserError(_refusal(e, origins, prefix)) from None


def values(config: Section, prefix: str = "") -> dict[str, Any]:
    """Every leaf's value by its dotted key."""
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        inside = value if isinstance(value, dict) else {}
        for key, section in ({name: value} | {f"{name}.{own}": s for own, s in inside.items()}).items():
            if isinstance(section, Section):
                found |= values(section, f"{prefix}{key}.")
        if not isinstance(value, Section) and not any(isinstance(v, Section) for v in inside.values()):
            found[prefix + name] = value
    return found


def yaml_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """(where from, content) of a file and, before it, of those that its `defaults` name. Raises UserError."""
    path = _find(path)
    if path in seen:
        raise UserError(f"{path}: its defaults lead back to itself; remove one of them")
    layer = read_yaml(path)
    parents = layer.pop("defaults", None) or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(p, str) and p for p in parents):
        raise UserError(f"{path}: defaults={parents}: give the names of configs, as in `defaults: [base]`")
    below: list[Layer] = []
    for parent in parents:
        below += yaml_layers(path.parent / f"{parent.removesuffix('.yaml')}.yaml", (*seen, path))
    return [*below, (str(path), layer)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a file holds, scalars as they are written; empty for an empty file. Raises UserError."""
    try:
        content = yaml.load(path.read_bytes(), _Text)
    except yaml.MarkedYAMLError as e:
        mark, said = e.problem_mark or e.context_mark, " ".join((e.problem or e.context or "").split())
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise UserError(f"{place}: not readable as YAML: {said}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # no text, or a tag that its value does not fit
        raise UserError(f"{path}: not readable as YAML: {first_line(e)}") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    if not isinstance(content, dict | NoneType):
        raise UserError(f"{path}: holds a {type(content).__name__}; a config is a mapping of sections such as `run:`")
    return content or {}


def to_yaml(config: Section) -> str:
    """Return what `yaml_layers` reads as the same configuration."""
    return yaml.safe_dump(_escaped(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True, width=10**6)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, dict):
        return {k: _escaped(v) for k, v in value.items()}
    return [_escaped(v) for v in value] if isinstance(value, list) else value


def _find(path: Path) -> Path:
    """The file itself, or one of the configs that ship with the project."""
    shipped = Path(__file__).resolve().parents[2] / "configs"
    for candidate in (path.expanduser(), shipped / path, shipped / path.name, shipped / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate.resolve()
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    what = "is a folder" if path.is_dir() else "no such file"
    raise UserError(f"config {path}: {what}; give a YAML file or one of: {names}")


def _spelt_out(layer: dict[str, Any], origin: str, words: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the layer with mappings in place of words, names of mappings that it gives as a whole). Raises UserError.

    A word and a file give a mapping as a whole; key=value changes a part of it.
    """
    spelt, whole = dict(layer), []
    for name in words.keys() & layer.keys():
        value = layer[name]
        if isinstance(value, str) and value not in NULLS:
            if value not in words[name]:
                allowed = ", ".join(words[name])
                raise UserError(f"{name}={value}: must be one of {allowed}, or a mapping of names (in {origin})")
            spelt[name] = words[name][value]
            whole.append(name)
        elif isinstance(value, dict) and value and origin != COMMAND_LINE:
            whole.append(name)
    return spelt, whole


def _override(text: str, keys: Mapping[str, Any], words: Mapping[str, Any]) -> Layer:
    key, sep, value = text.partition("=")
    if not sep or not key:
        raise UserError(f"override {text!r}: give key=value, for example run.steps=20")
    inside = (k for name, k in keys.items() if get_origin(k) is dict and key.startswith(f"{name}."))
    kind = keys.get(_pattern(key, keys)) or next(inside, None)
    if kind is None and key not in words:
        raise UserError(_unknown(key, COMMAND_LINE, keys))
    content: Any = value
    if {list, dict}.intersection(get_origin(k) for k in (kind, *get_args(kind))) and value not in NULLS:
        try:
            read = yaml.load(value, _Text)
            content = value if read is None else read  # a comment alone
        except (yaml.YAMLError, ValueError) as e:
            said = getattr(e, "problem", None) or first_line(e)
            raise UserError(f"override {text!r}: not readable as a list such as [a,b] ({said})") from None
    for part in reversed(key.split(".")):
        content = {part: content}
    return COMMAND_LINE, content


def _typed(layer: Any, origin: str, keys: Mapping[str, Any], given: list[str], prefix: str = "") -> dict[str, Any]:
    """The layer with None for what stands for null; an empty section has no keys. Raises UserError for unknown ones.

    Every dotted key to which the layer gives something is appended to `given`.
    """
    found: dict[str, Any] = {}
    for name, value in layer.items():
        key = f"{prefix}{name}"
        pattern = _pattern(key, keys)
        if inside := [k for k in keys if k.startswith(f"{pattern}.")]:
            if not isinstance(value, dict) and value not in NULLS:
                raise UserError(f"{key}={value}: is a section, which holds keys such as {inside[0]} (in {origin})")
            found[name] = _typed(value, origin, keys, given, f"{key}.") if isinstance(value, dict) else {}
        elif pattern not in keys:
            inner = [f"{key}.{k}" for k in value] if isinstance(value, dict) and value else [key]
            raise UserError(_unknown(inner[0], origin, keys))
        else:
            null = NoneType in get_args(keys[pattern]) and isinstance(value, str) and value in NULLS
            found[name] = None if null else value
            given.append(key)
    return found


def _pattern(key: str, keys: Mapping[str, Any]) -> str:
    """The key as `keys` has it, with ANY for a name of the user's own."""
    path: list[str] = []
    for part in key.split("."):
        own = ".".join([*path, ANY, ""])
        path.append(ANY if any(k.startswith(own) for k in keys) else part)
    return ".".join(path)


def _unknown(key: str, origin: str, keys: Mapping[str, Any]) -> str:
    if key in GONE:
        return f"{key}: is gone (in {origin}); {GONE[key]}"
    tail = [k for k in keys if k.split(".")[-1] == key.split(".")[-1]]
    inside = [k for k in keys if k.startswith(f"{key}.")][:2]
    near = inside or tail or difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `azero train base --dry-run` for all keys"
    return f"{key}: unknown key in {origin}; {hint}"


def _refusal(e: ValidationError, origins: Mapping[str, str], prefix: str) -> str:
    """The first thing that is wrong: key, what was given, what is allowed, and where it was given."""
    error = e.errors(include_url=False)[0]
    key = prefix + ".".join(str(part) for part in error["loc"] if isinstance(part, str))
    said = MEANINGS.get(error["type"], "").format(**error.get("ctx", {})) or error["msg"].replace(
        "Input should", "must"
    )
    return f"{key}={str(error['input'])[:80]}: {said.removeprefix('Value error, ')}{_given_in(key, origins)}"


def _no_reference(e: OmegaConfBaseException, where: str, origins: Mapping[str, str]) -> str:
    """Return what is wrong with a ${reference}, `where` at least."""
    key = str(getattr(e, "full_key", None) or where)
    return f"{key}: {first_line(e)}{_given_in(key, origins)}; write \\${{ for a plain ${{"


def _given_in(key: str, origins: Mapping[str, str]) -> str:
    return f" (given in {origins[key]})" if key in origins else ""
