"""From a name to a model: a run directory, a checkpoint, a folder, a Hub id; and which of a checkpoint's policies.

`azero export` writes a policy as a plain transformers folder, or as an adapter on its base.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from azero.config import Config, load_config
from azero.engine import Engine
from azero.errors import UserError
from azero.models.adapters import adapter_config, base_of, is_adapter, merged, read_adapter, scaled
from azero.models.gguf import is_gguf
from azero.models.loading import SHIPPED, resolve_model_path
from azero.policies import Policies, Policy, one_policy, policies_of
from azero.types import ROLES, Role, WeightVersion
from cluster.records.rundir import CHECKPOINTS, RunDirectory, config_of, is_run
from learner.checkpoint import Checkpoint

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Holds what a name stands for: a checkpoint with its policies, or a plain model."""

    name: str  # as it was given
    model: str = ""  # folder, .gguf file or Hub id of a plain model
    checkpoint: Checkpoint | None = None

    def run_config(self, overrides: Sequence[str] = ()) -> Config | None:
        """That of the run that this is, or that this checkpoint is in; None for anything else."""
        file = config_of(Path(self.name))
        return load_config(file, overrides) if file else None

    def policies(self, config: Config | None, names: Collection[str] | None = None) -> Policies:
        """Those of a checkpoint that are named, or all, with its weights, but for adapters, which `load` puts on their
        base; or the plain model. `config`: the run's, where it is known; it says who plays what, and where a base is.
        """
        if not self.checkpoint:
            return one_policy(resolve_model_path(self.model))
        known = {p.name: p for p in policies_of(config, lambda name: name).all} if config else {}
        chosen = [n for n in self.checkpoint.policies if names is None or n in names]
        return Policies(tuple(_policy(self.checkpoint, n, known.get(n)) for n in chosen))

    def policy(self, name: str, config: Config | None) -> str:
        """The policy that is meant: the one named, or else the one that plays the solver. Raises UserError."""
        names = self.checkpoint.policies if self.checkpoint else []
        if name and name not in names:
            nameless = "it is one model, which has no name; leave it out"
            has = f"its policies are {', '.join(names)}" if names else nameless
            raise UserError(f"--policy {name}: {self.name} has no such policy; {has}")
        if name or not names:
            return name
        players = [n for n, p in config.policies.items() if Role.SOLVER in p.roles] if config else []
        chosen = [n for n in (*players, Role.SOLVER.value) if n in names] or (names if len(names) == 1 else [])
        if not chosen:
            raise UserError(f"{self.name}: which of its policies plays the solver is not known here; give --policy")
        return chosen[0]


def source_of(name: str) -> Source:
    """Raises UserError for a folder without a model, and for a path to nothing."""
    path = Path(name).expanduser()
    if name in SHIPPED or is_gguf(name):
        return Source(name=name, model=name)
    if path.is_dir():
        return _in_folder(name, path)
    if path.exists():
        raise UserError(f"{name}: is a file; give a run directory, a checkpoint or a model folder, or a Hub id")
    beside = sorted(p.name for p in path.parent.glob("*") if is_run(p)) if path.parent != Path() else []
    if not HUB_ID.fullmatch(name) or beside:
        hint = f"; runs in {path.parent}: {', '.join(beside)}" if beside else ""
        raise UserError(f"{name}: no such folder{hint or '; give a run directory, a checkpoint or a model folder'}")
    return Source(name=name, model=name)


def _in_folder(name: str, path: Path) -> Source:
    if (path / "config.json").is_file():
        return Source(name=name, model=str(path))
    if (path / CHECKPOINTS).is_dir() or is_run(path):
        newest = RunDirectory(path).latest_checkpoint()
        if newest is None:
            raise UserError(f"{path}: holds no whole checkpoint yet; see run.checkpoint_every")
        return Source(name=name, checkpoint=newest)
    if not Checkpoint(path).policies:
        raise UserError(f"{path}: holds no model (config.json), checkpoint (policies/) or run (checkpoints/)")
    return Source(name=name, checkpoint=Checkpoint(path))


def _policy(checkpoint: Checkpoint, name: str, known: Policy | None) -> Policy:
    roles = known.roles if known else tuple(role for role in ROLES if role == name) or ROLES
    folder = checkpoint.adapter(name)
    if not is_adapter(folder):
        return Policy(name=name, roles=roles, model=str(checkpoint.model(name)))
    base = resolve_model_path(known.model if known else base_of(folder))
    return Policy(name=name, roles=roles, model=base, adapter=adapter_config(folder))


def load(engine: Engine, policies: Sequence[Policy], checkpoint: Checkpoint) -> None:
    """Have an engine hold the policies as the checkpoint has them."""
    from safetensors.torch import load_file

    version = WeightVersion(lineage=0, step=checkpoint.step)
    for policy in policies:
        if policy.adapter:
            weights = scaled(read_adapter(checkpoint.adapter(policy.name)), policy.adapter)
        else:
            weights = load_file(checkpoint.model(policy.name) / "model.safetensors")
        engine.load(version, weights, policy.name)


def export_run(source: str, out: str, policy: str = "", merge: bool = False) -> Path:
    """Write a policy of a run or a checkpoint, or copy a model folder, to `out`, whole or not at all; returns `out`.

    `policy`: by default the solver's. An adapter is written as one, for use on its base, and with `merge` as the model
    that the two make. Raises UserError if the source holds no such model, or if `out` is there and not an empty folder.
    """
    if not Path(source).expanduser().is_dir():
        raise UserError(f"{source}: no such folder; give a run directory or one of its checkpoints")
    folder, target = _folder(source_of(source), policy), Path(out).expanduser().absolute()
    if merge and not is_adapter(folder):
        raise UserError(f"--merge: {source} holds weights of its own and no adapter; leave it out")
    if target.resolve().is_relative_to(folder):
        raise UserError(f"{out}: lies inside the model {folder}; give a folder elsewhere")
    aside = target.with_name(f".{target.name}.tmp")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{out}: exists already; give a new or an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        if merge:
            _write_merged(folder, aside)
        else:
            shutil.copytree(folder, aside)
        aside.rename(target)
    except (OSError, shutil.Error) as e:
        raise UserError(f"{out}: cannot be written ({getattr(e, 'strerror', None) or 'copy failed'})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Path(out)


def _folder(source: Source, policy: str) -> Path:
    name = source.policy(policy, source.run_config())
    if not source.checkpoint:
        return Path(source.model).resolve()
    adapter = source.checkpoint.adapter(name)
    return (adapter if is_adapter(adapter) else source.checkpoint.model(name)).resolve()


def _write_merged(folder: Path, out: Path) -> None:
    """Write the model that an adapter and its base make, as a checkpoint writes one."""
    from azero.models.loading import generation_file, load_tokenizer
    from azero.models.weights import owned_state
    from learner.saving import ModelFiles, write_model

    base, model = base_of(folder), merged(folder)
    (policy,) = one_policy(base).all
    files = ModelFiles(policy=policy, model=model, tokenizer=load_tokenizer(base), generation=generation_file(base))
    write_model(out, owned_state(model), files)
