"""The README's way from a model to a smaller one, with the processes that its reader starts."""

import hashlib
import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnxruntime

from schemas.job import JobState, SubmitManifest
from schemas.report import Report
from schemas.request import PruneRequest
from tests.system.conftest import LOOK, ROOT, Running, Work


def accuracy(model: bytes, data: Path) -> float:
    """The share of right answers, by onnxruntime alone."""
    with np.load(data) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    return float((np.asarray(logits).argmax(1) == labels).mean())


def quick_start(url: str) -> str:
    """The commands that the README gives, for this service."""
    found = re.search(r"<!-- quick start -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1].replace("http://127.0.0.1:8000", url)


def test_the_three_curl_lines_of_the_readme(shared: Running, digits: Path) -> None:
    commands = quick_start(shared.url)
    assert 3 == len(commands.splitlines())
    script = f"{commands}\ncurl -sSf {shared.url}$JOB/report.json -o out/report.json"
    subprocess.run(["bash", "-euc", script], cwd=digits.parent, check=True, capture_output=True, timeout=60)
    dense, pruned = (digits / "digits.onnx").read_bytes(), (digits / "digits-pruned.onnx").read_bytes()
    report = Report.model_validate_json((digits / "report.json").read_bytes())
    assert len(pruned) < len(dense) / 2
    assert (len(dense), len(pruned)) == (report.before.file_bytes, report.after.file_bytes)
    assert report.before.accuracy is not None
    assert report.after.accuracy is not None
    measured = [accuracy(dense, digits / "evaluation.npz"), accuracy(pruned, digits / "evaluation.npz")]
    assert measured == [report.before.accuracy.score, report.after.accuracy.score]
    assert measured[1] > measured[0] - 0.02
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    assert hashlib.sha256(pruned).hexdigest() == report.provenance.artifact_sha256.removeprefix("sha256:")


def test_the_manifest_is_on_disk_when_the_202_arrives(shared: Running, digits: Path) -> None:
    files = {"model": digits / "digits.onnx", "calibration": digits / "calibration.npz"}
    form = {name: (path.name, path.read_bytes()) for name, path in files.items()}
    with httpx.stream("POST", f"{shared.url}/prune", files=form) as response:
        # The head of the answer is here, its body not read yet.
        job_id = response.headers["Location"].rpartition("/")[2]
        manifest = SubmitManifest.model_validate_json((shared.home / f"jobs/{job_id}/submit.json").read_bytes())
        assert 202 == response.status_code
        assert job_id == manifest.id
        assert hashlib.sha256(form["model"][1]).hexdigest() == manifest.inputs.model.blob.removeprefix("sha256:")
    assert JobState.SUCCEEDED is shared.client.wait(job_id).state


def test_fifty_submits_with_one_key_make_one_job(shared: Running, digits: Path) -> None:
    before = len(shared.client.jobs(limit=100).jobs)
    together = threading.Barrier(50)

    def submit(_: int) -> str:
        together.wait()
        model, data = digits / "digits.onnx", digits / "calibration.npz"
        return shared.client.submit(model, PruneRequest(), calibration=data, idempotency_key="fifty").id

    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(submit, range(50)))
    assert 1 == len(ids)
    ended = shared.client.wait(ids.pop())
    assert JobState.SUCCEEDED is ended.state, ended.failure
    assert before + 1 == len(shared.client.jobs(limit=100).jobs)


def test_a_queued_and_a_running_job_are_cancelled(shared: Running, long_work: Work) -> None:
    client = shared.client
    kept = shared.left_on_disk()
    first = client.submit(long_work.model, LOOK, calibration=long_work.calibration)
    second = client.submit(long_work.model, LOOK, calibration=long_work.calibration)
    stages = (event.progress.stage for event in client.events(first.id) if event.progress)
    assert next(stages)
    assert JobState.QUEUED is client.get(second.id).state
    assert JobState.CANCELLED is client.cancel(second.id).state
    assert JobState.RUNNING is client.get(first.id).state
    assert client.cancel(first.id).cancel_requested
    ended = client.wait(first.id)
    assert (JobState.CANCELLED, 1) == (ended.state, ended.attempt)
    assert (JobState.CANCELLED, 0) == (client.get(second.id).state, client.get(second.id).attempt)
    assert shared.adds_nothing_to(kept), shared.left_on_disk()


def test_the_command_line_against_the_service(shared: Running, digits: Path, tmp_path: Path) -> None:
    espalier = [str(ROOT / ".venv/bin/espalier")] if (ROOT / ".venv/bin/espalier").exists() else ["espalier"]
    command = [*espalier, "prune", str(digits / "digits.onnx"), "--data", str(digits / "calibration.npz")]
    command += ["--server", shared.url, "--out", str(tmp_path / "p.onnx"), "--report", str(tmp_path / "r.md"), "--json"]
    met = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(met.stdout)
    assert answer["after"]["file_bytes"] == (tmp_path / "p.onnx").stat().st_size
    assert "job " in met.stderr
    assert (tmp_path / "r.md").read_text().startswith("#")
    broken = subprocess.run(
        [*command, "--set", "constraints.max_parameters=10", "--set", "amount.keep_macs=0.5"],
        capture_output=True,
        check=False,
    )
    assert 1 == broken.returncode
    failed = subprocess.run([*command, "--set", 'scope.include=["x"]'], capture_output=True, text=True, check=False)
    assert 3 == failed.returncode
    assert "scope_matches_nothing" in failed.stderr
    listed = subprocess.run([*espalier, "jobs", "--server", shared.url], capture_output=True, text=True, check=True)
    assert "scope_matches_nothing" in listed.stdout.splitlines()[1]
