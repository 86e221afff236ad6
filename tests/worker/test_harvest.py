"""What a sweep left in its work folder, checked by the worker."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import EspalierError
from schemas.job import Verdict
from schemas.report import Report
from schemas.request import PruneRequest
from schemas.sweep import parse_sweep
from schemas.sweep_report import SweepPoint, SweepReport, SweepSource
from tests.worker.jobs import report
from worker.harvest import Harvest, harvest

MODEL = b"a model"


def folder_of_a_sweep(folder: Path) -> None:
    one: Report = report("")
    point = SweepPoint(
        number=1,
        label="",
        series="",
        options=PruneRequest(),
        runs=(),
        meets=True,
        artifact="point-01.onnx",
        artifact_sha256=hashlib.sha256(MODEL).hexdigest(),
    )
    many = SweepReport(
        kind="sweep",
        options=parse_sweep({"over": {"criterion.angle_deg": [20]}}),
        verdict=Verdict(met=False, broken=("too large",)),
        before=one.before,
        points=(point,),
        best=None,
        best_because="",
        data=one.data,
        timings=(),
        source=SweepSource(
            model_sha256="", calibration_sha256=None, evaluation_sha256=None, device="cpu", threads=1, versions={}
        ),
    )
    (folder / "report.json").write_text(many.model_dump_json(by_alias=True))
    (folder / "report.html").write_text("page")
    (folder / "report.md").write_text("text")
    (folder / "point-01.onnx").write_bytes(MODEL)
    (folder / "files.json").write_text(json.dumps({"files": ["point-01.onnx"]}))


def gathered(folder: Path) -> Harvest:
    return harvest(folder, "sweep", model_name="net.onnx", most_bytes=1000)


def test_a_sweep_has_no_artifact_but_models_by_their_names(tmp_path: Path) -> None:
    folder_of_a_sweep(tmp_path)
    found = gathered(tmp_path)
    assert (None, False) == (found.result.artifact, found.result.verdict.met)
    assert ["report.json", "report.html", "report.md", "point-01.onnx"] == list(found.files)
    assert len(MODEL) == found.result.named()["point-01.onnx"].bytes


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda folder: (folder / "point-01.onnx").write_bytes(b"another"), "another file point-01.onnx"),
        (lambda folder: (folder / "files.json").unlink(), "another file point-01.onnx"),
        (lambda folder: (folder / "files.json").write_text("[]"), "Input should be an object"),
        (lambda folder: (folder / "point-01.onnx").write_bytes(b"x" * 1001), "1 to 1000 are right"),
        (
            lambda folder: (folder / "report.json").write_text(report("").model_dump_json(by_alias=True)),
            "schema_version",
        ),
    ],
)
def test_models_that_the_report_does_not_speak_of_are_refused(
    tmp_path: Path, spoil: Callable[[Path], object], word: str
) -> None:
    folder_of_a_sweep(tmp_path)
    spoil(tmp_path)
    with pytest.raises(EspalierError, match="artifact_rejected") as refusal:
        gathered(tmp_path)
    assert word in refusal.value.failure.detail
