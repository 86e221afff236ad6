"""Whether a fetched file is what its report says, recomputed with onnxruntime and numpy alone.

    python -m benchmarks.check_artifact files ARTIFACT.onnx REPORT.json EVALUATION.npz
    python -m benchmarks.check_artifact mnist [--server URL]

`files` checks what you fetched: hash, size, and the accuracy on the evaluation file that you sent. `mnist` goes the
whole way first: it submits seeds/cnn_mnist.onnx of ESPALIER_DATA (default ../shared/data) with 2,000 calibration and
2,000 evaluation images to a service (by default one that it starts and stops), waits, and fetches. No code of the
engine takes part in the check. Exit code 1 where anything differs.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.folder import needed
from benchmarks.serving import serving, until_ready
from schemas.report import ClassificationScore, Report
from schemas.request import Preprocess

CALIBRATION = EVALUATION = 2_000
WAIT_SECONDS = 120


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    files = commands.add_parser("files", help="check files that you fetched")
    files.add_argument("artifact", type=Path)
    files.add_argument("report", type=Path)
    files.add_argument("evaluation", type=Path)
    mnist = commands.add_parser("mnist", help="prune cnn_mnist through a service, then check what comes back")
    mnist.add_argument("--server", help="a service that runs already")
    options = parser.parse_args(argv)
    if options.command == "files":
        return check(options.artifact.read_bytes(), options.report.read_bytes(), options.evaluation)
    if options.server:
        return whole_way(options.server)
    with serving() as (url, _, _):
        until_ready(url)
        return whole_way(url)


def check(artifact: bytes, report_json: bytes, evaluation: Path) -> int:
    """Prints one line for each statement of the report; 1 where one is not true of the bytes."""
    report = Report.model_validate_json(report_json)
    stated = report.after.accuracy
    if not isinstance(stated, ClassificationScore):
        raise SystemExit("this script recomputes classifications; the report's score is of another kind")
    if report.data.shared_dropped:
        raise SystemExit("the report left out rows shared with the calibration; send an evaluation file without any")
    confusion = recount(artifact, evaluation, report.options.preprocess)
    digest = hashlib.sha256(evaluation.read_bytes()).hexdigest()
    lines = [
        ("evaluation sha256", report.provenance.evaluation_sha256, digest),
        ("artifact sha256", report.provenance.artifact_sha256, hashlib.sha256(artifact).hexdigest()),
        ("artifact bytes", report.after.file_bytes, len(artifact)),
        ("judged samples", stated.samples, int(confusion.sum())),
        ("accuracy", f"{stated.score:.6f}", f"{np.trace(confusion) / confusion.sum():.6f}"),
        ("confusion matrix", [list(row) for row in stated.confusion], confusion.tolist()),
    ]
    print(f"{'':18}  {'report':>14}  recomputed")
    for name, said, found in lines:
        shown = [str(value).removeprefix("sha256:") for value in (said, found)]
        verdict = "equal" if shown[0] == shown[1] else "DIFFERENT"
        short = [text if len(text) <= 14 else text[:11] + "..." for text in shown]
        print(f"{name:18}  {short[0]:>14}  {short[1]:>14}  {verdict}")
    before = report.before
    smaller = report.after.file_bytes < before.file_bytes
    print(
        f"{before.file_bytes:,} -> {report.after.file_bytes:,} bytes, {before.parameters:,} -> "
        f"{report.after.parameters:,} parameters, accuracy {before.accuracy.score if before.accuracy else None} -> "
        f"{stated.score}; exactness {report.exactness.max_relative_difference:.1e}"
    )
    same = all(str(said).removeprefix("sha256:") == str(found) for _, said, found in lines)
    return 0 if same and smaller else 1


def recount(artifact: bytes, evaluation: Path, preprocess: Preprocess) -> NDArray[np.int64]:
    """The confusion matrix of the artifact, all samples at once."""
    runs = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    with np.load(evaluation) as arrays:
        labels = arrays["labels" if "labels" in arrays else "y"].astype(np.int64).ravel()
        (name,) = (name for name in arrays if name not in ("labels", "y"))
        images = prepared(arrays[name], preprocess)
    (output, *_) = runs.run(None, {runs.get_inputs()[0].name: images})
    scores = np.asarray(output)
    scores = scores.reshape(len(labels), -1)
    confusion = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(confusion, (labels, scores.argmax(1)), 1)
    return confusion


def prepared(images: NDArray[np.generic], preprocess: Preprocess) -> NDArray[np.float32]:
    """`(x / scale - mean) / std`, written out once more."""
    x = images.astype(np.float32)
    if preprocess.layout == "NHWC":
        x = x.transpose(0, 3, 1, 2)
    if preprocess.channels == "BGR":
        x = x[:, ::-1]
    broadcast = (1, -1) + (1,) * (x.ndim - 2)
    x = x / np.float32(preprocess.scale or 1)
    x = x - np.array(preprocess.mean or (0,), np.float32).reshape(broadcast)
    return np.ascontiguousarray(x / np.array(preprocess.std or (1,), np.float32).reshape(broadcast))


def whole_way(url: str) -> int:
    """POST, poll, fetch, check."""
    folder = needed()
    options = {"criterion": {"name": "distinctiveness", "angle_deg": 15}, "preprocess": {"scale": 255}}
    with tempfile.TemporaryDirectory() as scratch, np.load(folder / "mnist.npz") as digits:
        calibration, evaluation = Path(scratch, "calibration.npz"), Path(scratch, "evaluation.npz")
        np.savez(calibration, input=digits["x_train"][:CALIBRATION, None])
        np.savez(evaluation, input=digits["x_test"][:EVALUATION, None], labels=digits["y_test"][:EVALUATION])
        paths = {"model": folder / "seeds/cnn_mnist.onnx", "calibration": calibration, "evaluation": evaluation}
        uploads = {name: (path.name, path.read_bytes()) for name, path in paths.items()}
        with httpx.Client(base_url=url, timeout=WAIT_SECONDS) as client:
            job = fetch(client.post("/prune", files=uploads, data={"options": json.dumps(options)}))
            address = job.headers["location"]
            while (state := fetch(client.get(address, params={"wait": 30})).json())["state"] in ("queued", "running"):
                pass
            if state["state"] != "succeeded":
                raise SystemExit(json.dumps(state, indent=1))
            artifact = fetch(client.get(f"{address}/artifact")).content
            report = fetch(client.get(f"{address}/report.json")).content
        return check(artifact, report, evaluation)


def fetch(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        raise SystemExit(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    return response


if __name__ == "__main__":
    sys.exit(main())
