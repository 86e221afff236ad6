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

from schemas.errors import EspalierError, Failure
from service.arguments import EPILOG, Commands, add_compare, add_inspect, add_prune, add_server, add_sweep, command
from service.client import Client
from service.errand import UsageError
from service.extras import EMBEDDED, STATE, MissingExtraError, require
from service.fetch_command import fetch
from service.summary import criteria_text, job_lines, targets_text

DONE, USAGE, FAILED, INTERRUPTED = 0, 2, 3, 130
NOBODY_READS = 141  # as a shell counts a process that SIGPIPE ended
# What service/auth.py reads; a bare install cannot import it.
KEY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
USAGE_CODES = ("options_invalid", "options_not_json", "calibration_required", "history_required")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser(os.environ).parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except (UsageError, MissingExtraError) as error:
        return _complain(f"espalier: {error}", USAGE)
    except EspalierError as error:
        return _complain(failure_text(error.failure), USAGE if error.code in USAGE_CODES else FAILED)
    except BrokenPipeError:  # `espalier criteria | head`: who reads us has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held has nowhere to go
        return NOBODY_READS
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
    add_prune(commands, environ)
    add_inspect(commands, environ)
    add_sweep(commands, environ)
    add_compare(commands, environ)
    _add_serve(commands)
    jobs = command(commands, "jobs", list_jobs, "List your jobs, newest first.")
    jobs.add_argument("--limit", type=int, default=20, metavar="N", help="how many at most (default 20)")
    jobs.add_argument("--json", action="store_true", help="one JSON object for each line")
    cancel = command(commands, "cancel", cancel_job, "Cancel a queued or running job.")
    cancel.add_argument("id", metavar="ID", help="the job's id, as `espalier jobs` shows it")
    fetched = command(commands, "fetch", fetch, "Fetch the files that a job made.")
    fetched.add_argument("id", metavar="ID", help="the job's id")
    fetched.add_argument("names", nargs="*", metavar="NAME", help="which files, such as report.html (default: all)")
    fetched.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where to (default: here)")
    for one in (jobs, cancel, fetched):
        add_server(one, environ)
    command(commands, "criteria", list_criteria, "Explain the pruning criteria and their options.")
    command(commands, "targets", list_targets, "List the devices that options.target knows.")
    rebuild = command(
        commands,
        "rebuild-index",
        rebuild_index,
        "Restore a lost Redis from the manifests, queued jobs included.",
    )
    rebuild.add_argument("--home", type=Path, help="the home folder (default: ESPALIER_HOME, else .espalier)")
    keys = command(commands, "keys", new_key, "Make an API key; only its hash goes into the keys file.")
    keys.add_argument("action", choices=["new"], help="`new` prints a key once, and the line for the keys file")
    keys.add_argument("name", metavar="NAME", help="whose key it is: the owner of the jobs it submits")
    return parser


def _add_serve(commands: Commands) -> None:
    about = (
        "Start Redis, the API and one worker on this machine, and stop them together. Further settings come from "
        "ESPALIER_* variables (docs/settings.md). Ctrl-C stops; a second Ctrl-C does not wait for the running job."
    )
    parser = command(commands, "serve", serve, about)
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
