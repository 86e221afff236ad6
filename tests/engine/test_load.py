"""What is taken and what is refused, each refusal with its own code and a sentence that helps."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.errors import EspalierError
from tests.engine.dissect import dissect, run
from tests.engine.nets import classifier, cnn, feeds_for, mlp, save, shared_bias
from worker.engine import load as loading
from worker.engine import outline, surgery
from worker.engine.graph import freeze
from worker.engine.load import gzip_bytes, load


def refusal(content: bytes, folder: Path) -> EspalierError:
    path = folder / "upload"
    path.write_bytes(content)
    with pytest.raises(EspalierError) as caught:
        load(path, {}, "upload.onnx")
    return caught.value


def zipped(folder: Path, *names: str) -> bytes:
    path = folder / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return path.read_bytes()


def test_other_formats_are_named_and_the_recipe_is_given(tmp_path: Path) -> None:
    for content, word, recipe in (
        (zipped(tmp_path, "archive/data.pkl", "archive/version"), "checkpoint", "load_state_dict(torch.load("),
        (zipped(tmp_path, "net/data.json", "net/archive_format"), ".pt2", "torch.export.load("),
        (zipped(tmp_path, "config.json", "metadata.json", "model.weights.h5"), "Keras", 'format="onnx"'),
        (zipped(tmp_path, "folder/saved_model.pb"), "TensorFlow", "tf2onnx.convert --saved-model"),
        (zipped(tmp_path, "readme.txt"), "zip", "torch.onnx.export"),
        (b"PK\x03\x04 cut off", "zip", "torch.onnx.export"),
        (b"\x80\x04pickle", "pickle", "skl2onnx.to_onnx"),
        (b"\x89HDF\r\n", "Keras", "tf2onnx.convert"),
        (b"....TFL3....", "TensorFlow Lite", "tf2onnx.convert --tflite"),
        (b"....PTMF....", "mobile", "torch.onnx.export"),
        ((8).to_bytes(8, "little") + b'{"a":{}}', "safetensors", "safetensors.torch.load_file("),
        (b"GGUF....", "GGUF", "torch.onnx.export"),
        (b"\x93NUMPY\x01\x00", "numpy", "torch.onnx.export"),
        (b'{"a": 1}', "JSON", "torch.onnx.export"),
    ):
        error = refusal(content, tmp_path)
        assert "model_format_unsupported" == error.code
        assert word in error.failure.detail
        assert recipe in error.failure.hint


def test_files_from_when_initializers_were_inputs_are_pruned_into_newer_ones(tmp_path: Path) -> None:
    proto = mlp()
    proto.ir_version, proto.opset_import[0].version = 3, 9
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    dissected = dissect(proto, tmp_path)
    after = dissected.cut(dissected.random_half())
    onnx.checker.check_model(after, full_check=True)
    assert (4, ["x"]) == (after.ir_version, [one.name for one in after.graph.input])


@pytest.mark.parametrize("content", [b"", b"hello, this is no model at all", b"\x00" * 64, b"\xff" * 100])
def test_what_is_no_model_is_unreadable(content: bytes, tmp_path: Path) -> None:
    assert "model_unreadable" == refusal(content, tmp_path).code


def test_a_truncated_model_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = cnn().SerializeToString()
    for share in (0.1, 0.5, 0.9, 0.999):
        error = refusal(whole[: int(len(whole) * share)], tmp_path)
        assert error.code in ("model_unreadable", "model_invalid")


def test_an_invalid_graph_is_refused_with_the_checkers_words(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.node[0].input[0] = "nobody"
    error = refusal(proto.SerializeToString(), tmp_path)
    assert "model_invalid" == error.code
    assert "nobody" in error.failure.detail


def externalised(folder: Path, location: str = "weights.bin") -> tuple[Path, bytes]:
    """mlp with fc1.weight outside."""
    proto = mlp()
    tensor = next(one for one in proto.graph.initializer if one.name == "fc1.weight")
    data = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "16"), ("length", str(len(data)))):
        tensor.external_data.add(key=key, value=value)
    path = folder / "external.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, b"\x00" * 16 + data


def test_external_data_comes_from_the_files_that_were_sent(tmp_path: Path) -> None:
    path, data = externalised(tmp_path)
    (tmp_path / "blob").write_bytes(data)
    loaded = load(path, {"weights.bin": tmp_path / "blob"})
    feeds = feeds_for(mlp(), 3)
    np.testing.assert_array_equal(run(mlp(), feeds)[0], run(loaded.proto, feeds)[0])
    assert path.stat().st_size + len(data) == loaded.file_bytes


def test_external_data_is_never_opened_by_the_name_in_the_model(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 1000)
    path, _ = externalised(tmp_path, location=str(secret))
    with pytest.raises(EspalierError, match="were not sent") as caught:
        load(path, {})
    assert "model_external_data_missing" == caught.value.code


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path, data = externalised(tmp_path)
    (tmp_path / "blob").write_bytes(data[:100])
    with pytest.raises(EspalierError, match="of a file of 100") as caught:
        load(path, {"weights.bin": tmp_path / "blob"})
    assert "model_invalid" == caught.value.code


def test_small_shared_initializers_are_parted_and_shared_again(tmp_path: Path) -> None:
    dissected = dissect(shared_bias(), tmp_path)
    assert {"bias.1": "bias"} == dissected.loaded.copies
    model = dissected.loaded.model.clone()
    surgery.share_again(model, dissected.loaded.copies)
    names = {one.name for one in surgery.to_proto(model).graph.initializer}
    assert {one.name for one in shared_bias().graph.initializer} == names
    cut = dissected.cut({"fc1": (0,)})
    assert {"bias": 7, "bias.1": 8} == {
        one.name: one.dims[0] for one in cut.graph.initializer if "bias" in one.name[:4]
    }


def test_the_uploaded_model_stays_as_it_was(tmp_path: Path) -> None:
    for proto in (shared_bias(), cnn()):
        assert proto.SerializeToString() == dissect(proto, tmp_path).loaded.proto.SerializeToString()


def test_constants_and_initializers_among_the_inputs_become_plain_initializers(tmp_path: Path) -> None:
    proto = mlp()
    weight = next(one for one in proto.graph.initializer if one.name == "fc2.weight")
    proto.graph.input.append(helper.make_tensor_value_info("fc2.weight", TensorProto.FLOAT, list(weight.dims)))
    bias = next(one for one in proto.graph.initializer if one.name == "fc1.bias")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["fc1.bias"], value=bias))
    proto.graph.initializer.remove(bias)
    graph = freeze(load(save(proto, tmp_path), {}).model)
    assert ["x"] == [port.name for port in graph.inputs]
    assert {"fc1.bias", "fc2.weight"} <= set(graph.constants)
    assert {"fc1": 10, "fc2": 8} == {one.name: one.units for one in dissect(proto, tmp_path).analysis.groups}


def test_functions_are_inlined(tmp_path: Path) -> None:
    proto = classifier()
    body = helper.make_node("Relu", ["in"], ["out"])
    function = helper.make_function("ours", "Act", ["in"], ["out"], [body], [helper.make_opsetid("", 17)])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("ours", 1))
    proto.graph.node[1].domain, proto.graph.node[1].op_type = "ours", "Act"
    dissected = dissect(proto, tmp_path)
    assert {"fc1": 10} == {one.name: one.units for one in dissected.analysis.groups}
    assert dissected.proof({"fc1": (0, 4)}).passed


def test_names_opset_dynamic_axes_and_metadata_survive_a_cut(tmp_path: Path) -> None:
    proto = cnn()
    onnx.helper.set_model_props(proto, {"author": "somebody"})
    cut = dissect(proto, tmp_path).cut({"c1": (0,)})
    assert [node.name for node in proto.graph.node] == [node.name for node in cut.graph.node]
    assert [one.name for one in proto.graph.initializer] == [one.name for one in cut.graph.initializer]
    assert proto.graph.input[0] == cut.graph.input[0]
    assert 17 == cut.opset_import[0].version
    assert "N" == cut.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert ("author", "somebody") in [(prop.key, prop.value) for prop in cut.metadata_props]
    assert numpy_helper.to_array(cut.graph.initializer[0]).dtype == np.float32


def test_a_message_that_protobuf_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(mlp(), tmp_path)
    monkeypatch.setattr(outline, "MOST_BYTES", path.stat().st_size)
    assert load(path, {}, "upload.onnx").proto == mlp()
    monkeypatch.setattr(outline, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(EspalierError) as caught:
        load(path, {}, "upload.onnx")
    assert "model_too_large" == caught.value.code


def test_a_large_file_is_packed_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    rng = np.random.default_rng(0)
    path.write_bytes(b"".join(rng.integers(0, 1 << number % 4, 1000, np.uint8).tobytes() for number in range(90)))
    whole = gzip_bytes(path)
    assert len(gzip.compress(path.read_bytes(), compresslevel=6)) == pytest.approx(whole, rel=1e-3)
    monkeypatch.setattr(loading, "GZIP_BLOCK", 1000)
    monkeypatch.setattr(loading, "GZIP_BLOCKS", 17)
    assert whole == pytest.approx(gzip_bytes(path), rel=0.2)
    assert whole != gzip_bytes(path)
