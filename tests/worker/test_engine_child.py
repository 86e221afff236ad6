"""The real launcher and the real engine: a small network through both confined children."""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from schemas.files import is_weights
from schemas.inspection import Inspection
from schemas.job import BlobRef, JobInputs, JobState, ResultManifest, SubmitManifest
from schemas.kinds import REQUESTS
from schemas.request import JobKind
from state.blobs import LocalBlobs, result_key
from state.jobs import JobStore, connect
from state.settings import Settings
from tests.state.manifests import submission
from worker.attempt import Workplace, attempt, bounds_of
from worker.children import Launcher, launcher_environment
from worker.orders import Order
from worker.sandbox import Level
from worker.station import LAUNCHER, probe


@pytest.fixture(scope="module")
def engine() -> Iterator[Launcher]:
    launcher = Launcher(LAUNCHER, launcher_environment(os.environ, cuda=False))
    launcher.start()
    yield launcher
    launcher.close()


@pytest.fixture
def place(settings: Settings, engine: Launcher) -> Iterator[Workplace]:
    client = connect(settings.redis_url)
    settings = settings.model_copy(update={"job_memory_bytes": 2**32, "max_data_bytes": 2**28, "job_threads": 2})
    yield Workplace(settings, JobStore(client), LocalBlobs(settings.home), engine)
    client.close()


def network(units: int) -> bytes:
    """Four inputs, one hidden layer, three classes."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(4, units)),
        "b1": rng.normal(size=units),
        "w2": rng.normal(size=(units, 3)),
        "b2": rng.normal(size=3),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="hidden"),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"], name="out"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def samples(count: int) -> bytes:
    rng = np.random.default_rng(1)
    file = io.BytesIO()
    np.savez(file, x=rng.normal(size=(count, 4)).astype(np.float32), labels=rng.integers(0, 3, count))
    return file.getvalue()


def submit(
    place: Workplace,
    files: dict[str, bytes],
    options: dict[str, object],
    number: int = 1,
    kind: JobKind = "prune",
) -> SubmitManifest:
    job = submission(number)
    refs = {}
    for name, content in files.items():
        with place.blobs.writer() as writer:
            writer.write(content)
            place.store.hold_blob(writer.sha, job.owner, job.id)
            blob, size = writer.commit()
        refs[name] = BlobRef(blob=blob, bytes=size, name=name)
    asked = REQUESTS[kind].model_validate(options)
    job = job.model_copy(update={"kind": kind, "inputs": JobInputs.model_validate(refs), "options": asked})
    place.store.submit(job, max_queued=9, max_per_owner=9, idempotency_seconds=60)
    return job


HALF = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}, "device": "cpu"}


def test_a_network_is_pruned_in_confined_children(place: Workplace, tmp_path: Path) -> None:
    job = submit(place, {"model": network(8), "calibration": samples(200)}, HALF)
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    done = place.store.get(job.id, "ann")
    assert JobState.SUCCEEDED == done.state, done.failure
    assert done.result is not None
    path = tmp_path / "pruned.onnx"
    path.write_bytes(b"".join(place.blobs.read(done.result.artifact.blob)))
    shapes = {one.name: tuple(one.dims) for one in onnx.load(path).graph.initializer}
    assert (4, 4) == shapes["w1"]
    (y,) = onnxruntime.InferenceSession(path).run(None, {"x": np.zeros((1, 4), np.float32)})
    assert (1, 3) == y.shape
    heard = place.store.events_after(job.id, "0", block_ms=0)
    assert {"load", "select", "prove", "judge", "report"} <= {one.progress.stage for one in heard if one.progress}


def test_weights_in_a_file_of_their_own_are_verified_and_kept(place: Workplace, tmp_path: Path) -> None:
    options = {**HALF, "external_data": True}
    job = submit(place, {"model": network(600), "calibration": samples(200)}, options)
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    done = place.store.get(job.id, "ann")
    assert JobState.SUCCEEDED == done.state, done.failure
    assert done.result is not None
    (weights,) = done.result.files
    assert is_weights(weights.name)
    for name, ref in done.result.named().items():
        (tmp_path / name).write_bytes(b"".join(place.blobs.read(ref.blob)))
    (y,) = onnxruntime.InferenceSession(tmp_path / "artifact.onnx").run(None, {"x": np.zeros((1, 4), np.float32)})
    assert (1, 3) == y.shape


def trained(units: int) -> bytes:
    """A made-up history that ends in the network's weights."""
    weights = onnx.ModelProto.FromString(network(units)).graph.initializer
    final = {one.name: numpy_helper.to_array(one) for one in weights}
    file = io.BytesIO()
    np.savez(file, **{f"e{epoch}/{name}": array - 1 + epoch for epoch in range(2) for name, array in final.items()})
    return file.getvalue()


def test_a_history_is_read_in_the_confined_child(place: Workplace) -> None:
    options = {"criterion": {"name": "karnin"}, "amount": {"remove_weights": 0.5}, "device": "cpu"}
    job = submit(place, {"model": network(8), "calibration": samples(50), "history": trained(8)}, options)
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    done = place.store.get(job.id, "ann")
    assert JobState.SUCCEEDED == done.state, done.failure


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"model": b"not a model"}, "model_unreadable"),
        ({"model": network(8)[:100]}, "model_unreadable"),
        ({"model": network(8), "calibration": b"PK\x03\x04 not an archive"}, "data_unreadable"),
    ],
)
def test_a_refusal_of_the_engine_reaches_the_job(place: Workplace, files: dict[str, bytes], code: str) -> None:
    job = submit(place, files, HALF)
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    done = place.store.get(job.id, "ann")
    assert done.failure is not None, done
    assert (JobState.FAILED, code) == (done.state, done.failure.code)
    assert [] == list((place.settings.home / "blobs").rglob("?" * 64))


def module(units: int, folder: Path) -> bytes:
    """The same network as a TorchScript archive."""
    net = torch.nn.Sequential(torch.nn.Linear(4, units), torch.nn.ReLU(), torch.nn.Linear(units, 3))
    path = folder / "net.pt"
    torch.jit.script(net.eval()).save(str(path))
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_taken_where_the_process_is_confined_and_the_setting_allows(
    place: Workplace, tmp_path: Path
) -> None:
    files = {"model": module(8, tmp_path), "calibration": samples(200)}
    expected = {True: (None, JobState.SUCCEEDED), False: ("torchscript_untrusted", JobState.FAILED)}
    confined = probe().level == "full"
    for number, allowed in enumerate((True, False), start=1):
        settings = place.settings.model_copy(update={"torchscript": allowed})
        job = submit(place, files, HALF, number)
        claim = place.store.claim(job.id, "w", lease_seconds=5)
        assert claim is not None
        attempt(claim, replace(place, settings=settings))
        done = place.store.get(job.id, "ann")
        failed = done.failure.code if done.failure else None
        assert expected[allowed and confined] == (failed, done.state), done.failure


def test_an_order_loses_the_right_where_confinement_is_not_full(tmp_path: Path) -> None:
    bounds = bounds_of(Settings(home=tmp_path), None)
    order = Order(kind="prune", workdir=tmp_path, bounds=bounds)
    levels: tuple[Level, ...] = ("full", "partial", "off")
    assert [True, False, False] == [order.confined_to(level).bounds.torchscript for level in levels]


def test_an_inspection_leaves_reports_and_no_artifact(place: Workplace) -> None:
    job = submit(place, {"model": network(8)}, {}, kind="inspect")
    claim = place.store.claim(job.id, "w", lease_seconds=5)
    assert claim is not None
    attempt(claim, place)
    done = place.store.get(job.id, "ann")
    assert done.result is not None, done.failure
    assert done.result.artifact is None
    found = Inspection.model_validate_json(b"".join(place.blobs.read(done.result.report_json.blob)))
    assert [8] == [group.units for group in found.groups]
    kept = place.blobs.get_document(result_key(job.id))
    assert kept is not None
    assert done.result == ResultManifest.model_validate_json(kept).result
