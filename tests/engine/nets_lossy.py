"""Small networks in which something takes statistics over units, as operators and as exporters spell them."""

from collections.abc import Callable

import numpy as np
import onnx

from tests.engine.nets import IMAGE, Node, conv, layer, model

UNITS = 12


def _stream(nodes: list[Node], weights: dict[str, tuple[int, ...] | np.ndarray], opset: int = 18) -> onnx.ModelProto:
    """`nodes` normalise "s", a stream that a block adds to, into "n"."""
    before = [Node("MatMul", ["x", "into"], "e"), Node("MatMul", ["e", "up0"], "u"), Node("Relu", ["u"], "a")]
    before += [Node("MatMul", ["a", "down0"], "d"), Node("Add", ["e", "d"], "s")]
    after = [Node("MatMul", ["n", "up"], "h"), Node("Sigmoid", ["h"], "g"), Node("MatMul", ["g", "head"], "y")]
    sizes = {"into": (6, UNITS), "up0": (UNITS, 7), "down0": (7, UNITS), "up": (UNITS, 9), "head": (9, 4)}
    return model([*before, *nodes, *after], {**sizes, **weights}, {"x": ["N", 5, 6]}, {"y": ["N", 5, 4]}, opset=opset)


def layer_norm() -> onnx.ModelProto:
    nodes = [Node("LayerNormalization", ["s", "ln.scale", "ln.shift"], "n", {"epsilon": 1e-3})]
    return _stream(nodes, {"ln.scale": (UNITS,), "ln.shift": (UNITS,)})


def layer_norm_half() -> onnx.ModelProto:
    proto = layer_norm()
    for one in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(one).astype(np.float16)
        one.CopyFrom(onnx.numpy_helper.from_array(array, one.name))
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    proto.graph.node[0].input[0] = "xh"
    proto.graph.node.insert(0, Node("Cast", ["x"], "xh", {"to": onnx.TensorProto.FLOAT16}).proto())
    return proto


def rms_norm() -> onnx.ModelProto:
    return _stream([Node("RMSNormalization", ["s", "ln.scale"], "n")], {"ln.scale": (UNITS,)}, opset=23)


def decomposed(opset: int = 17) -> onnx.ModelProto:
    """As the older exporter writes LayerNorm; from opset 18 the axes of a mean are an input."""
    axes: dict[str, object] = {"axes": [-1]} if opset < 18 else {}
    listed = [] if opset < 18 else ["last"]
    nodes = [
        Node("ReduceMean", ["s", *listed], "m", axes),
        Node("Sub", ["s", "m"], "c"),
        Node("Pow", ["c", "two"], "q"),
        Node("ReduceMean", ["q", *listed], "v", axes),
        Node("Add", ["v", "eps"], "ve"),
        Node("Sqrt", ["ve"], "sd"),
        Node("Div", ["c", "sd"], "z"),
        Node("Mul", ["z", "ln.scale"], "zs"),
        Node("Add", ["zs", "ln.shift"], "n"),
    ]
    numbers: dict[str, tuple[int, ...] | np.ndarray] = {
        "two": np.array(2, np.float32),
        "eps": np.array(1e-5, np.float32),
        "ln.scale": (UNITS,),
        "ln.shift": (UNITS,),
    }
    last = {"last": np.array([-1])} if listed else {}
    return _stream(nodes, {**numbers, **last}, opset=opset)


def decomposed_rms() -> onnx.ModelProto:
    nodes = [
        Node("Mul", ["s", "s"], "q"),
        Node("ReduceMean", ["q", "last"], "v"),
        Node("Add", ["v", "eps"], "ve"),
        Node("Sqrt", ["ve"], "sd"),
        Node("Reciprocal", ["sd"], "i"),
        Node("Mul", ["s", "i"], "z"),
        Node("Mul", ["z", "ln.scale"], "n"),
    ]
    numbers = {"last": np.array([-1]), "eps": np.array(1e-5, np.float32), "ln.scale": (UNITS,)}
    return _stream(nodes, numbers)


def _image(nodes: list[Node], weights: dict[str, tuple[int, ...] | np.ndarray], opset: int = 21) -> onnx.ModelProto:
    """`nodes` normalise the channels of "c" into "n"."""
    tail = [conv("c2", "n", "z"), Node("Relu", ["z"], "r"), Node("GlobalAveragePool", ["r"], "p")]
    tail += [Node("Flatten", ["p"], "f"), Node("Gemm", ["f", "fc", "b"], "y", {"transB": 1})]
    sizes = {**layer("c1", 6, 3, 3, 3), **layer("c2", 5, 6, 3, 3), "fc": (4, 5), "b": (4,)}
    return model([conv("c1", "x", "c"), *nodes, *tail], {**sizes, **weights}, IMAGE, {"y": ["N", 4]}, opset=opset)


def group_norm_of_one() -> onnx.ModelProto:
    nodes = [Node("GroupNormalization", ["c", "gn.scale", "gn.shift"], "n", {"num_groups": 1})]
    return _image(nodes, {"gn.scale": (6,), "gn.shift": (6,)})


def group_norm_as_instances() -> onnx.ModelProto:
    """As exporters write a GroupNorm of one group: an instance norm between two Reshapes."""
    nodes = [
        Node("Reshape", ["c", "together"], "t"),
        Node("InstanceNormalization", ["t", "one.scale", "zero"], "i"),
        Node("Shape", ["c"], "shape"),
        Node("Reshape", ["i", "shape"], "back"),
        Node("Mul", ["back", "gn.scale"], "s"),
        Node("Add", ["s", "gn.shift"], "n"),
    ]
    numbers: dict[str, tuple[int, ...] | np.ndarray] = {
        "together": np.array([0, 1, -1]),
        "one.scale": (1,),
        "zero": np.zeros(1, np.float32),
        "gn.scale": (6, 1, 1),
        "gn.shift": (6, 1, 1),
    }
    return _image(nodes, numbers, opset=17)


def mean_over_channels() -> onnx.ModelProto:
    """A gate for each position from the mean of its channels (as spatial attention has it)."""
    nodes = [
        Node("ReduceMean", ["c"], "m", {"axes": [1], "keepdims": 1}),
        Node("Sigmoid", ["m"], "g"),
        Node("Mul", ["c", "g"], "n"),
    ]
    return _image(nodes, {}, opset=17)


LOSSY: dict[str, Callable[[], onnx.ModelProto]] = {
    "layer_norm": layer_norm,
    "layer_norm_half": layer_norm_half,
    "rms_norm": rms_norm,
    "decomposed": decomposed,
    "decomposed_18": lambda: decomposed(18),
    "decomposed_rms": decomposed_rms,
    "group_norm_of_one": group_norm_of_one,
    "group_norm_as_instances": group_norm_as_instances,
    "mean_over_channels": mean_over_channels,
}


def _over_length(nodes: list[Node], numbers: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    weights: dict[str, tuple[int, ...] | np.ndarray] = dict(numbers or {})
    return _stream(nodes, weights)


def unit_length() -> onnx.ModelProto:
    """As torch's normalize is exported: the length, at least a little, and a division."""
    nodes = [
        Node("ReduceL2", ["s", "last"], "l"),
        Node("Clip", ["l", "little"], "lc"),
        Node("Div", ["s", "lc"], "n"),
    ]
    return _over_length(nodes, {"last": np.array([-1]), "little": np.array(1e-12, np.float32)})


def lp_norm() -> onnx.ModelProto:
    return _over_length([Node("LpNormalization", ["s"], "n", {"axis": -1, "p": 1})])


def summed(key: str) -> onnx.ModelProto:
    nodes = [
        Node(key, ["s", "last"], "l"),
        Node("Tanh", ["l"], "t"),
        Node("Mul", ["s", "t"], "n"),
    ]
    return _over_length(nodes, {"last": np.array([-1])})


SUMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "unit_length": unit_length,
    "lp_norm": lp_norm,
    "sum": lambda: summed("ReduceSum"),
    "sum_of_squares": lambda: summed("ReduceSumSquare"),
    "l1": lambda: summed("ReduceL1"),
}
