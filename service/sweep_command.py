"""`espalier sweep` and `espalier compare`: one model, many prunings, one table.

In: the parsed arguments. Out: the table on stdout (or the whole report as JSON), with --out a folder with every file
that the job made, and an exit code: 0 done, 1 no point meets the constraints. What fails leaves as an `EspalierError`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from schemas.sweep import CompareRequest, SweepRequest, parse_comparison, parse_sweep
from schemas.sweep_report import SweepReport
from service.errand import UsageError, done, files_of, listed, reports_of
from service.options import document_of, value_of
from service.summary import sweep_table


def sweep(arguments: argparse.Namespace) -> int:
    """`espalier sweep`."""
    document = _document(arguments)
    for text in arguments.over:
        path, values = _listed(text, "--over")
        document.setdefault("over", {})[path] = values
    return _run(arguments, parse_sweep(document))


def compare(arguments: argparse.Namespace) -> int:
    """`espalier compare`."""
    document = _document(arguments)
    if arguments.criterion:
        named = [value_of(text) for text in arguments.criterion]
        document["criteria"] = [{"name": one} if isinstance(one, str) else one for one in named]
    if arguments.amount:
        wanted = [_listed(text, "--amount") for text in arguments.amount]
        document["amounts"] = [{kind: value} for kind, values in wanted for value in values]
    if arguments.surface:
        document.setdefault("surface", {})
    return _run(arguments, parse_comparison(document))


def _document(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options file, with what single arguments say laid over it."""
    document = document_of(arguments.options, [f"base.{text}" for text in arguments.set])
    for name in ("repeat", "keep"):
        value = getattr(arguments, name)
        document.update({} if value is None else {name: value})
    return document


def _listed(text: str, flag: str) -> tuple[str, Sequence[object]]:
    """`amount.remove_units=0.2,0.5`; the values may also be one JSON list."""
    path, equals, values = text.partition("=")
    if not path or not equals or not values:
        raise UsageError(f"{flag} takes NAME=VALUE,VALUE,..., for example remove_units=0.2,0.5; got {text!r}")
    whole = value_of(values)
    return path, whole if isinstance(whole, list) else [value_of(one.strip()) for one in values.split(",")]


def _run(arguments: argparse.Namespace, request: SweepRequest | CompareRequest) -> int:
    files = files_of(arguments)
    reports = reports_of(arguments, files)
    files.check_folder("--out", arguments.out)
    files.check_data(request)
    with done(request, files, arguments) as left:
        report = left.document(SweepReport)
        for path in reports:
            left.report(path)
        if arguments.out:
            left.everything(arguments.out)
    if arguments.json:
        print(report.model_dump_json(by_alias=True, indent=1))
    else:
        print(sweep_table(report))
        written = listed([*reports, arguments.out])
        print(f"\n{written} written" if written else "\n--out FOLDER keeps the files")
    return 0 if report.verdict.met else 1
