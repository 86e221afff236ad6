"""Models with zeros, stored densely and sparsely: sizes as reported, the same outputs, and no pretending."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from schemas.errors import EspalierError
from schemas.files import FILE_LIST, FileList
from schemas.request import parse_options
from tests.engine.nets import cnn, feeds_for
from tests.engine.test_run import job
from worker.engine import measure
from worker.engine.load import gzip_bytes
from worker.engine.shelf import IN_MEMORY
from worker.engine.storage import SPARSE, densely, sparsely
from worker.engine.verify import verify_artifact

MOST = {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.9}, "sparse_output": True}


def test_both_forms_are_measured_and_compute_the_same(tmp_path: Path) -> None:
    report = job(tmp_path, MOST)
    assert ["dense", "sparse"] == [one.form for one in report.storage]
    assert (SPARSE,) == FileList.model_validate_json((tmp_path / FILE_LIST).read_bytes()).files
    for one in report.storage:
        path = tmp_path / one.file
        assert (path.stat().st_size, gzip_bytes(path)) == (one.file_bytes, one.gzip_bytes)
        assert one.latency_ms > 0
        verify_artifact(path)
    dense, sparse = report.storage
    assert sparse.file_bytes < dense.file_bytes == report.after.file_bytes
    initializers = onnx.load(tmp_path / "artifact.onnx").graph.initializer
    weights = [array for array in map(onnx.numpy_helper.to_array, initializers) if array.ndim > 1]
    assert sum(map(np.count_nonzero, weights)) == dense.nonzero_weights == sparse.nonzero_weights
    assert sum(array.size for array in weights) == dense.weights
    feeds = feeds_for(cnn(), 9)
    outputs = [ort.InferenceSession(tmp_path / one.file).run(None, feeds)[0] for one in report.storage]
    np.testing.assert_allclose(*outputs, rtol=1e-6)
    assert 3 <= len(onnx.load(tmp_path / SPARSE).graph.sparse_initializer)
    html, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for page in (html, text):
        assert SPARSE in page
        assert "Zeros are not speed" in page


def test_without_asking_there_is_one_form(tmp_path: Path) -> None:
    report = job(tmp_path, {**MOST, "sparse_output": False})
    assert ["dense"] == [one.form for one in report.storage]
    assert not (tmp_path / SPARSE).exists()
    units = job(tmp_path / "units", {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}})
    assert () == units.storage
    assert not any("Zeros" in warning for warning in units.warnings)


def test_what_would_grow_stays_dense_and_the_way_back_is_exact() -> None:
    proto = cnn()
    rng = np.random.default_rng(0)
    arrays = {}
    for one, share in zip([x for x in proto.graph.initializer if len(x.dims) > 1], (0.95, 0.5, 0.7, 0.2), strict=True):
        array = onnx.numpy_helper.to_array(one) * (rng.random(tuple(one.dims)) > share)
        arrays[one.name] = array
        one.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), one.name))
    sparse = sparsely(proto, IN_MEMORY, arrays.keys())
    assert ["c1.weight", "fc1.weight"] == [one.values.name for one in sparse.graph.sparse_initializer]
    back = {one.name: onnx.numpy_helper.to_array(one) for one in densely(sparse).graph.initializer}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, back[name])
    assert not sparse.graph.sparse_initializer


def test_a_sparse_form_that_computes_otherwise_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: object) -> onnx.ModelProto:
        proto = sparsely(*given)  # type: ignore[arg-type]
        indices = proto.graph.sparse_initializer[0].indices
        moved = onnx.numpy_helper.to_array(indices) ^ 1
        indices.CopyFrom(onnx.numpy_helper.from_array(np.sort(moved)))
        return proto

    monkeypatch.setattr(measure, "sparsely", wrong)
    with pytest.raises(EspalierError) as caught:
        job(tmp_path, MOST)
    assert "exactness_failed" == caught.value.code


def test_a_broken_sparse_file_is_rejected(tmp_path: Path) -> None:
    job(tmp_path, MOST)
    proto = onnx.load(tmp_path / SPARSE)
    proto.graph.sparse_initializer.pop()
    (tmp_path / "broken.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(EspalierError) as caught:
        verify_artifact(tmp_path / "broken.onnx")
    assert "artifact_rejected" == caught.value.code


@pytest.mark.parametrize("options", [
    {"amount": {"remove_units": 0.5}, "criterion": {"name": "magnitude"}, "sparse_output": True},
    {**MOST, "quantize": {}},
])  # fmt: skip
def test_combinations_without_a_meaning_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(EspalierError, match="sparse_output"):
        parse_options(options)
