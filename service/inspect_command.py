"""`espalier inspect`: what of a model could go, and what stays and why.

In: the parsed arguments. Out: a table on stdout, or the whole inspection as JSON; exit code 0. Nothing is removed and
no model is written. What fails leaves as an `EspalierError`.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from schemas.inspect_request import InspectRequest, parse_inspection
from schemas.inspection import Inspection
from service.client import Client
from service.local import run_local
from service.options import document_of
from service.progress import ProgressLine
from service.prune_command import existing, followed, locations
from service.summary import inspection_table


@dataclass(frozen=True)
class Look:
    """What one call is to do; every file is known to exist and every option to be valid."""

    request: InspectRequest
    model: Path
    calibration: Path | None
    external: dict[str, Path]


def inspect(arguments: argparse.Namespace) -> int:
    external = locations(arguments.external)
    existing(arguments.model, arguments.data, arguments.options, *external.values())
    request = parse_inspection(document_of(arguments.options, arguments.set))
    look = Look(request, arguments.model, arguments.data, external)
    progress = ProgressLine(sys.stderr)
    try:
        found = _local(look, arguments, progress) if arguments.local else _remote(look, arguments, progress)
    finally:
        progress.end()
    print(found.model_dump_json(by_alias=True, indent=1) if arguments.json else inspection_table(found))
    return 0


def _local(look: Look, arguments: argparse.Namespace, progress: ProgressLine) -> Inspection:
    with tempfile.TemporaryDirectory(prefix="espalier-") as name:
        run_local(
            look.request,
            model=look.model,
            calibration=look.calibration,
            evaluation=None,
            external=look.external,
            workdir=Path(name),
            threads=arguments.threads,
            trust_torchscript=arguments.trust_torchscript,
            on_progress=progress,
        )
        return Inspection.model_validate_json((Path(name) / "report.json").read_bytes())


def _remote(look: Look, arguments: argparse.Namespace, progress: ProgressLine) -> Inspection:
    with Client(arguments.server, arguments.api_key) as client:
        job = client.submit(look.model, look.request, calibration=look.calibration, external=look.external)
        return client.inspection(followed(client, job, arguments.server, progress).id)
