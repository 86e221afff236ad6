"""A real API for the client and the commands, and the folder of one real pruning."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas.job import BlobRef, JobResult, JobState, Progress, ResultManifest, Verdict
from service.client import ReportKind
from state.settings import Settings
from tests.service.conftest import Api, running

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Starts an API with some settings changed; all are stopped with the test."""
    with ExitStack() as stack:

        def go(**changed: object) -> Api:
            given = {"redis_url": redis_url, "home": tmp_path / "home", "port": 0, **changed}
            return stack.enter_context(running(Settings.model_validate(given)))

        yield go


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    return serve()


@dataclass(frozen=True)
class Example:
    """What examples/digits.py leaves."""

    model: Path
    calibration: Path
    evaluation: Path


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("digits")
    script = ROOT / "examples/digits.py"
    subprocess.run([sys.executable, "-W", "error", str(script), "--out", str(folder)], check=True, capture_output=True)
    return Example(folder / "digits.onnx", folder / "calibration.npz", folder / "evaluation.npz")


@dataclass(frozen=True)
class Finished:
    """The four files of one real job, and what else it is to have made."""

    artifact: bytes
    reports: Mapping[ReportKind, bytes]
    further: Mapping[str, bytes] = field(default_factory=dict)


@pytest.fixture(scope="session")
def finished(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "worker.engine", "--model", str(example.model), "--workdir", str(folder)]
    command += ["--calibration", str(example.calibration), "--evaluation", str(example.evaluation)]
    subprocess.run(command, check=True, capture_output=True)
    reports: dict[ReportKind, bytes] = {
        "json": (folder / "report.json").read_bytes(),
        "html": (folder / "report.html").read_bytes(),
        "md": (folder / "report.md").read_bytes(),
    }
    return Finished((folder / "artifact.onnx").read_bytes(), reports)


def deliver(api: Api, job_id: str, files: Finished) -> None:
    """What a worker does with a job: claim it, say how far it is, store the files, finish it."""
    claim = api.service.jobs.claim(job_id, "worker", lease_seconds=60)
    assert claim is not None
    progress = Progress(stage="observe", fraction=0.5, message="half")
    assert "held" == api.service.jobs.renew(job_id, claim.attempt, lease_seconds=60, progress=progress)
    kept = {name: keep(api, data) for name, data in {"artifact": files.artifact, **files.reports}.items()}
    result = JobResult(
        artifact=kept["artifact"],
        report_json=kept["json"],
        report_html=kept["html"],
        report_md=kept["md"],
        files=tuple(keep(api, data).model_copy(update={"name": name}) for name, data in files.further.items()),
        verdict=Verdict(met=True),
    )
    manifest = ResultManifest(
        id=job_id, attempt=claim.attempt, finished_at=1.0, state=JobState.SUCCEEDED, result=result
    )
    assert api.service.jobs.finish(manifest)[0]


def keep(api: Api, data: bytes) -> BlobRef:
    with api.service.blobs.writer() as writer:
        writer.write(data)
        blob, size = writer.commit()
    return BlobRef(blob=blob, bytes=size)
