"""`espalier prune`: one model in, one smaller model and its report out.

In: the parsed arguments. Out: files, a table on stdout (or one JSON object), and an exit code: 0 done, 1 a constraint
was not met. What fails leaves as an `EspalierError`, and no file is left half written.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from schemas.report import Report
from schemas.request import PruneRequest
from service.errand import Files, done, files_of, listed, reports_of
from service.options import gather
from service.summary import report_table


@dataclass(frozen=True)
class Task:
    """What one call is to do; every file is known to exist and every option to be valid."""

    request: PruneRequest
    files: Files
    out: Path
    reports: tuple[Path, ...]
    everything: Path | None


def task_of(arguments: argparse.Namespace) -> Task:
    """The arguments, checked before anything is uploaded or started."""
    files = files_of(arguments)
    out = arguments.out or Path(f"{arguments.model.stem}.pruned.onnx")
    reports = reports_of(arguments, files)
    files.check_output(out)
    files.check_folder("--all", arguments.all)
    request = gather(arguments.options, arguments.set)
    files.check_data(request)
    return Task(request, files, out, reports, arguments.all)


def prune(arguments: argparse.Namespace) -> int:
    task = task_of(arguments)
    with done(task.request, task.files, arguments) as left:
        report = left.document(Report)
        for path in task.reports:
            left.report(path)
        left.artifact(task.out)
        if task.everything:
            left.everything(task.everything)
    if arguments.json:
        print(json.dumps(_answer(task, report)))
    else:
        print(report_table(report))
        weights = [task.out.parent / name for name in report.provenance.artifact_external_sha256]
        print(f"\n{listed([task.out, *weights, *task.reports, task.everything])} written")
    return 0 if report.verdict.met else 1


def _answer(task: Task, report: Report) -> dict[str, object]:
    wanted = {"verdict", "before", "after", "exactness", "warnings"}
    files = {"out": str(task.out), "reports": [str(path) for path in task.reports]}
    return {**files, **report.model_dump(mode="json", include=wanted)}
