"""Networks whose units pass through operators that move values: split, shuffled, padded, sliced, repeated."""

import numpy as np
import onnx

from tests.engine.nets import IMAGE, Node, conv, gemm, layer, model

HEAD = {**layer("c1", 8, 3, 3, 3), **layer("fc", 4, 8)}
SEQUENCE = {"x": ["N", 5, 6]}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def tail(source: str) -> list[Node]:
    """Pool, flatten and read `source` with `fc`."""
    return [Node("GlobalAveragePool", [source], "g"), Node("Flatten", ["g"], "f"), gemm("fc", "f", "y")]


def _project(name: str) -> list[Node]:
    return [
        Node("MatMul", ["x", f"{name}.w"], f"{name}m"),
        Node("Add", [f"{name}m", f"{name}.b"], f"{name}b"),
        Node("Reshape", [f"{name}b", "split"], f"{name}h"),
        Node("Transpose", [f"{name}h"], f"{name}t", {"perm": [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]}),
    ]


def attention(read_shape: bool = False) -> onnx.ModelProto:
    """Four heads of width three. With `read_shape` the target is computed, with the numbers inside a Concat."""
    nodes = [one for name in "qkv" for one in _project(name)]
    if read_shape:
        nodes = [
            Node("Shape", ["x"], "shape"),
            Node("Slice", ["shape", "zero", "two"], "lead"),
            Node("Concat", ["lead", "heads"], "split", {"axis": 0}),
            Node("Concat", ["lead", "width"], "join", {"axis": 0}),
            *nodes,
        ]
    nodes += [
        Node("MatMul", ["qt", "kt"], "scores"),
        Node("Mul", ["scores", "scale"], "scaled"),
        Node("Softmax", ["scaled"], "p", {"axis": -1}),
        Node("MatMul", ["p", "vt"], "o"),
        Node("Transpose", ["o"], "ot", {"perm": [0, 2, 1, 3]}),
        Node("Reshape", ["ot", "join"], "j"),
        Node("MatMul", ["j", "out.w"], "y"),
    ]
    weights: dict[str, object] = {f"{name}.w": (6, 12) for name in "qkv"} | {f"{name}.b": (12,) for name in "qkv"}
    weights |= {"out.w": (12, 6), "scale": np.array(0.6, np.float32)}
    if read_shape:
        weights |= {"zero": ints(0), "two": ints(2), "heads": ints(4, 3), "width": ints(12)}
    else:
        weights |= {"split": ints(0, 0, 4, 3), "join": ints(0, 0, -1)}
    return model(nodes, weights, SEQUENCE, ["y"])  # type: ignore[arg-type]


def attention_computed_target() -> onnx.ModelProto:
    return attention(read_shape=True)


def one_projection() -> onnx.ModelProto:
    """Query, key and value from one product, told apart by Gather; heads are every third block."""
    nodes = [
        Node("MatMul", ["x", "w"], "m"),
        Node("Reshape", ["m", "split"], "s"),
        Node("Transpose", ["s"], "t", {"perm": [2, 0, 3, 1, 4]}),
        *(Node("Gather", ["t", name], f"{name}t", {"axis": 0}) for name in "qkv"),
        Node("Transpose", ["kt"], "kk", {"perm": [0, 1, 3, 2]}),
        Node("MatMul", ["qt", "kk"], "scores"),
        Node("Softmax", ["scores"], "p", {"axis": -1}),
        Node("MatMul", ["p", "vt"], "o"),
        Node("Transpose", ["o"], "ot", {"perm": [0, 2, 1, 3]}),
        Node("Reshape", ["ot", "join"], "j"),
        Node("MatMul", ["j", "out.w"], "y"),
    ]
    weights = {"w": (6, 36), "out.w": (12, 6), "split": ints(0, 0, 3, 4, 3), "join": ints(0, 0, 12)}
    return model(nodes, {**weights, **{name: np.array(n) for n, name in enumerate("qkv")}}, SEQUENCE, ["y"])


def shuffle() -> onnx.ModelProto:
    """A grouped convolution, a channel shuffle, and a grouped one again."""
    nodes = [
        conv("c1", "x", "a", group=1),
        Node("Relu", ["a"], "r"),
        Node("Reshape", ["r", "apart"], "s"),
        Node("Transpose", ["s"], "t", {"perm": [0, 2, 1, 3, 4]}),
        Node("Reshape", ["t", "together"], "u"),
        conv("c2", "u", "b", group=2),
        Node("Relu", ["b"], "br"),
        *tail("br"),
    ]
    weights = {**HEAD, **layer("c2", 8, 4, 3, 3), "apart": ints(0, 2, 4, 8, 8), "together": ints(0, -1, 8, 8)}
    return model(nodes, weights, IMAGE, ["y"])


def halves(sizes: bool, opset: int = 17) -> onnx.ModelProto:
    """Split, one part convolved, joined in the other order. Without sizes the parts were equal by themselves."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Split", ["a", "sizes"] if sizes else ["a"], ("l", "r"), {"axis": 1}),
        conv("c2", "l", "b"),
        Node("Relu", ["b"], "br"),
        Node("Concat", ["r", "br"], "j", {"axis": 1}),
        conv("c3", "j", "z"),
        *tail("z"),
    ]
    left = 3 if sizes else 4
    weights: dict[str, object] = {**HEAD, **layer("c2", 5, left, 3, 3), **layer("c3", 8, 13 - left, 3, 3)}
    if sizes:
        weights["sizes"] = ints(3, 5)
    return model(nodes, weights, IMAGE, ["y"], opset=opset)  # type: ignore[arg-type]


def split_in_sizes() -> onnx.ModelProto:
    return halves(sizes=True)


def split_equally() -> onnx.ModelProto:
    return halves(sizes=False)


def split_old() -> onnx.ModelProto:
    return halves(sizes=False, opset=11)


def sliced() -> onnx.ModelProto:
    """Two overlapping slices of the channels, a permutation by Gather, and spatial slices on the way."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Slice", ["a", "s1", "e1", "channels"], "l"),
        Node("Slice", ["a", "s2", "e2", "channels_rows"], "r"),
        Node("Slice", ["l", "low", "high", "rows"], "lr"),
        Node("Concat", ["lr", "r"], "j", {"axis": 1}),
        Node("Gather", ["j", "order"], "o", {"axis": 1}),
        conv("c2", "o", "z"),
        *tail("z"),
    ]
    weights = {**HEAD, **layer("c2", 8, 11, 3, 3), "order": ints(3, 10, 0, 1, -9, 4, 5, 9, 6, 7, 8)}
    weights |= {"s1": ints(0), "e1": ints(5), "channels": ints(1), "low": ints(2), "high": ints(2**62), "rows": ints(2)}
    weights |= {"s2": ints(-6, 0), "e2": ints(2**62, 6), "channels_rows": ints(1, -2)}
    return model(nodes, weights, IMAGE, ["y"])


def stepped() -> onnx.ModelProto:
    """Even and odd channels are multiplied, as rotary positions do, then slices run backwards. Each leaves some out."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Slice", ["a", "two", "ten", "channels", "two"], "even"),
        Node("Slice", ["a", "three", "ten", "channels", "two"], "odd"),
        Node("Mul", ["even", "odd"], "m"),
        Node("Slice", ["m", "two", "front", "channels", "back"], "b"),
        conv("c2", "b", "z"),
        Node("Slice", ["z", "five", "front", "channels", "back_by_two"], "s"),
        conv("c3", "s", "t"),
        *tail("t"),
    ]
    weights = {**layer("c1", 12, 3, 3, 3), **layer("c2", 7, 3, 3, 3), **layer("c3", 8, 3, 3, 3), **layer("fc", 4, 8)}
    numbers = {"two": ints(2), "three": ints(3), "five": ints(5), "ten": ints(10), "channels": ints(1)}
    numbers |= {"back": ints(-1), "back_by_two": ints(-2), "front": ints(-(2**62))}
    return model(nodes, {**weights, **numbers}, IMAGE, ["y"])


def picked() -> onnx.ModelProto:
    """One channel gates all others."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Gather", ["a", "third"], "p", {"axis": 1}),
        Node("Unsqueeze", ["p", "channels"], "u"),
        Node("Sigmoid", ["u"], "gate"),
        Node("Mul", ["a", "gate"], "m"),
        conv("c2", "m", "z"),
        *tail("z"),
    ]
    return model(nodes, {**HEAD, **layer("c2", 8, 8, 3, 3), "third": np.array(-6), "channels": ints(1)}, IMAGE, ["y"])


def option_a() -> onnx.ModelProto:
    """The shortcut of narrow ResNets: every second pixel, zeros for the new channels on both sides."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Relu", ["a"], "r"),
        conv("c2", "r", "b", strides=[2, 2]),
        Node("Slice", ["r", "start", "end", "axes", "steps"], "s"),
        Node("Pad", ["s", "pads"], "p"),
        Node("Add", ["b", "p"], "sum"),
        Node("Relu", ["sum"], "sr"),
        *tail("sr"),
    ]
    weights = {**layer("c1", 4, 3, 3, 3), **layer("c2", 8, 4, 3, 3), **layer("fc", 4, 8)}
    weights |= {"start": ints(0, 0), "end": ints(2**62, 2**62), "axes": ints(2, 3), "steps": ints(2, 2)}
    return model(nodes, {**weights, "pads": ints(0, 1, 0, 0, 0, 3, 0, 0)}, IMAGE, ["y"])


def channels_last() -> onnx.ModelProto:
    """As converters from TensorFlow write it: transposed sandwiches, and a flatten with the channels innermost."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Transpose", ["a"], "t", {"perm": [0, 2, 3, 1]}),
        Node("Add", ["t", "bias"], "tb"),
        Node("Relu", ["tb"], "r"),
        Node("Transpose", ["r"], "back", {"perm": [0, 3, 1, 2]}),
        conv("c2", "back", "b", strides=[2, 2]),
        Node("Transpose", ["b"], "last", {"perm": [0, 2, 3, 1]}),
        Node("Reshape", ["last", "flat"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("c1", 8, 3, 3, 3), **layer("c2", 5, 8, 3, 3), **layer("fc", 4, 80)}
    return model(nodes, {**weights, "bias": (8,), "flat": ints(-1, 80)}, IMAGE, ["y"])


def depth_to_space(mode: str = "DCR") -> onnx.ModelProto:
    nodes = [
        conv("c1", "x", "a"),
        Node("DepthToSpace", ["a"], "d", {"blocksize": 2, "mode": mode}),
        Node("Relu", ["d"], "r"),
        conv("c2", "r", "b"),
        Node("SpaceToDepth", ["b"], "s", {"blocksize": 2}),
        conv("c3", "s", "z"),
        *tail("z"),
    ]
    weights = {**layer("c1", 12, 3, 3, 3), **layer("c2", 4, 3, 3, 3), **layer("c3", 8, 16, 3, 3), **layer("fc", 4, 8)}
    return model(nodes, weights, IMAGE, ["y"])


def depth_to_space_crd() -> onnx.ModelProto:
    return depth_to_space("CRD")


def group_norm() -> onnx.ModelProto:
    """GroupNorm as it is exported before opset 18: its statistics belong to whole groups, which go as one."""
    nodes = [
        conv("c1", "x", "a"),
        Node("Reshape", ["a", "apart"], "s"),
        Node("InstanceNormalization", ["s", "one", "zero"], "n"),
        Node("Shape", ["a"], "shape"),
        Node("Reshape", ["n", "shape"], "t"),
        Node("Mul", ["t", "w"], "tw"),
        Node("Add", ["tw", "b"], "tb"),
        Node("Relu", ["tb"], "r"),
        *tail("r"),
    ]
    weights = {**HEAD, "apart": ints(0, 4, -1), "w": (8, 1, 1), "b": (8, 1, 1)}
    weights |= {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    return model(nodes, weights, IMAGE, ["y"])


def repeated() -> onnx.ModelProto:
    """Squeeze, Unsqueeze, Expand over the picture, Tile of the channels."""
    nodes = [
        conv("c1", "x", "a"),
        Node("GlobalMaxPool", ["a"], "g0"),
        Node("Squeeze", ["g0", "tail2"], "s"),
        Node("Tanh", ["s"], "t"),
        Node("Unsqueeze", ["t", "tail2"], "u"),
        Node("Expand", ["u", "big"], "e"),
        Node("Tile", ["e", "copies"], "two"),
        conv("c2", "two", "z"),
        *tail("z"),
    ]
    weights = {**HEAD, **layer("c2", 8, 16, 3, 3), "tail2": ints(2, 3)}
    return model(nodes, {**weights, "big": ints(1, 8, 4, 4), "copies": ints(1, 2, 1, 1)}, IMAGE, ["y"])


def common_factors() -> onnx.ModelProto:
    """(6, 4) read as (3, 8) through the factors 3, 2 and 4: neither shape has the middle one for itself."""
    nodes = [
        Node("Reshape", ["x", "one"], "x1"),
        Node("Conv", ["x1", "c1.weight", "c1.bias"], "a"),
        Node("Reshape", ["a", "other"], "o"),
        Node("Relu", ["o"], "r"),
        Node("Conv", ["r", "c2.weight", "c2.bias"], "b"),
        Node("Flatten", ["b"], "f"),
        gemm("fc", "f", "y"),
    ]
    weights = {**layer("c1", 6, 3, 1), **layer("c2", 2, 3, 1), **layer("fc", 4, 16)}
    return model(nodes, {**weights, "one": ints(0, 3, 4), "other": ints(0, 3, 8)}, {"x": ["N", 12]}, ["y"])


LAYOUT = {
    build.__name__: build
    for build in (
        attention,
        attention_computed_target,
        one_projection,
        shuffle,
        split_in_sizes,
        split_equally,
        split_old,
        sliced,
        stepped,
        picked,
        option_a,
        channels_last,
        depth_to_space,
        depth_to_space_crd,
        group_norm,
        repeated,
        common_factors,
    )
}
