"""Small networks for the engine's tests, written node by node, with seeded weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
INDICES = 5  # integer inputs lie below


@dataclass(frozen=True)
class Node:
    """One output by name, or several in order ("" where one is not wanted)."""

    op: str
    inputs: Sequence[str]
    output: str | Sequence[str]
    attrs: Mapping[str, object] | None = None
    domain: str = ""

    def outputs(self) -> list[str]:
        return [self.output] if isinstance(self.output, str) else list(self.output)

    def proto(self) -> onnx.NodeProto:
        name = f"/{next(filter(None, self.outputs()))}/{self.op}"
        return helper.make_node(
            self.op, self.inputs, self.outputs(), name=name, domain=self.domain, **dict(self.attrs or {})
        )


def model(
    nodes: Sequence[Node],
    weights: Mapping[str, Sequence[int] | np.ndarray],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str] | Mapping[str, Sequence[int | str]],
    seed: int = 0,
    opset: int = OPSET,
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    """`weights` maps names to arrays, or to shapes that become seeded initializers. `integers`: inputs of int64.
    Outputs have shapes where inference cannot tell them."""
    rng = np.random.default_rng(seed)
    initializers = []
    for name, given in weights.items():
        if isinstance(given, np.ndarray):
            array = given
        elif name.endswith(("var", "scale")):
            array = rng.uniform(0.5, 1.5, given).astype(np.float32)
        else:
            array = (rng.standard_normal(given) / np.sqrt(max(np.prod(given[1:]), 1))).astype(np.float32)
        initializers.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        [node.proto() for node in nodes],
        "net",
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name in integers else TensorProto.FLOAT, list(shape)
            )
            for name, shape in inputs.items()
        ],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, list(outputs[name]) if isinstance(outputs, Mapping) else None
            )
            for name in outputs
        ],
        initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(proto)
    del inferred.graph.value_info[:]
    onnx.checker.check_model(inferred)
    return inferred


def conv(name: str, source: str, output: str, pads: int = 1, **attrs: object) -> Node:
    return Node("Conv", [source, f"{name}.weight", f"{name}.bias"], output, {"pads": [pads] * 4, **attrs})


def gemm(name: str, source: str, output: str) -> Node:
    return Node("Gemm", [source, f"{name}.weight", f"{name}.bias"], output, {"transB": 1})


def layer(name: str, *shape: int) -> dict[str, Sequence[int]]:
    """Weight and bias of a Conv or a Gemm (transB)."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def bn(name: str, channels: int) -> dict[str, Sequence[int]]:
    return {f"{name}.{part}": (channels,) for part in ("scale", "shift", "mean", "var")}


def norm(name: str, source: str, output: str) -> Node:
    return Node(
        "BatchNormalization", [source, *(f"{name}.{part}" for part in ("scale", "shift", "mean", "var"))], output
    )


IMAGE = {"x": ["N", 3, 8, 8]}
ROW = {"x": ["N", 12]}


def mlp(activation: str = "Relu", widths: tuple[int, int, int] = (10, 8, 4)) -> onnx.ModelProto:
    nodes = [gemm("fc1", "x", "h"), Node(activation, ["h"], "a"), gemm("fc2", "a", "b"), Node(activation, ["b"], "c")]
    first, second, last = widths
    weights = {**layer("fc1", first, 12), **layer("fc2", second, first), **layer("fc3", last, second)}
    return model([*nodes, gemm("fc3", "c", "y")], weights, ROW, ["y"])


def matmul_mlp() -> onnx.ModelProto:
    nodes = [
        Node("MatMul", ["x", "w1"], "h"),
        Node("Add", ["h", "b1"], "hb"),
        Node("Tanh", ["hb"], "a"),
        Node("MatMul", ["a", "w2"], "y"),
    ]
    return model(nodes, {"w1": (12, 9), "b1": (9,), "w2": (9, 4)}, ROW, ["y"])


def matmul_from_the_left() -> onnx.ModelProto:
    """y = W2 tanh(W1 x): the constants stand on the left, units are rows."""
    nodes = [Node("MatMul", ["w1", "x"], "h"), Node("Tanh", ["h"], "a"), Node("MatMul", ["w2", "a"], "y")]
    return model(nodes, {"w1": (9, 6), "w2": (4, 9)}, {"x": ["N", 6, 5]}, ["y"])


def cnn() -> onnx.ModelProto:
    nodes = [
        conv("c1", "x", "c1o"),
        norm("n1", "c1o", "n1o"),
        Node("Relu", ["n1o"], "r1"),
        Node("MaxPool", ["r1"], "p1", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        conv("c2", "p1", "c2o"),
        Node("Relu", ["c2o"], "r2"),
        Node("Flatten", ["r2"], "f"),
        gemm("fc1", "f", "g"),
        Node("Sigmoid", ["g"], "s"),
        gemm("fc2", "s", "y"),
    ]
    weights = {**layer("c1", 6, 3, 3, 3), **bn("n1", 6), **layer("c2", 5, 6, 3, 3)}
    return model(nodes, {**weights, **layer("fc1", 7, 80), **layer("fc2", 4, 7)}, IMAGE, ["y"])


def residual() -> onnx.ModelProto:
    """A stream of six channels that three convolutions write and three layers read."""
    nodes = [
        conv("stem", "x", "s"),
        conv("a1", "s", "a1o"),
        Node("Relu", ["a1o"], "a1r"),
        conv("a2", "a1r", "a2o"),
        Node("Add", ["s", "a2o"], "sum"),
        Node("Relu", ["sum"], "r"),
        conv("b1", "r", "b1o"),
        Node("Add", ["r", "b1o"], "sum2"),
        Node("GlobalAveragePool", ["sum2"], "g"),
        Node("Flatten", ["g"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("stem", 6, 3, 3, 3), **layer("a1", 5, 6, 3, 3), **layer("a2", 6, 5, 3, 3)}
    return model(nodes, {**weights, **layer("b1", 6, 6, 3, 3), **layer("fc", 4, 6)}, IMAGE, ["y"])


def dense_block() -> onnx.ModelProto:
    """Two branches joined by Concat: the second one's channels are shifted by the first one's."""
    nodes = [
        conv("a", "x", "ao"),
        Node("Relu", ["ao"], "ar"),
        conv("b", "ar", "bo"),
        Node("Tanh", ["bo"], "bt"),
        Node("Concat", ["ar", "bt"], "cat", {"axis": 1}),
        conv("c", "cat", "co"),
        Node("GlobalMaxPool", ["co"], "g"),
        Node("Flatten", ["g"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("a", 4, 3, 3, 3), **layer("b", 5, 4, 3, 3), **layer("c", 6, 9, 3, 3), **layer("fc", 4, 6)}
    return model(nodes, weights, IMAGE, ["y"])


def mobile() -> onnx.ModelProto:
    """Pointwise, depthwise (two outputs a channel), pointwise."""
    nodes = [
        conv("pw1", "x", "p", pads=0),
        Node("Relu", ["p"], "pr"),
        conv("dw", "pr", "d", group=6),
        Node("Relu", ["d"], "dr"),
        conv("pw2", "dr", "q", pads=0),
        Node("GlobalAveragePool", ["q"], "g"),
        Node("Flatten", ["g"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("pw1", 6, 3, 1, 1), **layer("dw", 12, 1, 3, 3), **layer("pw2", 5, 12, 1, 1)}
    return model(nodes, {**weights, **layer("fc", 4, 5)}, IMAGE, ["y"])


def grouped() -> onnx.ModelProto:
    nodes = [
        conv("c1", "x", "a"),
        Node("Relu", ["a"], "ar"),
        conv("c2", "ar", "b", group=2),
        Node("Relu", ["b"], "br"),
        conv("c3", "br", "c"),
        Node("GlobalAveragePool", ["c"], "g"),
        Node("Flatten", ["g"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("c1", 8, 3, 3, 3), **layer("c2", 6, 4, 3, 3), **layer("c3", 5, 6, 3, 3), **layer("fc", 4, 5)}
    return model(nodes, weights, IMAGE, ["y"])


def squeeze_excite() -> onnx.ModelProto:
    nodes = [
        conv("c1", "x", "c"),
        Node("GlobalAveragePool", ["c"], "g"),
        conv("down", "g", "d", pads=0),
        Node("Tanh", ["d"], "dr"),
        conv("up", "dr", "u", pads=0),
        Node("Sigmoid", ["u"], "gate"),
        Node("Mul", ["c", "gate"], "m"),
        conv("c2", "m", "o"),
        Node("ReduceMean", ["o"], "rm", {"axes": [2, 3], "keepdims": 0}),
        gemm("fc", "rm", "y"),
    ]
    weights = {**layer("c1", 6, 3, 3, 3), **layer("down", 3, 6, 1, 1), **layer("up", 6, 3, 1, 1)}
    return model(nodes, {**weights, **layer("c2", 5, 6, 3, 3), **layer("fc", 4, 5)}, IMAGE, ["y"])


def reshaped() -> onnx.ModelProto:
    """Reshape with a constant target that names the flattened size."""
    nodes = [
        conv("c1", "x", "c"),
        Node("Relu", ["c"], "r"),
        Node("Reshape", ["r", "target"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("c1", 6, 3, 3, 3), "target": np.array([0, 384]), **layer("fc", 4, 384)}
    return model(nodes, weights, IMAGE, ["y"])


def reshaped_at_run_time() -> onnx.ModelProto:
    """x.view(x.size(0), -1) as exporters write it without folding."""
    nodes = [
        conv("c1", "x", "c"),
        Node("Relu", ["c"], "r"),
        Node("Shape", ["r"], "shape"),
        Node("Gather", ["shape", "zero"], "n", {"axis": 0}),
        Node("Unsqueeze", ["n", "axes"], "n1"),
        Node("Concat", ["n1", "rest"], "target", {"axis": 0}),
        Node("Reshape", ["r", "target"], "f"),
        gemm("fc", "f", "y"),
    ]
    shapes = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    return model(nodes, {**layer("c1", 6, 3, 3, 3), **shapes, **layer("fc", 4, 384)}, IMAGE, ["y"])


def shared_bias() -> onnx.ModelProto:
    """One bias initializer for two layers of the same width, as exporters write equal tensors."""
    nodes = [
        Node("Gemm", ["x", "fc1.weight", "bias"], "a", {"transB": 1}),
        Node("Relu", ["a"], "ar"),
        Node("Gemm", ["ar", "fc2.weight", "bias"], "b", {"transB": 1}),
        Node("Relu", ["b"], "br"),
        gemm("fc3", "br", "y"),
    ]
    weights = {"fc1.weight": (8, 12), "fc2.weight": (8, 8), "bias": (8,), **layer("fc3", 4, 8)}
    return model(nodes, weights, ROW, ["y"])


def classifier() -> onnx.ModelProto:
    """Ends in Softmax and ArgMax: equality is proven before the choice."""
    nodes = [
        gemm("fc1", "x", "h"),
        Node("Relu", ["h"], "a"),
        gemm("fc2", "a", "l"),
        Node("Softmax", ["l"], "p", {"axis": -1}),
    ]
    return model(nodes, {**layer("fc1", 10, 12), **layer("fc2", 4, 10)}, ROW, ["p"])


ZOO = {
    build.__name__: build
    for build in (
        mlp,
        matmul_mlp,
        matmul_from_the_left,
        cnn,
        residual,
        dense_block,
        mobile,
        grouped,
        squeeze_excite,
        reshaped,
        reshaped_at_run_time,
        shared_bias,
        classifier,
    )
}


def feeds_for(proto: onnx.ModelProto, samples: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for put in proto.graph.input:
        dims = [dim.dim_value or samples for dim in put.type.tensor_type.shape.dim]
        if put.type.tensor_type.elem_type == TensorProto.INT64:
            found[put.name] = rng.integers(0, INDICES, dims)
        else:
            found[put.name] = rng.standard_normal(dims).astype(np.float32)
    return found


def balanced(proto: onnx.ModelProto, bias: str) -> onnx.ModelProto:
    """The same network with its last bias moved so that random samples fall into different classes."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    mean = np.asarray(session.run(None, feeds_for(proto, 500))[0]).mean(0)
    tensor = next(one for one in proto.graph.initializer if one.name == bias)
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) - mean).astype(np.float32), bias))
    return proto


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path
