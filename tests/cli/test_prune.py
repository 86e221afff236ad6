"""`espalier prune --local` with the real engine, and `prune` against a real API."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from schemas.report import Report
from service.cli import main
from service.client import Client
from tests.cli.conftest import Example, Finished, deliver
from tests.service.conftest import Api


@pytest.fixture
def local(example: Example, tmp_path: Path) -> Callable[..., int]:
    """Runs `espalier prune --local` on the digits, writing into tmp_path."""

    def go(*arguments: str, model: Path = example.model) -> int:
        data = ["--data", str(example.calibration), "--eval", str(example.evaluation)]
        return main(["prune", str(model), "--local", *data, "--out", str(tmp_path / "p.onnx"), *arguments])

    return go


def test_local_writes_the_model_and_every_report(
    local: Callable[..., int], example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [argument for kind in ("json", "html", "md") for argument in ("--report", str(tmp_path / f"r.{kind}"))]
    assert 0 == local("--set", "criterion.angle_deg=25", *kinds)
    report = Report.model_validate_json((tmp_path / "r.json").read_bytes())
    assert 25 == getattr(report.options.criterion, "angle_deg", None)
    assert 0 < len(report.refits)
    assert report.after.file_bytes == (tmp_path / "p.onnx").stat().st_size < example.model.stat().st_size
    onnx.checker.check_model(onnx.load(tmp_path / "p.onnx"), full_check=True)
    assert (tmp_path / "r.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert (tmp_path / "r.md").read_text().startswith("#")
    said = capsys.readouterr()
    assert f"{report.before.parameters:,}" in said.out
    assert "exactness: passed" in said.out
    assert f"data: {report.data.how}" in said.out
    assert " 95% report" in said.err


def test_an_option_changes_the_outcome(local: Callable[..., int], tmp_path: Path) -> None:
    sizes = []
    for angle in (5, 25):
        assert 0 == local("--set", f"criterion.angle_deg={angle}")
        sizes.append((tmp_path / "p.onnx").stat().st_size)
    assert sizes[1] < sizes[0]


def test_a_broken_constraint_is_exit_code_1_and_the_files_are_there(
    local: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == local("--set", "constraints.max_parameters=100", "--set", "amount.keep_macs=0.5", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert not answer["verdict"]["met"]
    assert answer["after"]["file_bytes"] == (tmp_path / "p.onnx").stat().st_size


def test_what_the_engine_refuses_is_exit_code_3_with_what_where_and_what_to_try(
    local: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    assert 3 == local(model=broken)
    said = capsys.readouterr().err
    assert "(model_unreadable)" in said
    assert all(f"\n  {word}" in said for word in ("what:", "where:", "try:"))
    assert not (tmp_path / "p.onnx").exists()


def test_an_engine_that_dies_says_how(
    local: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'worker.engine' in sys.orig_argv: print('last words', file=sys.stderr); os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert 3 == local()
    said = capsys.readouterr().err
    assert "(job_crashed)" in said
    assert "was killed by SIGABRT" in said
    assert "last words" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--options", "missing.json"], "there is no file missing.json"),
        (["--external", "weights.bin"], "LOCATION=FILE"),
        (["--external", "weights.bin=missing.bin"], "there is no file missing.bin"),
        (["--report", "report.pdf"], "use .json, .html or .md"),
        (["--set", "criterion.angel_deg=3"], "did you mean 'angle_deg'"),
    ],
)
def test_usage_is_exit_code_2(
    local: Callable[..., int], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == local(*arguments)
    assert words in capsys.readouterr().err


def test_an_input_is_not_overwritten(
    local: Callable[..., int], example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.onnx").symlink_to(example.model)
    before = example.model.read_bytes()
    for out in (example.model, tmp_path / "link.onnx"):
        assert 2 == local("--out", str(out))
        assert "is read as an input" in capsys.readouterr().err
    assert before == example.model.read_bytes()


def test_data_that_is_needed_is_asked_for_before_anything_starts(
    example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == main(["prune", str(example.model)])
    assert "add --data" in capsys.readouterr().err


def test_a_history_reaches_the_engine_and_is_asked_for_before_anything_starts(
    example: Example, tmp_path: Path, local: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = onnx.load(example.model).graph.initializer
    final = {one.name: onnx.numpy_helper.to_array(one) for one in weights}
    arrays = {f"e1/{name}": array for name, array in final.items()}
    np.savez(tmp_path / "h.npz", **arrays, **{f"e0/{name}": array + 1 for name, array in final.items()})
    karnin = ("--set", "criterion.name=karnin", "--set", "amount.remove_weights=0.5")
    assert 2 == local(*karnin)
    assert "--history HISTORY.npz" in capsys.readouterr().err
    assert 2 == local(*karnin, "--history", "missing.npz")
    assert 0 == local(*karnin, "--history", str(tmp_path / "h.npz"), "--report", str(tmp_path / "r.json"))
    report = Report.model_validate_json((tmp_path / "r.json").read_bytes())
    assert hashlib.sha256((tmp_path / "h.npz").read_bytes()).hexdigest() == report.provenance.history_sha256


def test_external_data_reaches_the_engine(example: Example, tmp_path: Path, local: Callable[..., int]) -> None:
    proto = onnx.load(example.model)
    apart = tmp_path / "apart"
    apart.mkdir()
    onnx.save(proto, apart / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    moved = tmp_path / "elsewhere.bin"
    (apart / "weights.bin").rename(moved)
    assert 0 == local("--external", f"weights.bin={moved}", model=apart / "m.onnx")
    assert 3 == local(model=apart / "m.onnx")


def test_weights_of_their_own_lie_beside_the_model(
    local: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == local("--set", "external_data=true", "--set", "amount.remove_units=0.1")
    (weights,) = tmp_path.glob("weights-*.bin")
    assert str(weights) in capsys.readouterr().out
    assert weights.stat().st_size > (tmp_path / "p.onnx").stat().st_size
    onnx.checker.check_model(tmp_path / "p.onnx", full_check=True)


def test_without_out_the_result_is_named_after_the_model(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 == main(["prune", str(example.model), "--local", "--data", str(example.calibration)])
    assert ["digits.pruned.onnx"] == [path.name for path in tmp_path.iterdir()]


def prune_in_a_process(*arguments: str) -> subprocess.Popen[str]:
    """It hears Ctrl-C, also where these tests run behind an `&` of a shell, which has what it starts ignore that."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "service.cli", "prune", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_ctrl_c_ends_the_engine_too(example: Example, tmp_path: Path) -> None:
    out = tmp_path / "p.onnx"
    process = prune_in_a_process(str(example.model), "--local", "--data", str(example.calibration), "--out", str(out))
    children: list[psutil.Process] = []
    while not children:
        children = psutil.Process(process.pid).children()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert 130 == process.returncode, said
    assert not any(child.is_running() for child in children)
    assert not out.exists()


def test_ctrl_c_cancels_the_job(api: Api, example: Example, tmp_path: Path) -> None:
    process = prune_in_a_process(
        str(example.model), "--data", str(example.calibration), "--server", api.url, "--out", str(tmp_path / "p.onnx")
    )
    assert process.stderr is not None
    job_id = process.stderr.readline().split()[1]
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert 130 == process.returncode
    assert f"job {job_id} cancelled" in said
    with Client(api.url) as client:
        assert "cancelled" == client.get(job_id).state
    assert not (tmp_path / "p.onnx").exists()


def test_a_service_does_the_same_and_the_files_are_its_own(
    api: Api, example: Example, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with Client(api.url) as client:
            while not (jobs := client.jobs().jobs):
                time.sleep(0.02)
        deliver(api, jobs[0].id, finished)

    worker = threading.Thread(target=work)
    worker.start()
    command = ["prune", str(example.model), "--data", str(example.calibration), "--server", api.url]
    files = ["--report", str(tmp_path / "r.html"), "--all", str(tmp_path / "all")]
    assert 0 == main([*command, "--out", str(tmp_path / "p.onnx"), *files])
    worker.join()
    assert finished.artifact == (tmp_path / "p.onnx").read_bytes()
    assert finished.reports["html"] == (tmp_path / "r.html").read_bytes()
    assert finished.reports["md"] == (tmp_path / "all" / "report.md").read_bytes()
    assert "exactness: passed" in capsys.readouterr().out


def test_fetch_brings_all_files_or_those_named(
    api: Api, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = api.submit()
    deliver(api, job_id, replace(finished, further={"curve.csv": b"1,2"}))
    assert 0 == main(["fetch", job_id, "--server", api.url, "--out", str(tmp_path / "all")])
    names = ["artifact.onnx", "report.json", "report.html", "report.md", "curve.csv"]
    assert [str(tmp_path / "all" / name) for name in names] == capsys.readouterr().out.splitlines()
    assert finished.artifact == (tmp_path / "all" / "artifact.onnx").read_bytes()
    assert 0 == main(["fetch", job_id, "curve.csv", "--server", api.url, "--out", str(tmp_path / "one")])
    assert {"curve.csv": b"1,2"} == {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert 3 == main(["fetch", job_id, "nothing", "--server", api.url, "--out", str(tmp_path / "none")])
    assert "made no file 'nothing'" in capsys.readouterr().err


def test_all_puts_every_file_into_a_folder(
    local: Callable[..., int], example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == local("--all", str(tmp_path / "all"))
    assert ["artifact.onnx", "report.html", "report.json", "report.md"] == sorted(
        path.name for path in (tmp_path / "all").iterdir()
    )
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "all" / "artifact.onnx").read_bytes()
    assert f"{tmp_path / 'all'} written" in capsys.readouterr().out
    assert 2 == local("--all", str(example.model.parent))
    assert "an input lies there" in capsys.readouterr().err


def test_jobs_and_cancel(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = api.submit()
    assert 0 == main(["jobs", "--server", api.url])
    assert f"{job_id}  prune     queued" in capsys.readouterr().out
    assert 0 == main(["cancel", job_id, "--server", api.url])
    assert f"job {job_id} cancelled\n" == capsys.readouterr().out
    assert 0 == main(["jobs", "--server", api.url, "--json", "--limit", "1"])
    assert "cancelled" == json.loads(capsys.readouterr().out)["state"]
    assert 3 == main(["cancel", "0" * 32, "--server", api.url])
    assert "(not_found)" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_exit_code_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.ATTEMPTS", 1)
    assert 3 == main(["jobs", "--server", "http://127.0.0.1:9"])
    assert "(service_unreachable)" in capsys.readouterr().err
