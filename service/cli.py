"""The `espalier` command.

In: arguments and the environment. Out: files, text and an exit code: 0 done, 1 a constraint was not met, 2 usage, 3 the
job (or the service) failed. A bare install has only httpx and pydantic: what needs more is imported when it is asked
for, and says which extra to install.
"""

import argparse
import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from schemas.errors import EspalierError, Failure
from service.client import DEFAULT_SERVER, Client
from service.extras import EMBEDDED, STATE, MissingExtraError, require
from service.fetch_command import fetch
from service.inspect_command import inspect
from service.prune_command import UsageError, prune
from service.summary import criteria_text, job_lines, targets_text
from service.sweep_command import compare, sweep

DONE, USAGE, FAILED, INTERRUPTED = 0, 2, 3, 130
# What service/auth.py reads; a bare install cannot import it.
KEY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
USAGE_CODES = ("options_invalid", "options_not_json", "calibration_required", "history_required")

EPILOG = "Exit codes: 0 done; 1 a constraint was not met; 2 usage; 3 the job or the service failed; 130 interrupted."


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser(os.environ).parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except (UsageError, MissingExtraError) as error:
        return _complain(f"espalier: {error}", USAGE)
    except EspalierError as error:
        return _complain(failure_text(error.failure), USAGE if error.code in USAGE_CODES else FAILED)
    except OSError as error:
        return _complain(f"espalier: {error}", FAILED)
    except KeyboardInterrupt:
        return _complain("espalier: interrupted", INTERRUPTED)


def _complain(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def failure_text(failure: Failure) -> str:
    """What, where, and what to try."""
    lines = [f"espalier: {failure.title} ({failure.code})"]
    lines += [f"  what:  {failure.detail}"] if failure.detail and not failure.errors else []
    lines += [f"  what:  {one.pointer or '/'}: {one.detail}" for one in failure.errors]
    lines += [f"  where: {failure.where}"] if failure.where else []
    lines += [f"  try:   {failure.hint}"] if failure.hint else []
    return "\n".join(lines)


def build_parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="espalier", description="Prunes neural networks to fit embedded devices.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"espalier {importlib.metadata.version('espalier')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_prune(commands, environ)
    _add_inspect(commands, environ)
    _add_sweep(commands, environ)
    _add_compare(commands, environ)
    _add_serve(commands)
    jobs = _command(commands, "jobs", list_jobs, "List your jobs, newest first.")
    jobs.add_argument("--limit", type=int, default=20, metavar="N", help="how many at most (default 20)")
    jobs.add_argument("--json", action="store_true", help="one JSON object for each line")
    cancel = _command(commands, "cancel", cancel_job, "Cancel a queued or running job.")
    cancel.add_argument("id", metavar="ID", help="the job's id, as `espalier jobs` shows it")
    fetched = _command(commands, "fetch", fetch, "Fetch the files that a job made.")
    fetched.add_argument("id", metavar="ID", help="the job's id")
    fetched.add_argument("names", nargs="*", metavar="NAME", help="which files, such as report.html (default: all)")
    fetched.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where to (default: here)")
    for command in (jobs, cancel, fetched):
        _add_server(command, environ)
    _command(commands, "criteria", list_criteria, "Explain the pruning criteria and their options.")
    _command(commands, "targets", list_targets, "List the devices that options.target knows.")
    rebuild = _command(
        commands,
        "rebuild-index",
        rebuild_index,
        "Restore a lost Redis from the manifests, queued jobs included.",
    )
    rebuild.add_argument("--home", type=Path, help="the home folder (default: ESPALIER_HOME, else .espalier)")
    keys = _command(commands, "keys", new_key, "Make an API key; only its hash goes into the keys file.")
    keys.add_argument("action", choices=["new"], help="`new` prints a key once, and the line for the keys file")
    keys.add_argument("name", metavar="NAME", help="whose key it is: the owner of the jobs it submits")
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about, epilog=EPILOG)
    parser.set_defaults(run=run)
    return parser


def _add_server(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    server = environ.get("ESPALIER_SERVER") or DEFAULT_SERVER
    parser.add_argument(
        "--server", default=server, metavar="URL", help=f"the service (ESPALIER_SERVER, else {DEFAULT_SERVER})"
    )
    key = environ.get("ESPALIER_API_KEY") or None
    parser.add_argument("--api-key", default=key, metavar="KEY", help="the API key (better: ESPALIER_API_KEY)")


def _add_prune(commands: Commands, environ: Mapping[str, str]) -> None:
    about = (
        "Prune one model. Uploads it to a service and waits, or works here with --local. Progress goes to stderr, a "
        "table of before and after to stdout. Ctrl-C cancels the job."
    )
    parser = _command(commands, "prune", prune, about)
    _add_model(parser)
    _add_judging(parser)
    parser.add_argument("--out", type=Path, metavar="PRUNED.onnx", help="the result (default: MODEL.pruned.onnx here)")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="also every file that the job made, by its own name")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    _add_place(parser, environ)


def _add_inspect(commands: Commands, environ: Mapping[str, str]) -> None:
    about = (
        "Say what of a model could go, and what stays and why. Nothing is removed. Needs data only where the model's "
        "inputs have open dimensions besides the batch that fit no usual size, and for TorchScript."
    )
    parser = _command(commands, "inspect", inspect, about)
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print the whole inspection as JSON instead of the table")
    _add_place(parser, environ)


def _add_sweep(commands: Commands, environ: Mapping[str, str]) -> None:
    about = (
        "Prune one model many times in one job, over the values of an option: a row and a place on the curve for "
        "each. --set gives options that all points share."
    )
    parser = _command(commands, "sweep", sweep, about)
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="PATH=V,V,...",
        help="an option and its values: amount.remove_units=0.2,0.5; repeatable: every combination",
    )
    _add_many(parser, environ)


def _add_compare(commands: Commands, environ: Mapping[str, str]) -> None:
    about = "Compare criteria on one model in one job, each at each amount, with `random` beside them."
    parser = _command(commands, "compare", compare, about)
    parser.add_argument(
        "--criterion",
        action="append",
        default=[],
        metavar="NAME|JSON",
        help='a criterion: magnitude, or {"name": "magnitude", "norm": "l1"}; repeatable',
    )
    parser.add_argument(
        "--amount",
        action="append",
        default=[],
        metavar="KIND=V,V,...",
        help="how much each removes: remove_units=0.25,0.5,0.75; repeatable",
    )
    parser.add_argument("--surface", action="store_true", help="also the error surface of the units that go first")
    _add_many(parser, environ)


def _add_many(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """What a sweep and a comparison have in common."""
    _add_model(parser)
    _add_judging(parser)
    parser.add_argument("--repeat", type=int, metavar="N", help="seeds for each point: mean and deviation (default 1)")
    parser.add_argument("--keep", choices=["all", "best", "none"], help="which models become files (default best)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="every file that the job made goes there")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON instead of the table")
    _add_place(parser, environ)


def _add_judging(parser: argparse.ArgumentParser) -> None:
    """What accuracies and criteria need beside calibration data, and where the report goes."""
    parser.add_argument(
        "--eval", type=Path, metavar="EVAL.npz", help="data to measure accuracy with (default: a share of --data)"
    )
    parser.add_argument(
        "--history", type=Path, metavar="HISTORY.npz", help="how training changed the weights, for criteria that ask"
    )
    parser.add_argument(
        "--report",
        type=Path,
        action="append",
        default=[],
        metavar="REPORT",
        help="the report, in the form that the suffix names: .json, .html or .md; repeatable",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    """The model, its data and the options."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="the model: ONNX, or TorchScript with --data")
    parser.add_argument("--data", type=Path, metavar="CAL.npz", help="calibration data: .npz, .npy or .csv")
    parser.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="LOC=FILE",
        help="a file of external data, by the location that the model names; repeatable",
    )
    parser.add_argument("--options", type=Path, metavar="OPTIONS.json", help="the options, as in the HTTP request")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="one option, after --options: criterion.angle_deg=20, amount.keep_macs=0.5; repeatable",
    )


def _add_place(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Where the work is done."""
    parser.add_argument("--local", action="store_true", help="work here, in a child process, without a service")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads for --local (default: all)")
    parser.add_argument(
        "--trust-torchscript",
        action="store_true",
        help="with --local: load a TorchScript model, which is a program, without confinement",
    )
    _add_server(parser, environ)


def _add_serve(commands: Commands) -> None:
    about = (
        "Start Redis, the API and one worker on this machine, and stop them together. Further settings come from "
        "ESPALIER_* variables (docs/settings.md). Ctrl-C stops; a second Ctrl-C does not wait for the running job."
    )
    parser = _command(commands, "serve", serve, about)
    parser.add_argument("--host", help="the address to bind to (default 127.0.0.1; others need API keys)")
    parser.add_argument("--port", help="the port to bind to (default 8000; 0 picks a free one)")
    parser.add_argument("--home", help="the folder for jobs, blobs and Redis' files (default .espalier)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="what the worker computes on (default cpu)")
    parser.add_argument("--api-keys-file", metavar="FILE", help="lines of `espalier keys new`; asks callers for a key")


def serve(arguments: argparse.Namespace) -> int:
    require("espalier serve", "embedded", EMBEDDED)
    from service.embedded import serve as run
    from state.settings import Settings

    given = {name: getattr(arguments, name) for name in ("host", "port", "home", "device", "api_keys_file")}
    chosen = {f"ESPALIER_{name.upper()}": value for name, value in given.items() if value is not None}
    return run(Settings.from_env({**os.environ, **chosen}), os.environ)


def list_jobs(arguments: argparse.Namespace) -> int:
    with Client(arguments.server, arguments.api_key) as client:
        page = client.jobs(limit=arguments.limit)
    lines = [job.model_dump_json(by_alias=True) for job in page.jobs] if arguments.json else job_lines(page.jobs)
    print("\n".join(lines))
    return DONE


def cancel_job(arguments: argparse.Namespace) -> int:
    with Client(arguments.server, arguments.api_key) as client:
        job = client.cancel(arguments.id)
    print(f"job {job.id} {'is being cancelled' if job.cancel_requested and not job.state.finished else job.state}")
    return DONE


def list_criteria(_: argparse.Namespace) -> int:
    print(criteria_text(min(shutil.get_terminal_size().columns, 100)))
    return DONE


def list_targets(_: argparse.Namespace) -> int:
    print(targets_text(min(shutil.get_terminal_size().columns, 100)))
    return DONE


def rebuild_index(arguments: argparse.Namespace) -> int:
    require("espalier rebuild-index", "service", STATE)
    from service.rebuild_command import rebuild

    print(rebuild(arguments.home, os.environ))
    return DONE


def new_key(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if not KEY_NAME.fullmatch(name):
        raise UsageError(f"a key's name is 1 to 64 letters, digits, '-', '_' and '.'; got {name!r}")
    key = f"esp_{secrets.token_urlsafe(32)}"
    print(f"key (shown once): {key}")
    print(f"keys file line:   {name}:{hashlib.sha256(key.encode()).hexdigest()}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
