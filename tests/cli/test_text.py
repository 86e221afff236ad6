"""What people see: progress, tables, files that appear whole."""

import io
from pathlib import Path

import pytest

from schemas.device import TARGETS, Compiled, CompiledFigures, Devices, Fit, OperatorSupport, TargetFit
from schemas.errors import EspalierError
from schemas.job import Progress
from schemas.report import FinishingStep, SearchReport, Stored
from schemas.request import parse_options
from service.files import replacing
from service.progress import ProgressLine
from service.summary import criteria_text, report_table, targets_text
from tests.worker.jobs import report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [
    Progress(stage="load", fraction=0.0, message="reading"),
    Progress(stage="observe", fraction=0.5, message="10 of 20"),
    Progress(stage="observe", fraction=0.6, message="12 of 20"),
]


def test_a_log_gets_one_line_for_each_stage() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for step in STEPS:
        line(step)
    line.end()
    assert "  0% load: reading\n 50% observe: 10 of 20\n" == stream.getvalue()


def test_a_terminal_gets_one_line_that_redraws_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    line = ProgressLine(stream)
    for step in STEPS:
        line(step)
    line.end()
    drawn = stream.getvalue().split("\r\x1b[K")
    assert ["", "[" + "." * 24 + "]   0% load: reading"] == drawn[:2]
    assert "[" + "#" * 14 + "." * 10 + "]  60% observe: 12 of 20\n" == drawn[-1]
    assert all(len(text.strip()) < 60 for text in drawn)


def test_a_long_message_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    ProgressLine(stream)(Progress(stage="load", fraction=0, message="x" * 100))
    assert 39 == len(stream.getvalue().removeprefix("\r\x1b[K"))


def test_criteria_fit_the_width_and_name_every_option() -> None:
    text = criteria_text(70)
    assert max(len(line) for line in text.splitlines()) <= 70
    assert "criterion.angle_deg = 15.0:" in text
    assert 'criterion.of = "units":' in text
    assert max(len(line) for line in criteria_text(100).splitlines()) > 70


def test_devices_fit_the_width_and_name_their_source() -> None:
    text = targets_text(70)
    assert max(len(line) for line in text.splitlines()) <= 70
    assert {name for name in TARGETS if f"\n{name}\n" in f"\n{text}"} == set(TARGETS)
    assert len(TARGETS) == text.count("  Source: ")


def test_a_report_names_devices_and_what_the_compiled_check_found() -> None:
    figures = CompiledFigures(
        compiler="gcc", weights_bytes=10, program_bytes=20, arena_bytes=30, stack_bytes=5, estimated_flash_bytes=10,
        estimated_ram_bytes=30, instructions=12_345, samples=1, max_relative_difference=0.5, agrees=False,
    )  # fmt: skip
    fit = Fit(fits=False, why=("7 too few",), speed=())
    target = TargetFit(
        device="rp2040", before=fit, after=fit, flash_bytes=1, ram_bytes=1,
        operators=(OperatorSupport(operator="Loop", nodes=1, supported=False, reason="no plan"),),
    )  # fmt: skip
    compiled = Compiled(processor="cortex-m7", figures=figures, refused=None)
    told = report("0" * 64).model_copy(update={"devices": Devices(target=target, profiles=(), compiled=compiled)})
    text = report_table(told)
    for line in (
        "fits: no known device (weights, activations and an estimate of the program)",
        "compiled for cortex-m7: does NOT agree with onnxruntime (0.5), 12,345 instructions",
        "  flash 30 bytes (10 weights, 20 program), RAM 35 (30 arena, 5 stack): does NOT fit rp2040",
        "target rp2040: does NOT fit",
        "  7 too few",
        "  Loop is not supported: no plan",
    ):
        assert line in text.splitlines()
    failure = EspalierError("toolchain_missing", "no compiler", hint="install one").failure
    refused = Compiled(processor="cortex-m7", figures=None, refused=failure)
    told = told.model_copy(update={"devices": Devices(target=None, profiles=(), compiled=refused)})
    assert "compiled for cortex-m7: no: toolchain_missing: no compiler" in report_table(told).splitlines()


def test_a_verdict_speaks_of_constraints_only_where_there_are_some() -> None:
    told = report("0" * 64)
    bound = parse_options({"constraints": {"max_macs": 10**9}})
    last = [report_table(one).splitlines()[-1] for one in (told, told.model_copy(update={"options": bound}))]
    assert ["verdict: no constraints given", "verdict: the constraints hold"] == last


def test_a_report_names_the_search_the_steps_and_the_forms_of_storage() -> None:
    told = report("0" * 64)
    step = FinishingStep(
        step="quantized", seconds=1.0, file_bytes=1_234, gzip_bytes=1, latency_ms=1.0, accuracy=None, detail="rounded"
    )
    stored = Stored(
        form="sparse", file="sparse.onnx", file_bytes=5_678, gzip_bytes=1, nonzero_weights=1, weights=2, latency_ms=1.0
    )
    found = SearchReport(points=(), chosen=0, because="the smallest", samples=1_000)
    told = told.model_copy(update={"steps": (step,), "storage": (stored,), "search": found})
    lines = report_table(told).splitlines()
    assert "search: of 0 points, judged on 1,000 samples held back by their labels, the smallest" in lines
    assert "quantized: 1,234 bytes; rounded" in lines
    assert "sparse storage: 5,678 bytes in sparse.onnx" in lines


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert b"whole" == path.read_bytes()
    assert ["file"] == [one.name for one in path.parent.iterdir()]


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fails_half_way() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_half_way()
    assert b"before" == path.read_bytes()
    assert ["file"] == [one.name for one in tmp_path.iterdir()]


def test_a_result_is_an_ordinary_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "result") as file:
        file.write(b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "result").stat().st_mode
