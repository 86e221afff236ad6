"""What the commands that work on a model take: one function for each command, and the groups of arguments they share.

In: the parser's table of commands and the environment. Out: a parser for each, which names what runs.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from service.client import DEFAULT_SERVER
from service.inspect_command import inspect
from service.prune_command import prune
from service.sweep_command import compare, sweep

EPILOG = (
    "Exit codes: 0 done; 1 a constraint was not met; 2 usage; 3 the job or the service "
    "failed, or nothing meets the constraints; 130 interrupted."
)

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about, epilog=EPILOG)
    parser.set_defaults(run=run)
    return parser


def add_server(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    server = environ.get("ESPALIER_SERVER") or DEFAULT_SERVER
    parser.add_argument(
        "--server", default=server, metavar="URL", help=f"the service (ESPALIER_SERVER, else {DEFAULT_SERVER})"
    )
    key = environ.get("ESPALIER_API_KEY") or None
    parser.add_argument("--api-key", default=key, metavar="KEY", help="the API key (better: ESPALIER_API_KEY)")


def add_prune(commands: Commands, environ: Mapping[str, str]) -> None:
    about = (
        "Prune one model. Uploads it to a service and waits, or works here with --local. Progress goes to stderr, a "
        "table of before and after to stdout. Ctrl-C cancels the job."
    )
    parser = command(commands, "prune", prune, about)
    _add_model(parser)
    _add_judging(parser)
    parser.add_argument("--out", type=Path, metavar="PRUNED.onnx", help="the result (default: MODEL.pruned.onnx here)")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="also every file that the job made, by its own name")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    _add_place(parser, environ)


def add_inspect(commands: Commands, environ: Mapping[str, str]) -> None:
    about = (
        "Say what of a model could go, and what stays and why. Nothing is removed. Needs data only where the model's "
        "inputs have open dimensions besides the batch that fit no usual size, and for TorchScript."
    )
    parser = command(commands, "inspect", inspect, about)
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print the whole inspection as JSON instead of the table")
    _add_place(parser, environ)


def add_sweep(commands: Commands, environ: Mapping[str, str]) -> None:
    about = (
        "Prune one model many times in one job, over the values of an option: a row and a place on the curve for "
        "each. --set gives options that all points share."
    )
    parser = command(commands, "sweep", sweep, about)
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="PATH=V,V,...",
        help="an option and its values: amount.remove_units=0.2,0.5; repeatable: every combination",
    )
    _add_many(parser, environ)


def add_compare(commands: Commands, environ: Mapping[str, str]) -> None:
    about = "Compare criteria on one model in one job, each at each amount, with `random` beside them."
    parser = command(commands, "compare", compare, about)
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
    add_server(parser, environ)
