"""A dataclass from YAML files and key=value overrides, with one line for whatever does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from azero.errors import UserError

T = TypeVar("T")


def known_keys(cls: Any, prefix: str = "") -> list[str]:
    """Every leaf key in dotted form."""
    keys: list[str] = []
    for f in fields(cls):
        default = f.default_factory() if callable(f.default_factory) else None
        if is_dataclass(default):
            keys += known_keys(type(default), f"{prefix}{f.name}.")
        else:
            keys.append(prefix + f.name)
    return keys


def merged(schema: type[T], layers: Sequence[tuple[str, DictConfig]], overrides: Sequence[str]) -> T:
    """An object of the schema: its defaults, then the layers of `yaml_layers`, then overrides. Raises UserError."""
    keys = known_keys(schema)
    tree = OmegaConf.structured(schema)
    for origin, layer in (*layers, *(_override(o, keys) for o in overrides)):
        _refuse_unknown(layer, origin, keys)
        try:
            tree = OmegaConf.merge(tree, layer)
        except OmegaConfBaseException as e:
            raise UserError(_type_error(e, origin)) from None
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as e:
        raise UserError(_type_error(e, layers[-1][0] if layers else "the command line")) from None
    assert isinstance(config, schema)
    return config


def yaml_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[str, DictConfig]]:
    """(where from, content) of a file and, before it, of those that its `defaults` name. Raises UserError."""
    path = _find(path)
    if path in seen:
        raise UserError(f"{path}: its defaults lead back to itself; remove one of them")
    try:
        layer = OmegaConf.load(path)
    except Exception as e:  # yaml raises many kinds
        raise UserError(f"{path}: not readable as YAML: {str(e).splitlines()[0]}") from None
    if not isinstance(layer, DictConfig):
        raise UserError(f"{path}: holds a {type(layer).__name__}; a config is a mapping of sections such as `run:`")
    parents = layer.pop("defaults", [])
    if isinstance(parents, str):
        parents = [parents]
    below: list[tuple[str, DictConfig]] = []
    for parent in parents:
        below += yaml_layers(path.parent / f"{parent}.yaml", (*seen, path))
    return [*below, (str(path), layer)]


def _find(path: Path) -> Path:
    """The file itself, or one of the configs that ship with the project."""
    shipped = Path(__file__).resolve().parent.parent / "configs"
    for candidate in (path, shipped / path, shipped / path.name, shipped / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate.resolve()
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    raise UserError(f"config {path}: no such file; give a YAML file or one of: {names}")


def _override(text: str, keys: Sequence[str]) -> tuple[str, DictConfig]:
    key, sep, _ = text.partition("=")
    if not sep or not key:
        raise UserError(f"override {text!r}: give key=value, for example run.steps=20")
    if key not in keys:
        raise UserError(_unknown(key, "the command line", keys))
    try:
        return f"{text}", OmegaConf.from_dotlist([text])
    except Exception as e:
        raise UserError(f"override {text!r}: {str(e).splitlines()[0]}") from None


def _refuse_unknown(layer: DictConfig, origin: str, keys: Sequence[str]) -> None:
    for key in _leaves(layer):
        if key not in keys:
            raise UserError(_unknown(key, origin, keys))


def _leaves(layer: Any, prefix: str = "") -> list[str]:
    out: list[str] = []
    for name in layer:
        node = layer._get_node(name)
        if isinstance(node, DictConfig):
            out += _leaves(node, f"{prefix}{name}.")
        else:
            out.append(f"{prefix}{name}")
    return out


def _unknown(key: str, origin: str, keys: Sequence[str]) -> str:
    tail = [k for k in keys if k.split(".")[-1] == key.split(".")[-1]]
    near = tail or difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `azero train base --dry-run` for all keys"
    return f"{key}: unknown key in {origin}; {hint}"


def _type_error(e: OmegaConfBaseException, origin: str) -> str:
    key = getattr(e, "full_key", None) or "?"
    return f"{key}: {str(e.msg or e).splitlines()[0]} (given in {origin})"
