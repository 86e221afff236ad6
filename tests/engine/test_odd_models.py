"""Models that real exporters and people's scripts make, none of them usual: a pruned model, or words that help."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.errors import EspalierError
from schemas.report import Report
from schemas.request import parse_options
from tests.engine.dissect import assert_exact, dissect
from tests.engine.nets import Node, feeds_for, mlp, model, residual, save
from tests.engine.test_run import HALF, as_input, job
from worker.engine import chance
from worker.engine.run import Inputs, Limits, prune
from worker.engine.verify import verify_artifact

WEIGHTS = {"w": (6, 8), "v": (8, 3)}
ROWS = {"x": ["N", 6]}
Change = Callable[[onnx.ModelProto], object]
SINGLE = {"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}}


def _between(*nodes: Node, weights: dict[str, np.ndarray] | None = None, last: str = "r") -> onnx.ModelProto:
    """Two products, and `nodes` between "h" and `last`."""
    around = [Node("MatMul", ["x", "w"], "h"), *nodes, Node("MatMul", [last, "v"], "y")]
    return model(around, {**WEIGHTS, **(weights or {})}, ROWS, {"y": ["N", 3]})


def plain() -> onnx.ModelProto:
    return _between(Node("Relu", ["h"], "r"))


def changed(change: Change) -> onnx.ModelProto:
    proto = plain()
    change(proto)
    return proto


def noisy() -> onnx.ModelProto:
    """A variational autoencoder's heart: what is read is drawn anew in each run."""
    nodes = [
        Node("Relu", ["h"], "a"),
        Node("MatMul", ["a", "m"], "mean"),
        Node("RandomNormalLike", ["mean"], "noise"),
        Node("Bernoulli", ["half"], "gate"),
        Node("Mul", ["noise", "gate"], "gated"),
        Node("Add", ["mean", "gated"], "z"),
        Node("MatMul", ["z", "d"], "o"),
        Node("Relu", ["o"], "r"),
    ]
    weights: dict[str, np.ndarray] = {"half": np.full(4, 0.5, np.float32)}
    rng = np.random.default_rng(3)
    weights |= {
        "m": rng.standard_normal((8, 4)).astype(np.float32),
        "d": rng.standard_normal((4, 8)).astype(np.float32),
    }
    return _between(*nodes, weights=weights)


def without_output_shape() -> onnx.ModelProto:
    return changed(lambda proto: proto.graph.output[0].type.tensor_type.ClearField("shape"))


def ends_in_a_sequence() -> onnx.ModelProto:
    proto = plain()
    proto.graph.node.append(helper.make_node("SequenceConstruct", ["y", "y"], ["s"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    return proto


def ends_in_a_scalar() -> onnx.ModelProto:
    proto = plain()
    proto.graph.node.append(helper.make_node("ReduceMax", ["y"], ["s"], keepdims=0))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    return proto


def by_a_vector() -> onnx.ModelProto:
    nodes = [Node("MatMul", ["x", "w"], "h"), Node("Relu", ["h"], "r"), Node("MatMul", ["r", "v"], "y")]
    return model(nodes, {"w": (6, 8), "v": (8,)}, {"x": ["N", 5, 6]}, {"y": ["N", 5]})


PRUNED = {one.__name__: one for one in (noisy, without_output_shape, ends_in_a_sequence, ends_in_a_scalar, by_a_vector)}


@pytest.mark.parametrize("options", [HALF, SINGLE], ids=["units", "weights"])
@pytest.mark.parametrize("name", PRUNED)
def test_it_is_pruned_and_the_file_is_whole(name: str, options: dict[str, object], tmp_path: Path) -> None:
    report = _job(PRUNED[name](), options, tmp_path)
    assert report.exactness.passed
    assert report.exactness.mask_has_effect
    verify_artifact(tmp_path / "artifact.onnx")


def _job(proto: onnx.ModelProto, options: dict[str, object], folder: Path) -> Report:
    np.savez(folder / "data.npz", **feeds_for(proto, 40))
    inputs = Inputs(as_input(save(proto, folder)), {}, as_input(folder / "data.npz"), None)
    return prune(parse_options(options), inputs, folder, Limits(1, 1 << 30), lambda _: None)


def test_a_model_that_draws_is_compared_with_equal_draws_and_people_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = _job(noisy(), HALF, tmp_path)
    assert any("draws random numbers" in one for one in report.warnings)
    kept = [node for node in onnx.load(tmp_path / "artifact.onnx").graph.node if node.op_type == "RandomNormalLike"]
    assert [[]] == [list(node.attribute) for node in kept]  # the file draws as it did
    monkeypatch.setattr("worker.engine.surgery.settle", lambda _: None)
    with pytest.raises(EspalierError) as caught:
        _job(noisy(), HALF, tmp_path)
    assert "exactness_failed" == caught.value.code


def test_seeds_follow_the_names_and_reach_into_subgraphs() -> None:
    inner = helper.make_graph([helper.make_node("RandomUniform", [], ["u"], shape=[1])], "b", [], [])
    outer = helper.make_node("If", ["c"], ["f"], then_branch=inner, else_branch=inner)
    draw = helper.make_node("RandomNormalLike", ["f"], ["n"])
    own = helper.make_node("RandomNormalLike", ["f"], ["o"], seed=3.0)
    chance.settle([outer, draw, own])
    seeds = [
        attr.f for node in (draw, own, outer.attribute[0].g.node[0]) for attr in node.attribute if attr.name == "seed"
    ]
    assert 3 == len(set(seeds))
    assert 3.0 == seeds[1]


def test_what_no_output_can_tell_is_said_and_does_not_stop_the_job(tmp_path: Path) -> None:
    report = _job(ends_in_a_scalar(), HALF, tmp_path)
    assert report.after.accuracy is None
    assert any(one.startswith("Accuracy was not judged: output 's' has shape ()") for one in report.warnings)
    with pytest.raises(EspalierError) as caught:
        _job(ends_in_a_scalar(), {**HALF, "evaluation": {"output": "s"}}, tmp_path)
    assert "evaluation_invalid" == caught.value.code


def test_a_vector_reads_units(tmp_path: Path) -> None:
    dissected = dissect(by_a_vector(), tmp_path)
    assert [8] == [group.units for group in dissected.analysis.groups]
    assert_exact(dissected, 0)


def _sparse(proto: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), "values")
    where = numpy_helper.from_array(np.array([0, 9]), "where")
    weight = helper.make_sparse_tensor(values, where, [6, 8])
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=weight))
    del proto.graph.initializer[0]


def _training(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].CopyFrom(helper.make_node("Dropout", ["h", "ratio", "mode"], ["r"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "mode"))


def _infinite(proto: onnx.ModelProto) -> None:
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[0] = np.inf
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))


def _unnamed_twice(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = "same"


REFUSED: dict[str, tuple[Change, str, str]] = {
    "no output": (lambda proto: proto.graph.ClearField("output"), "model_invalid", "has no output"),
    "sparse constant": (_sparse, "model_format_unsupported", "sparse"),
    "input without shape": (
        lambda proto: proto.graph.input[0].type.tensor_type.ClearField("shape"),
        "model_format_unsupported",
        "'x' states no shape",
    ),
    "input that holds nothing": (
        lambda proto: (
            proto.graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=0))
        ),
        "model_invalid",
        "size 0 or less",
    ),
    "input of a negative size": (
        lambda proto: (
            proto.graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=-4))
        ),
        "model_invalid",
        "size 0 or less",
    ),
    "input that no machine holds": (
        lambda proto: (
            proto.graph.input[0]
            .type.tensor_type.shape.dim[0]
            .CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=1 << 62))
        ),
        "model_invalid",
        "no machine holds them",
    ),
    "weight of another size than it states": (
        lambda proto: proto.graph.initializer[0].dims.__setitem__(1, 7),
        "model_invalid",
        "the constant 'w' is (6, 7) of float32, 168 bytes, and holds 192",
    ),
    "attribute of a length that nothing takes": (
        lambda proto: proto.graph.node[1].CopyFrom(helper.make_node("Transpose", ["h"], ["r"], perm=[1, 0, -1])),
        "model_does_not_run",
        "perm",
    ),
    "training mode": (_training, "model_format_unsupported", "training mode"),
    "infinite weight": (_infinite, "model_does_not_run", "'y'"),
    "equal names": (_unnamed_twice, "model_does_not_run", "two nodes with same node name"),
    "old operator": (
        lambda proto: (proto.graph.node[1].CopyFrom(helper.make_node("Upsample", ["h"], ["r"], scales=[1.0, 1.0])),),
        "model_invalid",
        "Upsample",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_words(name: str, tmp_path: Path) -> None:
    change, code, words = REFUSED[name]
    np.savez(tmp_path / "data.npz", **feeds_for(plain(), 40))
    inputs = Inputs(as_input(save(changed(change), tmp_path)), {}, as_input(tmp_path / "data.npz"), None)
    with pytest.raises(EspalierError) as caught:
        prune(parse_options(HALF), inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    assert code == caught.value.code
    assert words in caught.value.failure.detail
    assert str(tmp_path) not in caught.value.failure.detail


def test_a_type_that_onnxruntime_has_no_kernel_for_is_told_with_the_way_out(tmp_path: Path) -> None:
    nodes = [Node("Cast", ["x"], "b", {"to": TensorProto.BFLOAT16}), Node("MatMul", ["b", "w"], "h")]
    nodes += [Node("Relu", ["h"], "r"), Node("MatMul", ["r", "v"], "o"), Node("Cast", ["o"], "y", {"to": 1})]
    proto = _half_precision(nodes)
    with pytest.raises(EspalierError) as caught:
        job(tmp_path, HALF, proto, calibration=False)
    assert "model_does_not_run" == caught.value.code
    assert "bfloat16" in caught.value.failure.hint


def _half_precision(nodes: list[Node]) -> onnx.ModelProto:
    weights = [helper.make_tensor(name, TensorProto.BFLOAT16, shape, np.ones(np.prod(shape)).tolist())
               for name, shape in WEIGHTS.items()]  # fmt: skip
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 6), ("y", 3))]
    graph = helper.make_graph([node.proto() for node in nodes], "net", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _optimised(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """As onnxruntime writes it once it has fused what it can."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def _gelu_block() -> onnx.ModelProto:
    """x W + b, then gelu as exporters spell it; a product with a transposed operand."""
    nodes = [
        Node("MatMul", ["x", "w"], "h"),
        Node("Add", ["h", "b"], "hb"),
        Node("Div", ["hb", "root"], "d"),
        Node("Erf", ["d"], "e"),
        Node("Add", ["e", "one"], "eo"),
        Node("Mul", ["hb", "eo"], "m"),
        Node("Mul", ["m", "half"], "g"),
        Node("Transpose", ["g"], "t", {"perm": [0, 2, 1]}),
        Node("MatMul", ["g", "t"], "s"),
        Node("MatMul", ["s", "g"], "sg"),
        Node("MatMul", ["sg", "v"], "y"),
    ]
    numbers = {
        "root": np.array(np.sqrt(2), np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    return model(nodes, {"w": (6, 8), "b": (8,), "v": (8, 3), **numbers}, {"x": ["N", 5, 6]}, {"y": ["N", 5, 3]})


@pytest.mark.parametrize(("build", "fused"), [
    (_gelu_block, {"BiasGelu", "FusedMatMul"}),
    (residual, {"FusedConv"}),
    (mlp, {"FusedGemm"}),
])  # fmt: skip
def test_what_the_optimiser_fuses_prunes_as_before(
    build: Callable[[], onnx.ModelProto], fused: set[str], tmp_path: Path
) -> None:
    proto = _optimised(build(), tmp_path)
    assert fused <= {node.op_type for node in proto.graph.node}
    dissected = dissect(proto, tmp_path, given=feeds_for(build(), 16))
    before = dissect(build(), tmp_path).analysis.groups
    assert sorted(group.units for group in before) == sorted(group.units for group in dissected.analysis.groups)
    assert_exact(dissected, 0)
