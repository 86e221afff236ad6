"""Whatever is wrong with an upload has its own code, says what to do, and leaves nothing on disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper

from schemas.errors import Failure
from tests.system.conftest import Running, finish, mlp, model, run

SAMPLES = 20


@dataclass(frozen=True)
class Bad:
    """A request with one thing wrong. What is not given is right."""

    code: str
    where: str = ""
    model: Callable[[Path], bytes] | None = None
    calibration: Callable[[], bytes] | None = None
    options: str = "{}"
    pointers: list[str] = field(default_factory=list)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def good_model(folder: Path) -> bytes:
    mlp(folder / "good.onnx", (4, 8, 3), np.random.default_rng(0))
    return (folder / "good.onnx").read_bytes()


def without_units(folder: Path) -> bytes:
    model(folder / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"], "relu")], [], 4, 4)
    return (folder / "relu.onnx").read_bytes()


def two_inputs(folder: Path) -> bytes:
    good_model(folder)
    proto = onnx.load(folder / "good.onnx")
    extra = helper.make_tensor_value_info("x2", onnx.TensorProto.FLOAT, ["n", 4])
    proto.graph.input.append(extra)
    proto.graph.node.insert(0, helper.make_node("Add", ["x", "x2"], ["sum"], "add"))
    proto.graph.node[1].input[0] = "sum"
    return proto.SerializeToString()


def samples(dtype: type = np.float32, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(SAMPLES, width)).astype(dtype)


def with_nan() -> np.ndarray:
    array = samples()
    array[7, 2] = np.nan
    return array


def bomb() -> bytes:
    """A few kilobytes that become more than the limit of the data."""
    buffer = BytesIO()
    np.savez_compressed(buffer, x=np.broadcast_to(np.float32(0), (1 << 16, 4)))
    return buffer.getvalue()


DISTINCT = '{"criterion": {"name": "distinctiveness", '
CASES = {
    "not a model": Bad("model_unreadable", model=lambda _: b"this is a letter, not a model\n" * 50),
    "pickled model": Bad("model_format_unsupported", model=lambda _: b"PK\x03\x04" + bytes(400)),
    "truncated model": Bad("model_unreadable", model=lambda folder: good_model(folder)[:-40]),
    "no prunable units": Bad("nothing_to_prune", model=without_units),
    "no array for an input": Bad("data_input_missing", model=two_inputs, calibration=lambda: npz(x=samples())),
    "an array for no input": Bad(
        "data_input_unknown", model=two_inputs, calibration=lambda: npz(x=samples(), x2=samples(), x3=samples())
    ),
    "wrong names": Bad("data_input_missing", calibration=lambda: npz(a=samples(), b=samples())),
    "wrong shape": Bad("data_shape_mismatch", calibration=lambda: npz(x=samples(width=5))),
    "wrong dtype": Bad("data_dtype_mismatch", calibration=lambda: npz(x=samples(np.complex64))),
    "objects": Bad("data_object_array", calibration=lambda: npz(x=np.array([{}] * 3, dtype=object))),
    "NaN": Bad("data_not_finite", calibration=lambda: npz(x=with_nan())),
    "zero samples": Bad("data_empty", calibration=lambda: npz(x=samples()[:0])),
    "not an array file": Bad("data_unreadable", calibration=lambda: b"PK\x03\x04 and then nothing"),
    "more data than the limit": Bad("data_too_large", calibration=bomb),
    "labels out of range": Bad(
        "labels_invalid", calibration=lambda: npz(x=samples(), labels=np.arange(SAMPLES)), where="labels"
    ),
    "unknown option": Bad("options_invalid", options='{"criterium": {}}', pointers=["/criterium"]),
    "angle out of range": Bad(
        "options_invalid", options=DISTINCT + '"angle_deg": 400}}', pointers=["/criterion/angle_deg"]
    ),
    "options that are not JSON": Bad("options_not_json", options="{"),
    "scope without a layer": Bad("scope_matches_nothing", options='{"scope": {"include": ["nothing*"]}}'),
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that takes little, so that too much is quickly made."""
    one = run(
        tmp_path_factory.mktemp("limited") / "home",
        ESPALIER_MAX_DATA_BYTES="500000",
        ESPALIER_MAX_UPLOAD_BYTES="900000",
    )
    yield one
    finish(one)


def failure_of(shared: Running, bad: Bad, folder: Path) -> Failure:
    """The refusal, as the answer to the submit or as the end of the job."""
    form = {
        "model": ("m.onnx", (bad.model or good_model)(folder)),
        "calibration": ("c.npz", bad.calibration() if bad.calibration else npz(x=samples())),
    }
    answer = httpx.post(f"{shared.url}/prune", files=form, data={"options": bad.options}, timeout=30)
    if answer.status_code != 202:
        assert "application/problem+json" == answer.headers["Content-Type"]
        problem = answer.json()
        return Failure.model_validate({name: problem[name] for name in Failure.model_fields if name in problem})
    job = shared.client.wait(answer.json()["id"])
    assert job.failure is not None, f"the job ended as {job.state}"
    return job.failure


@pytest.mark.parametrize("name", CASES)
def test_bad_input(limited: Running, tmp_path: Path, name: str) -> None:
    bad = CASES[name]
    failure = failure_of(limited, bad, tmp_path)
    assert bad.code == failure.code, failure
    assert len(failure.detail) > 10
    assert len(failure.hint) > 10
    assert bad.where in failure.where
    assert bad.pointers == [one.pointer for one in failure.errors]
    assert limited.settles_to([]), limited.left_on_disk()


def test_a_file_too_large(limited: Running, tmp_path: Path) -> None:
    bad = Bad("payload_too_large", model=lambda _: bytes(1_000_000))
    assert bad.code == failure_of(limited, bad, tmp_path).code
    assert [] == limited.left_on_disk()


def test_the_same_request_with_nothing_wrong_succeeds(limited: Running, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the job ended as succeeded"):
        failure_of(limited, Bad("", options='{"amount": {"remove_units": 0.5}}'), tmp_path)
    assert [] != limited.left_on_disk()
