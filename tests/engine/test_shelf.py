"""Large tensors lie in files and are mapped. The constants that say what is large are made small here, so that small
models go the same way."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from schemas.errors import EspalierError
from schemas.files import FileList, is_weights
from tests.engine.nets import ROW, ZOO, Node, cnn, feeds_for, gemm, layer, mlp, model, save
from tests.engine.test_run import HALF, job
from worker.engine import shelf as shelves
from worker.engine import verify, written
from worker.engine.evaluate import session
from worker.engine.external import tensors
from worker.engine.graph import Array, freeze
from worker.engine.load import load
from worker.engine.outline import read_model
from worker.engine.shelf import IN_MEMORY, Shelf, place_of
from worker.engine.written import whole


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A shelf on which all but scalars are large, in files of a page or two."""
    monkeypatch.setattr(shelves, "LARGE", 16)
    monkeypatch.setattr(shelves, "DRAWER_BYTES", 1 << 13)
    with Shelf.inside(tmp_path) as made:
        yield made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_arrays_keep_their_numbers_through_release_and_the_end(tmp_path: Path, shelf: Shelf) -> None:
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((7, number)).astype(np.float32) for number in (1, 300, 2000, 5)]
    given += [given[1].T, given[2][:, ::3], given[1].astype(np.float16), given[1] > 0]
    kept = [shelf.keep(array) for array in given]
    shelf.release()
    for one, other in zip(given, kept, strict=True):
        assert not np.shares_memory(one, other)
        np.testing.assert_array_equal(one, other)
    assert len(names(tmp_path / "shelf")) > 3  # several files, one of them larger than usual
    with shelf:
        pass
    assert not (tmp_path / "shelf").exists()
    np.testing.assert_array_equal(given[2], kept[2])


def summed_up(shelf: Shelf) -> Array:
    """Two sums, let go of after each, the second beside a neighbour."""
    sums = shelf.blank((3, 700))
    assert sums is not None
    for number in (1.0, 2.0):
        sums += number
        shelf.let_go(sums)
        neighbour = shelf.blank((700,))
        assert neighbour is not None
        assert not neighbour.any()
        neighbour += 5.0
    return sums


def test_sums_reach_the_file(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "BLANK_BYTES", 1 << 10)
    np.testing.assert_array_equal(np.full((3, 700), 3.0), summed_up(shelf))
    shelf.ease()
    shelf.keep(np.ones(9))  # into a file of its own kind
    np.testing.assert_array_equal(np.full((3, 700), 3.0), summed_up(shelf))
    assert shelf.blank((100,)) is None  # better in memory
    assert IN_MEMORY.blank((1 << 20,)) is None


def test_a_map_that_keeps_its_changes_to_itself_would_lose_sums(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "BLANK_BYTES", 1 << 10)
    monkeypatch.setattr(shelves, "WRITTEN_THROUGH", shelves.COPIED)
    assert not summed_up(shelf).any()


def test_a_section_takes_its_files_along(tmp_path: Path, shelf: Shelf) -> None:
    before = shelf.keep(np.arange(8.0))
    there = names(tmp_path / "shelf")
    with shelf.section():
        inside = shelf.tensor("inside", np.arange(9.0))
        assert isinstance(inside, ir.ExternalTensor)
        assert there < names(tmp_path / "shelf")
        assert shelf.holds(str(inside.location))
    assert there == names(tmp_path / "shelf")
    assert not shelf.holds(str(inside.location))
    shelf.release()
    np.testing.assert_array_equal(np.arange(8.0), before)
    after = shelf.keep(np.arange(10.0))
    np.testing.assert_array_equal(np.arange(10.0), after)


def test_what_is_small_or_known_takes_no_place(tmp_path: Path, shelf: Shelf) -> None:
    few = np.zeros(3, np.float32)
    assert shelf.keep(few) is few
    assert isinstance(shelf.tensor("few", few), ir.Tensor)
    assert not (tmp_path / "shelf").exists()
    many = shelf.keep(np.zeros(8, np.float32))
    assert shelf.keep(many) is many
    one, other = shelf.tensor("one", many), shelf.tensor("other", many.reshape(2, 4))
    assert isinstance(one, ir.ExternalTensor)
    assert isinstance(other, ir.ExternalTensor)
    assert (one.location, one.offset, (8,)) == (other.location, other.offset, one.shape.numpy())
    assert many.tobytes() == one.tobytes()
    part = shelf.tensor("part", many[:5])
    assert isinstance(part, ir.ExternalTensor)
    assert one.offset != part.offset


@pytest.mark.parametrize("name", ZOO)
def test_an_outline_becomes_the_same_file_again(name: str, tmp_path: Path, shelf: Shelf) -> None:
    proto = ZOO[name]()
    outline = read_model(save(proto, tmp_path), shelf, "")
    assert any(map(place_of, outline.graph.initializer))
    assert len(outline.SerializeToString()) != len(proto.SerializeToString())
    for one, other in zip(tensors(proto), tensors(outline), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), shelf.array(other))
    if all(place_of(tensor) is None or tensor in outline.graph.initializer for tensor in tensors(outline)):
        assert proto.SerializeToString(deterministic=True) == b"".join(whole(outline, shelf))


def test_a_cut_off_file_does_not_parse(tmp_path: Path, shelf: Shelf) -> None:
    text = mlp().SerializeToString()
    for end in range(20, len(text), 97):
        (tmp_path / "cut.onnx").write_bytes(text[:end])
        with pytest.raises(DecodeError):
            onnx.ModelProto().ParseFromString(text[:end])
        with pytest.raises(DecodeError):
            read_model(tmp_path / "cut.onnx", shelf, "")


@pytest.mark.parametrize(
    "options",
    [
        HALF,
        {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}},
        {"criterion": {"name": "distinctiveness", "angle_deg": 60}, "compensation": "project"},
        {"amount": {"keep_parameters": 0.5}},
        {"criterion": {"name": "sparsegpt"}, "amount": {"remove_weights": 0.5}},
    ],
)
def test_a_job_gives_the_same_file_and_report_wherever_tensors_lie(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(tmp_path / "held", options)
    monkeypatch.setattr(shelves, "LARGE", 16)
    places: list[str] = []
    take = Shelf.take
    monkeypatch.setattr(shelves, "BLANK_BYTES", 16)
    monkeypatch.setattr(shelves, "EASE_BYTES", 0)
    monkeypatch.setattr(Shelf, "take", lambda *given: (places.append("taken"), take(*given))[1])
    job(tmp_path / "mapped", options)
    assert places
    assert names(tmp_path / "held") == names(tmp_path / "mapped")
    held, mapped = [(tmp_path / name / "artifact.onnx").read_bytes() for name in ("held", "mapped")]
    assert held == mapped


def test_a_constant_node_and_a_weight_behind_a_transpose_come_from_the_shelf(tmp_path: Path, shelf: Shelf) -> None:
    proto = mlp()
    weight = proto.graph.initializer[0]
    assert "fc1.weight" == weight.name
    values = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight).T), "turned")
    proto.graph.node.insert(0, helper.make_node("Transpose", ["turned"], ["fc1.weight"], perm=[1, 0]))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["turned"], value=values))
    del proto.graph.initializer[0]
    loaded = load(save(proto, tmp_path), {}, shelf=shelf)
    found = loaded.model.graph.initializers["fc1.weight"].const_value
    assert isinstance(found, ir.ExternalTensor)
    np.testing.assert_array_equal(numpy_helper.to_array(mlp().graph.initializer[0]), found.numpy())
    path = shelf.save(loaded.proto, "again.onnx")
    feeds = feeds_for(proto, 3)
    np.testing.assert_array_equal(
        session(proto.SerializeToString()).run(None, feeds)[0], session(path).run(None, feeds)[0]
    )


def numbers(path: Path, feeds: dict[str, np.ndarray]) -> Array:
    return np.asarray(session(path).run(None, feeds)[0])


@pytest.mark.parametrize("large", [16, 1 << 20])
def test_weights_go_into_a_file_of_their_own(large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "LARGE", large)
    job(tmp_path / "one", HALF, wide())
    report = job(tmp_path / "two", {**HALF, "external_data": True}, wide())
    ((name, sha),) = report.provenance.artifact_external_sha256.items()
    assert is_weights(name)
    assert [name] == list(FileList.model_validate_json((tmp_path / "two" / "files.json").read_bytes()).files)
    weights, artifact = (tmp_path / "two" / name).read_bytes(), tmp_path / "two" / "artifact.onnx"
    assert hashlib.sha256(weights).hexdigest() == sha
    assert len(weights) + artifact.stat().st_size == report.after.file_bytes
    assert artifact.stat().st_size < 4096 < len(weights)
    verify.verify_artifact(artifact)
    feeds = feeds_for(wide(), 5)
    np.testing.assert_array_equal(numbers(tmp_path / "one" / "artifact.onnx", feeds), numbers(artifact, feeds))
    assert not (tmp_path / "one" / "files.json").exists()
    (tmp_path / "two" / name).unlink()
    with pytest.raises(EspalierError) as caught:
        verify.verify_artifact(artifact)
    assert "artifact_rejected" == caught.value.code


def test_a_large_artifact_is_checked_without_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, broken, checked = save(cnn(), tmp_path), cnn(), []
    check = onnx.checker.check_model
    monkeypatch.setattr(shelves, "LARGE", 16)
    monkeypatch.setattr(verify, "LARGE_FILE", 1)
    monkeypatch.setattr(
        onnx.checker, "check_model", lambda path, full_check: (checked.append(path), check(path, full_check))
    )
    before = names(tmp_path)
    verify.verify_artifact(artifact, tmp_path)
    assert ["checked.onnx"] == [path.name for path in checked]
    assert before == names(tmp_path)
    verify.verify_artifact(artifact)
    assert artifact == checked[-1]
    broken.graph.initializer[0].dims[0] += 1
    with pytest.raises(EspalierError) as caught:
        verify.verify_artifact(save(broken, tmp_path), tmp_path)
    assert "artifact_rejected" == caught.value.code


def test_a_file_that_protobuf_cannot_hold_becomes_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "MOST_BYTES", 4096)
    report = job(tmp_path, HALF, wide())
    assert 1 == len(report.provenance.artifact_external_sha256)
    assert report.after.file_bytes > 4096


def test_where_no_weight_is_worth_it_there_is_one_file(tmp_path: Path) -> None:
    report = job(tmp_path, {**HALF, "external_data": True}, mlp())
    assert {} == report.provenance.artifact_external_sha256
    assert "files.json" not in names(tmp_path)
    assert not any(map(is_weights, names(tmp_path)))


def wide() -> onnx.ModelProto:
    """A network with weights of more than a page."""
    nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "a"), gemm("fc2", "a", "y")]
    return model(nodes, {**layer("fc1", 300, 12), **layer("fc2", 4, 300)}, ROW, ["y"])


def external(folder: Path, *places: tuple[str, int, int]) -> Path:
    """mlp with its first weights in the file `weights.bin`: location, offset and length of each."""
    proto = mlp()
    for tensor, (location, offset, length) in zip(proto.graph.initializer, places, strict=False):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    return save(proto, folder, "external.onnx")


def constants(path: Path, sent: dict[str, Path], shelf: Shelf) -> dict[str, Array]:
    return dict(freeze(load(path, sent, "upload.onnx", shelf).model).constants)


def test_external_data_goes_to_the_shelf(tmp_path: Path, shelf: Shelf) -> None:
    tensor = mlp().graph.initializer[0]
    sent = tmp_path / "blob"
    sent.write_bytes(b"\0" * 12 + tensor.raw_data)
    found = constants(external(tmp_path, ("weights.bin", 12, len(tensor.raw_data))), {"weights.bin": sent}, shelf)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), found[tensor.name])


def test_external_data_of_another_size_than_the_shape_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    sent = tmp_path / "blob"
    sent.write_bytes(bytes(1000))
    with pytest.raises(EspalierError, match="is not one of 100 bytes") as caught:
        constants(external(tmp_path, ("weights.bin", 0, 100)), {"weights.bin": sent}, shelf)
    assert "model_invalid" == caught.value.code


def test_few_bytes_that_many_tensors_claim_are_refused(tmp_path: Path, shelf: Shelf) -> None:
    sent = tmp_path / "blob"
    sizes = [len(tensor.raw_data) for tensor in mlp().graph.initializer]
    sent.write_bytes(bytes(max(sizes) + 1))
    places = [("weights.bin", number % 2, size) for number, size in enumerate(sizes)]
    assert sum(sizes) > 2 * sent.stat().st_size
    with pytest.raises(EspalierError, match="share the external data") as caught:
        constants(external(tmp_path, *places), {"weights.bin": sent}, shelf)
    assert "model_invalid" == caught.value.code


def test_a_model_cannot_name_what_is_on_the_shelf(tmp_path: Path, shelf: Shelf) -> None:
    secret = shelf.keep(np.arange(100.0))
    assert secret.any()
    location = next(iter(names(tmp_path / "shelf")))
    path = external(tmp_path, (f"../shelf/{location}", 0, 800))
    with pytest.raises(EspalierError, match="were not sent"):
        constants(path, {}, shelf)


def test_a_tensor_with_numbers_twice_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    """Protobuf takes the last of two; two references would be a list."""
    proto = cnn()
    tensor = proto.graph.initializer[0]
    twice = TensorProto(raw_data=bytes(len(tensor.raw_data))).SerializeToString()
    text = tensor.SerializeToString() + twice
    rest = onnx.ModelProto()
    rest.CopyFrom(proto)
    del rest.graph.initializer[0]
    graph = rest.graph.SerializeToString() + b"\x2a" + _varint(len(text)) + text
    rest.ClearField("graph")
    path = tmp_path / "twice.onnx"
    path.write_bytes(rest.SerializeToString() + b"\x3a" + _varint(len(graph)) + graph)
    assert onnx.load(path).graph.initializer[-1].name == tensor.name
    with pytest.raises(EspalierError, match="numbers twice") as caught:
        constants(path, {}, shelf)
    assert "model_invalid" == caught.value.code


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7]) if number > 0x7F else bytes([number])


def test_numbers_of_four_bits_are_held(tmp_path: Path, shelf: Shelf) -> None:
    values = (np.arange(64) % 15 - 7).astype(np.int8).reshape(8, 8)
    proto = mlp()
    proto.ir_version = 10
    proto.opset_import[0].version = 21
    packed = helper.make_tensor("four", TensorProto.INT4, (8, 8), values.ravel())
    packed = TensorProto(name="four", data_type=TensorProto.INT4, dims=(8, 8), raw_data=_packed(packed))
    proto.graph.initializer.append(packed)
    proto.graph.node.append(helper.make_node("Cast", ["four"], ["z"], to=TensorProto.FLOAT))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (8, 8)))
    found = constants(save(proto, tmp_path), {}, shelf)
    np.testing.assert_array_equal(values, found["four"].astype(np.int8))


def _packed(tensor: TensorProto) -> bytes:
    return bytes(tensor.raw_data) or bytes(one & 0xFF for one in tensor.int32_data)
