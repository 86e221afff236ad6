"""Small networks of operators with weights and statistics, written node by node."""

from collections.abc import Callable

import numpy as np
import onnx

from tests.engine.nets import IMAGE, ROW, Node, conv, gemm, layer, model, norm

SEQUENCE = {"x": ["N", 5, 12]}  # five steps of twelve features


def _pooled(source: str, *, width: int, name: str = "fc") -> tuple[list[Node], dict[str, tuple[int, ...]]]:
    nodes = [
        Node("GlobalAveragePool", [source], "pooled"),
        Node("Flatten", ["pooled"], "flat"),
        gemm(name, "flat", "y"),
    ]
    return nodes, {f"{name}.weight": (4, width), f"{name}.bias": (4,)}


def transposed() -> onnx.ModelProto:
    """Down, up with a transposed convolution, and once more with a grouped one."""
    tail, fc = _pooled("gr", width=6)
    nodes = [
        conv("c1", "x", "c", strides=[2, 2]),
        Node("Relu", ["c"], "r"),
        Node("ConvTranspose", ["r", "up.weight", "up.bias"], "u", {"strides": [2, 2], "kernel_shape": [2, 2]}),
        Node("Relu", ["u"], "ur"),
        Node("ConvTranspose", ["ur", "g.weight", "g.bias"], "g", {"group": 2, "pads": [1, 1, 1, 1]}),
        Node("Sigmoid", ["g"], "gr"),
        *tail,
    ]
    weights = {**layer("c1", 6, 3, 3, 3), "up.weight": (6, 8, 2, 2), "up.bias": (8,), "g.weight": (8, 3, 3, 3)}
    return model(nodes, {**weights, "g.bias": (6,), **fc}, IMAGE, ["y"])


def transposed_depthwise() -> onnx.ModelProto:
    """Two outputs for each channel, then a convolution that reads them."""
    tail, fc = _pooled("c2r", width=5)
    nodes = [
        conv("c1", "x", "c"),
        Node("Relu", ["c"], "r"),
        Node("ConvTranspose", ["r", "up.weight", "up.bias"], "u", {"strides": [2, 2], "group": 6}),
        conv("c2", "u", "c2o"),
        Node("Relu", ["c2o"], "c2r"),
        *tail,
    ]
    weights = {**layer("c1", 6, 3, 3, 3), "up.weight": (6, 2, 2, 2), "up.bias": (12,), **layer("c2", 5, 12, 3, 3)}
    return model(nodes, {**weights, **fc}, IMAGE, ["y"])


def instance_norm() -> onnx.ModelProto:
    tail, fc = _pooled("c2r", width=5)
    nodes = [
        conv("c1", "x", "c"),
        Node("InstanceNormalization", ["c", "in.scale", "in.shift"], "i"),
        Node("Relu", ["i"], "r"),
        conv("c2", "r", "c2o"),
        Node("Relu", ["c2o"], "c2r"),
        *tail,
    ]
    weights = {**layer("c1", 6, 3, 3, 3), "in.scale": (6,), "in.shift": (6,), **layer("c2", 5, 6, 3, 3), **fc}
    return model(nodes, weights, IMAGE, ["y"])


def group_norm(groups: int = 4) -> onnx.ModelProto:
    """Twelve channels in four groups: units are groups."""
    tail, fc = _pooled("c2r", width=5)
    nodes = [
        conv("c1", "x", "c"),
        Node("GroupNormalization", ["c", "gn.scale", "gn.shift"], "i", {"num_groups": groups}),
        Node("Relu", ["i"], "r"),
        conv("c2", "r", "c2o"),
        Node("Relu", ["c2o"], "c2r"),
        *tail,
    ]
    weights = {**layer("c1", 12, 3, 3, 3), "gn.scale": (12,), "gn.shift": (12,), **layer("c2", 5, 12, 3, 3)}
    return model(nodes, {**weights, **fc}, IMAGE, {"y": ["N", 4]}, opset=21)


def normalised_over(node: Node) -> onnx.ModelProto:
    """A convolution whose channels `node` normalises, from "c" to "i"."""
    tail, fc = _pooled("c2o", width=5)
    nodes = [conv("c1", "x", "c"), node, conv("c2", "i", "c2o"), *tail]
    weights = {**layer("c1", 6, 3, 3, 3), **layer("c2", 5, 6, 3, 3), "ones": np.ones((8,), np.float32), **fc}
    return model(nodes, weights, IMAGE, ["y"])


def transformer_block() -> onnx.ModelProto:
    """LayerNorm pins the stream; what is inside the MLP is free."""
    nodes = [
        Node("LayerNormalization", ["x", "ln.scale", "ln.shift"], "n"),
        Node("MatMul", ["n", "up"], "h"),
        Node("Add", ["h", "up.bias"], "hb"),
        Node("Sigmoid", ["hb"], "a"),
        Node("MatMul", ["a", "down"], "d"),
        Node("Add", ["x", "d"], "y"),
    ]
    weights = {"ln.scale": (12,), "ln.shift": (12,), "up": (12, 10), "up.bias": (10,), "down": (10, 12)}
    return model(nodes, weights, SEQUENCE, ["y"])


def one_head() -> onnx.ModelProto:
    """Attention with one head: the width of queries and keys is contracted without a constant."""
    nodes = [
        Node("MatMul", ["x", "wq"], "q"),
        Node("MatMul", ["x", "wk"], "k"),
        Node("MatMul", ["x", "wv"], "v"),
        Node("Transpose", ["k"], "kt", {"perm": [0, 2, 1]}),
        Node("MatMul", ["q", "kt"], "s"),
        Node("Softmax", ["s"], "p", {"axis": -1}),
        Node("MatMul", ["p", "v"], "o"),
        Node("MatMul", ["o", "wo"], "y"),
    ]
    return model(nodes, {"wq": (12, 8), "wk": (12, 8), "wv": (12, 6), "wo": (6, 3)}, SEQUENCE, ["y"])


def many_heads() -> onnx.ModelProto:
    """As torch exports it: MatMul, Reshape, Transpose for each of queries, keys and values; four heads of three."""
    nodes = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            Node("MatMul", ["x", f"w{name}"], f"{name}0"),
            Node("Reshape", [f"{name}0", "split"], f"{name}1"),
            Node("Transpose", [f"{name}1"], name, {"perm": perm}),
        ]
    nodes += [
        Node("MatMul", ["q", "k"], "s"),
        Node("Mul", ["s", "root"], "sr"),
        Node("Softmax", ["sr"], "p", {"axis": -1}),
        Node("MatMul", ["p", "v"], "o"),
        Node("Transpose", ["o"], "ot", {"perm": [0, 2, 1, 3]}),
        Node("Reshape", ["ot", "join"], "j"),
        Node("MatMul", ["j", "wo"], "y"),
    ]
    shapes = {"split": np.array([0, 0, 4, 3]), "join": np.array([0, 0, 12]), "root": np.array(0.5, np.float32)}
    return model(nodes, {**{f"w{one}": (12, 12) for one in "qkv"}, "wo": (12, 5), **shapes}, SEQUENCE, ["y"])


def grouped_query_attention() -> onnx.ModelProto:
    """The operator itself: four query heads read two heads of keys and values, three wide."""
    nodes = [
        Node("MatMul", ["x", "wq"], "q"),
        Node("MatMul", ["x", "wk"], "k"),
        Node("MatMul", ["x", "wv"], "v"),
        Node("Attention", ["q", "k", "v"], "o", {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1}),
        Node("MatMul", ["o", "wo"], "y"),
    ]
    return model(nodes, {"wq": (12, 12), "wk": (12, 6), "wv": (12, 6), "wo": (12, 3)}, SEQUENCE, ["y"], opset=23)


def rotary_attention() -> onnx.ModelProto:
    """Queries and keys turn by their place before they meet; four heads of four."""
    rng = np.random.default_rng(0)
    nodes = [
        Node("MatMul", ["x", "wq"], "q0"),
        Node("MatMul", ["x", "wk"], "k0"),
        Node("MatMul", ["x", "wv"], "v"),
        Node("RotaryEmbedding", ["q0", "cos", "sin", "places"], "q", {"num_heads": 4}),
        Node("RotaryEmbedding", ["k0", "cos", "sin", "places"], "k", {"num_heads": 4}),
        Node("Attention", ["q", "k", "v"], "o", {"q_num_heads": 4, "kv_num_heads": 4}),
        Node("MatMul", ["o", "wo"], "y"),
    ]
    angles = rng.uniform(0, np.pi, (5, 2)).astype(np.float32)
    caches = {"cos": np.cos(angles), "sin": np.sin(angles), "places": np.arange(5)[None].repeat(16, 0)}
    weights = {"wq": (12, 16), "wk": (12, 16), "wv": (12, 16), "wo": (16, 3)}
    return model(nodes, {**weights, **caches}, {"x": [16, 5, 12]}, ["y"], opset=23)


def einsum() -> onnx.ModelProto:
    """Attention written with Einsum throughout: heads and both widths are axes of the weights."""
    nodes = [
        Node("Einsum", ["x", "wq"], "q", {"equation": "bte,ehd->bthd"}),
        Node("Einsum", ["x", "wk"], "k", {"equation": "bte,ehd->bthd"}),
        Node("Einsum", ["x", "wv"], "v", {"equation": "bte,ehv->bthv"}),
        Node("Einsum", ["q", "k"], "s", {"equation": "bthd,bshd->bhts"}),
        Node("Softmax", ["s"], "p", {"axis": -1}),
        Node("Einsum", ["p", "v"], "o", {"equation": "bhts,bshv->bthv"}),
        Node("Einsum", ["o", "wo"], "y", {"equation": "bthv,hvo->bto"}),
    ]
    weights = {"wq": (12, 4, 3), "wk": (12, 4, 3), "wv": (12, 4, 5), "wo": (4, 5, 3)}
    return model(nodes, weights, SEQUENCE, ["y"])


def tied_embedding() -> onnx.ModelProto:
    """The table that makes the stream also reads it: a weight tied with itself, on purpose."""
    nodes = [
        Node("Gather", ["table", "x"], "e"),
        Node("MatMul", ["e", "up"], "h"),
        Node("Tanh", ["h"], "a"),
        Node("MatMul", ["a", "down"], "d"),
        Node("Add", ["e", "d"], "s"),
        Node("ReduceMean", ["s"], "m", {"axes": [1], "keepdims": 0}),
        Node("Gemm", ["m", "table"], "y", {"transB": 1}),
    ]
    weights = {"table": (7, 12), "up": (12, 9), "down": (9, 12)}
    return model(nodes, weights, {"x": ["N", 5]}, ["y"], integers=["x"])


def shared_weight() -> onnx.ModelProto:
    """One weight in two places, one after the other: its rows and its columns are the same units."""
    nodes = [
        gemm("first", "x", "h"),
        Node("Tanh", ["h"], "a"),
        Node("MatMul", ["a", "w"], "b"),
        Node("Tanh", ["b"], "c"),
        Node("MatMul", ["c", "w"], "d"),
        Node("Tanh", ["d"], "e"),
        gemm("last", "e", "y"),
    ]
    return model(nodes, {**layer("first", 10, 12), "w": (10, 10), **layer("last", 4, 10)}, ROW, ["y"])


def ensemble() -> onnx.ModelProto:
    """Two branches share their first weight; each has its own second one."""
    nodes = [
        Node("MatMul", ["x", "w"], "a"),
        Node("Tanh", ["a"], "at"),
        Node("Neg", ["x"], "minus"),
        Node("MatMul", ["minus", "w"], "b"),
        Node("Sigmoid", ["b"], "bs"),
        gemm("one", "at", "o1"),
        gemm("two", "bs", "o2"),
        Node("Add", ["o1", "o2"], "y"),
    ]
    return model(nodes, {"w": (12, 10), **layer("one", 4, 10), **layer("two", 4, 10)}, ROW, ["y"])


def _quantised(name: str, shape: tuple[int, ...], axis: int | None, seed: int) -> tuple[Node, dict[str, np.ndarray]]:
    """An int8 weight behind DequantizeLinear; a scale for each index of `axis`, or one."""
    rng = np.random.default_rng(seed)
    count = () if axis is None else (shape[axis],)
    arrays = {
        f"{name}.q": rng.integers(-90, 90, shape).astype(np.int8),
        f"{name}.step": rng.uniform(0.001, 0.006, count).astype(np.float32),
        f"{name}.zero": np.zeros(count, np.int8),
    }
    inputs = [f"{name}.q", f"{name}.step", f"{name}.zero"]
    return Node("DequantizeLinear", inputs, f"{name}.weight", {} if axis is None else {"axis": axis}), arrays


def quantised() -> onnx.ModelProto:
    """QDQ: weights per channel or per tensor, activations per tensor."""
    w1, first = _quantised("c1", (6, 3, 3, 3), 0, 1)
    w2, second = _quantised("c2", (8, 6, 3, 3), None, 2)
    w3, third = _quantised("fc", (4, 8), 0, 3)
    nodes = [
        Node("QuantizeLinear", ["x", "step", "zero"], "xq"),
        Node("DequantizeLinear", ["xq", "step", "zero"], "xd"),
        w1,
        Node("Conv", ["xd", "c1.weight", "c1.bias"], "c", {"pads": [1, 1, 1, 1]}),
        Node("Relu", ["c"], "r"),
        Node("QuantizeLinear", ["r", "step", "zero"], "rq"),
        Node("DequantizeLinear", ["rq", "step", "zero"], "rd"),
        w2,
        Node("Conv", ["rd", "c2.weight"], "d"),
        Node("Sigmoid", ["d"], "dr"),
        Node("GlobalAveragePool", ["dr"], "g"),
        Node("Flatten", ["g"], "f"),
        w3,
        Node("Gemm", ["f", "fc.weight"], "y", {"transB": 1}),
    ]
    steps = {"step": np.array(0.02, np.float32), "zero": np.array(100, np.uint8)}
    return model(nodes, {**first, **second, **third, **steps, "c1.bias": (6,)}, IMAGE, ["y"])


def batch_norm_1d() -> onnx.ModelProto:
    nodes = [gemm("fc1", "x", "h"), norm("bn", "h", "n"), Node("Relu", ["n"], "r"), gemm("fc2", "r", "y")]
    weights = {**layer("fc1", 9, 12), **{f"bn.{one}": (9,) for one in ("scale", "shift", "mean", "var")}}
    return model(nodes, {**weights, **layer("fc2", 4, 9)}, ROW, ["y"])


ZOO: dict[str, Callable[[], onnx.ModelProto]] = {
    build.__name__: build
    for build in (
        transposed,
        transposed_depthwise,
        instance_norm,
        group_norm,
        transformer_block,
        one_head,
        many_heads,
        grouped_query_attention,
        rotary_attention,
        einsum,
        tied_embedding,
        shared_weight,
        ensemble,
        quantised,
        batch_norm_1d,
    )
}
