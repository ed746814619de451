"""The command line. Heavy imports wait inside the commands, so that `azero --help` is instant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import azero
from azero.errors import RunFailed, UserError
from azero.types import Role


def _writable(file: Path | None) -> Path | None:
    """Raises UserError where the file cannot be written when the work is done: it is tried before."""
    if file is None:
        return None
    is_new = not file.exists()
    try:
        file.open("a").close()
        if is_new:
            file.unlink()
    except OSError as e:
        raise UserError(f"{file}: cannot be written ({e.strerror}); give a file in a folder that is there") from None
    return file


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
# What typer raises for a wrong command line; it has no public name for the base class.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override config keys")]
JsonFile = Annotated[Path | None, typer.Option("--json", callback=_writable, help="write the result to this file")]


def _version(asked: bool) -> None:
    if asked:
        print(f"azero {azero.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="say which")] = False,
) -> None:
    """Train a language model by self-play with no data."""


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="a YAML file, the name of a shipped config, or a run directory")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run directory's newest checkpoint")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the resolved config and what it needs")] = False,
) -> int:
    """Run self-play training to its end."""
    from cluster import api

    resolved, console = api.load_config(config, overrides or []), api.plain_console()
    from cluster.commands import train

    if dry_run:
        return train.dry_run(resolved, config, overrides or [], resume, console)
    return train.show_outcome(api.train(resolved, resume), console)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="embedded, a model folder, a Hub id, a run directory or a checkpoint")],
    overrides: Overrides = None,
    data: Annotated[str, typer.Option(help="test, dev, a Hub id, or a parquet, csv, json, jsonl or arrow file")] = "",
    role: Annotated[Role, typer.Option(help="solver: accuracy; proposer: what it writes")] = Role.SOLVER,
    policy: Annotated[str, typer.Option(help="of several in a run; default: the solver's")] = "",
    config: Annotated[str, typer.Option(help="a config whose engine and protocol to use")] = "",
    json_file: JsonFile = None,
) -> int:
    """Greedy and sampled accuracy of a model, with intervals; or what it proposes."""
    from rich.console import Console

    from azero.evaluation.proposer import proposer_table
    from azero.evaluation.solver import table
    from cluster.commands.evaluate import evaluate_model, evaluate_proposer

    result: Any
    if role is Role.PROPOSER:
        if data:
            raise UserError(f"--data {data} with --role proposer: proposals have no evaluation set; leave it out")
        if policy:
            raise UserError(f"--policy {policy} with --role proposer: each role is played by its own; leave it out")
        result = evaluate_proposer(model, config, overrides or [])
        shown = proposer_table(result)
    else:
        result = evaluate_model(model, data, config, overrides or [], policy)
        shown = table(None, result)
    Console().print(shown)
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + "\n")
    return 0


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="a run directory or a checkpoint")],
    out: Annotated[str, typer.Argument(metavar="OUT_DIR", help="a folder that does not exist yet")],
    policy: Annotated[str, typer.Option(help="of several in a run; default: the solver's")] = "",
    merge: Annotated[bool, typer.Option("--merge", help="write an adapter and its base as one model")] = False,
) -> int:
    """Write a plain transformers folder, or an adapter's."""
    from cluster.commands.models import export_run

    print(f"wrote {export_run(source, out, policy, merge)}")
    return 0


@app.command()
def sweep(
    path: Annotated[str, typer.Argument(metavar="SWEEP_YAML", help="for example configs/experiments/controls.yaml")],
    overrides: Overrides = None,
    json_file: JsonFile = None,
) -> int:
    """Run the arms and seeds that are missing, then compare them."""
    from cluster.commands.sweep import run_sweep

    return run_sweep(path, overrides or [], json_file)


@app.command()
def report(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR...", help="run directories, or a sweep's")],
    out: Annotated[
        Path | None, typer.Option(callback=_writable, help="the file to write; default: report.html in the first one")
    ] = None,
) -> int:
    """Write one self-contained HTML file about runs, finished or going on."""
    from cluster.report.page import build

    print(f"wrote {build(run_dirs, out)}")
    return 0


@app.command()
def scale(
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="see docs/cluster.md")] = None,
    json_file: JsonFile = None,
) -> int:
    """Simulate many actors around the real control plane, and plan for a target."""
    from benchmarks.scale.plan import scale as run

    return run(options or [], json_file)


@app.command()
def doctor(
    config: Annotated[str, typer.Argument(help="a YAML file or a shipped config that is to run here")] = "",
    network: Annotated[bool, typer.Option("--network", help="also ask whether the Hugging Face Hub answers")] = False,
) -> int:
    """Say what this machine and cluster can run, what is missing and what to do."""
    from cluster.commands.doctor import main as run

    return run(network, config)


def main(argv: list[str] | None = None) -> int:
    """0 on success, 1 on a failed run, 2 on bad input (one line on stderr), 130 when stopped with a checkpoint."""
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "120")  # tables in a log need no wrapping to 80
    try:
        return int(app(args=argv, standalone_mode=False, prog_name="azero") or 0)
    except (typer.Abort, KeyboardInterrupt):
        return _say("stopped", 130)
    except USAGE_ERROR as e:
        return _say(f"{e.format_message()} See `azero --help`.", 2)  # type: ignore[attr-defined]
    except Exception as e:
        cause = getattr(e, "cause", None) or e  # Ray wraps what an actor raised
        if isinstance(cause, UserError | RunFailed):
            return _say(str(cause), 2 if isinstance(cause, UserError) else 1)
        return _say(_unforeseen(e), 1)


def _unforeseen(error: Exception) -> str:
    """A line for it; its traceback goes to a file, so that nobody has to read it who cannot use it."""
    import tempfile

    from cluster.supervise.failures import internal_error, write_traceback

    log = Path(tempfile.gettempdir()) / f"azero-{os.getpid()}.log"
    write_traceback(error, log)
    return internal_error(error, log)


def _say(message: str, status: int) -> int:
    print("azero: " + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
