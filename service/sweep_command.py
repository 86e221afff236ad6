"""`espalier sweep` and `espalier compare`: one model, many prunings, one table.

In: the parsed arguments. Out: the table on stdout (or the whole report as JSON), with --out a folder with every file
that the job made, and an exit code: 0 done, 1 no point meets the constraints. What fails leaves as an `EspalierError`.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import EspalierError
from schemas.sweep import CompareRequest, SweepRequest, parse_comparison, parse_sweep
from schemas.sweep_report import SweepReport
from service.client import Client
from service.fetch_command import copy, copy_all, fetch_all
from service.files import replacing
from service.local import run_local
from service.options import document_of, value_of
from service.progress import ProgressLine
from service.prune_command import KINDS, UsageError, existing, followed, locations
from service.summary import sweep_table


@dataclass(frozen=True)
class Trial:
    """What one call is to do; every file is known to exist and every option to be valid."""

    request: SweepRequest | CompareRequest
    model: Path
    calibration: Path | None
    evaluation: Path | None
    history: Path | None
    external: Mapping[str, Path]
    out: Path | None
    reports: tuple[Path, ...]


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
    trial = _trial(arguments, request)
    progress = ProgressLine(sys.stderr)
    try:
        report = _local(trial, arguments, progress) if arguments.local else _remote(trial, arguments, progress)
    finally:
        progress.end()
    if arguments.json:
        print(report.model_dump_json(by_alias=True, indent=1))
    else:
        print(sweep_table(report))
        written = [*trial.reports, *([trial.out] if trial.out else [])]
        print(f"\n{', '.join(map(str, written))} written" if written else "\n--out FOLDER keeps the files")
    return 0 if report.verdict.met else 1


def _trial(arguments: argparse.Namespace, request: SweepRequest | CompareRequest) -> Trial:
    external = locations(arguments.external)
    given = (arguments.model, arguments.data, arguments.eval, arguments.history, *external.values())
    existing(*given, arguments.options)
    read = {path.resolve() for path in given if path}
    for path in arguments.report:
        if path.suffix.lower() not in KINDS:
            raise UsageError(f"--report {path}: the suffix chooses the form; use .json, .html or .md")
        if path.resolve() in read:
            raise UsageError(f"{path} would be overwritten, and it is read as an input; write somewhere else")
    if arguments.out and arguments.out.resolve() in {path.parent for path in read}:
        raise UsageError(f"--out {arguments.out}: an input lies there, and might be overwritten; name another folder")
    if request.needs_data() and arguments.data is None:
        raise EspalierError("calibration_required", "add --data CAL.npz", where="--data")
    if request.needs_history() and arguments.history is None:
        raise EspalierError("history_required", "add --history HISTORY.npz", where="--history")
    model, data, evaluation, history, *_ = given
    return Trial(request, model, data, evaluation, history, external, arguments.out, tuple(arguments.report))


def _local(trial: Trial, arguments: argparse.Namespace, progress: ProgressLine) -> SweepReport:
    with tempfile.TemporaryDirectory(prefix="espalier-") as name:
        folder = Path(name)
        run_local(
            trial.request,
            model=trial.model,
            calibration=trial.calibration,
            evaluation=trial.evaluation,
            history=trial.history,
            external=trial.external,
            workdir=folder,
            threads=arguments.threads,
            trust_torchscript=arguments.trust_torchscript,
            on_progress=progress,
        )
        for path in trial.reports:
            copy(folder / f"report.{KINDS[path.suffix.lower()]}", path)
        if trial.out:
            copy_all(folder, trial.out)
        return SweepReport.model_validate_json((folder / "report.json").read_bytes())


def _remote(trial: Trial, arguments: argparse.Namespace, progress: ProgressLine) -> SweepReport:
    with Client(arguments.server, arguments.api_key) as client:
        job = client.submit(
            trial.model,
            trial.request,
            calibration=trial.calibration,
            evaluation=trial.evaluation,
            history=trial.history,
            external=trial.external,
        )
        job = followed(client, job, arguments.server, progress)
        for path in trial.reports:
            with replacing(path) as file:
                file.write(client.report_document(job.id, KINDS[path.suffix.lower()]))
        if trial.out:
            fetch_all(client, job.id, trial.out)
        return client.sweep_report(job.id)
