"""`azero export`: a policy of a run as a plain transformers folder, or as an adapter on its base."""

from __future__ import annotations

import shutil
from pathlib import Path

from azero.config import load_config
from azero.errors import UserError
from azero.models.adapters import base_of, is_adapter, merged
from azero.policies import one_policy
from azero.types import Role
from cluster.commands.models import Source, source_of
from cluster.records.rundir import config_of


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
    config_file = config_of(Path(source.name))
    name = source.policy(policy, load_config(config_file) if config_file else None, Role.SOLVER)
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
