"""A network for each kind of operator that reads units: half of the units are mixtures of the others, and some noise.

Every one has a layer "p" that makes twelve units, or as many channels, with means that are not zero, and its consumer
behind it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from tests.engine.nets import Node, conv, gemm, layer, model
from tests.engine.nets_recurrent import GATES, cell

UNITS = 12
NOISE = 0.05
Weights = dict[str, Sequence[int] | np.ndarray]
ROWS, SERIES, MAPS = {"x": ["N", 16]}, {"x": ["N", 6, 16]}, {"x": ["N", 6, 6, 6]}


def mixed(*inputs: int, units: int = UNITS, seed: int = 0) -> Weights:
    """Weights (units, *inputs) of the producer: the second half are mixtures of the first."""
    rng = np.random.default_rng(seed)
    half = units // 2
    weight = rng.standard_normal((units, int(np.prod(inputs)))) / np.sqrt(np.prod(inputs))
    bias = rng.uniform(0.5, 1.5, units)
    mixing = rng.standard_normal((half, half)) / np.sqrt(half)
    weight[half:] = mixing @ weight[:half] + NOISE * weight[half:]
    bias[half:] = mixing @ bias[:half] + 0.5
    return {"p.weight": weight.reshape(units, *inputs).astype(np.float32), "p.bias": bias.astype(np.float32)}


def _rows(*nodes: Node, units: int = UNITS, **weights: Sequence[int] | np.ndarray) -> onnx.ModelProto:
    return model([gemm("p", "x", "h"), *nodes], {**mixed(16, units=units), **_named(weights)}, ROWS, ["y"])


def _series(*nodes: Node, **weights: Sequence[int] | np.ndarray) -> onnx.ModelProto:
    made = mixed(16)
    own = {"p.weight": np.asarray(made["p.weight"]).T.copy(), "p.bias": made["p.bias"]}
    front = [Node("MatMul", ["x", "p.weight"], "h0"), Node("Add", ["h0", "p.bias"], "h")]
    return model([*front, *nodes], {**own, **_named(weights)}, SERIES, ["y"])


def _maps(*nodes: Node, **weights: Sequence[int] | np.ndarray) -> onnx.ModelProto:
    return model([conv("p", "x", "h"), *nodes], {**mixed(6, 3, 3), **_named(weights)}, MAPS, ["y"])


def _named(weights: dict[str, Sequence[int] | np.ndarray]) -> Weights:
    return {name.replace("__", "."): array for name, array in weights.items()}


def gemm_reader() -> onnx.ModelProto:
    return _rows(gemm("c", "h", "y"), c__weight=(5, UNITS), c__bias=(5,))


def gemm_without_bias() -> onnx.ModelProto:
    return _rows(Node("Gemm", ["h", "c"], "y"), c=(UNITS, 5))


def gemm_with_one_bias_for_all() -> onnx.ModelProto:
    return _rows(Node("Gemm", ["h", "c", "b"], "y"), c=(UNITS, 5), b=np.array([0.3], np.float32))


def gemm_on_the_left() -> onnx.ModelProto:
    """y = W h^T + b, then turned back."""
    nodes = Node("Gemm", ["c", "h", "b"], "yt", {"transB": 1}), Node("Transpose", ["yt"], "y")
    return _rows(*nodes, c=(5, UNITS), b=(5, 1))


def gemm_of_turned_input() -> onnx.ModelProto:
    nodes = Node("Transpose", ["h"], "ht"), Node("Gemm", ["ht", "c", "b"], "y", {"transA": 1, "alpha": 0.5})
    return _rows(*nodes, c=(UNITS, 5), b=(5,))


def matmul() -> onnx.ModelProto:
    return _series(Node("MatMul", ["h", "c"], "y"), c=(UNITS, 5))


def matmul_and_add() -> onnx.ModelProto:
    return _series(Node("MatMul", ["h", "c"], "z"), Node("Add", ["b", "z"], "y"), c=(UNITS, 5), b=(5,))


def matmul_on_the_left() -> onnx.ModelProto:
    nodes = Node("Transpose", ["h"], "ht", {"perm": [0, 2, 1]}), Node("MatMul", ["c", "ht"], "y")
    return _series(*nodes, c=(5, UNITS))


def matmul_of_blocks() -> onnx.ModelProto:
    """A matrix of its own for each step."""
    nodes = Node("Unsqueeze", ["h", "two"], "u"), Node("MatMul", ["u", "c"], "y")
    return _series(*nodes, c=(6, UNITS, 5), two=np.array([2]))


def einsum() -> onnx.ModelProto:
    return _series(Node("Einsum", ["h", "c"], "y", {"equation": "nte,eho->ntho"}), c=(UNITS, 2, 3))


def einsum_on_the_left() -> onnx.ModelProto:
    return _series(Node("Einsum", ["c", "h"], "y", {"equation": "oe,nte->nto"}), c=(5, UNITS))


def einsum_over_places() -> onnx.ModelProto:
    """Each step is weighted by itself, and summed."""
    return _series(Node("Einsum", ["h", "c"], "y", {"equation": "nte,teo->no"}), c=(6, UNITS, 5))


def two_readers() -> onnx.ModelProto:
    nodes = gemm("c", "h", "a"), gemm("d", "h", "b"), Node("Tanh", ["a"], "at"), Node("Add", ["at", "b"], "y")
    return _rows(*nodes, c__weight=(5, UNITS), c__bias=(5,), d__weight=(5, UNITS), d__bias=(5,))


def convolution() -> onnx.ModelProto:
    return _maps(conv("c", "h", "y"), c__weight=(4, UNITS, 3, 3), c__bias=(4,))


def convolution_without_bias() -> onnx.ModelProto:
    return _maps(Node("Conv", ["h", "c"], "y", {"pads": [0, 0, 0, 0]}), c=(4, UNITS, 3, 3))


def grouped_convolution() -> onnx.ModelProto:
    """Units are pairs of channels, one of each group; mixtures stay within theirs."""
    groups = [mixed(6, 3, 3, units=UNITS // 2, seed=seed) for seed in (0, 1)]
    own = {name: np.concatenate([np.asarray(one[name]) for one in groups]) for name in groups[0]}
    nodes = [conv("p", "x", "h"), conv("c", "h", "y", group=2)]
    return model(nodes, {**own, **layer("c", 4, UNITS // 2, 3, 3)}, MAPS, ["y"])


def transposed_convolution() -> onnx.ModelProto:
    node = Node("ConvTranspose", ["h", "c", "b"], "y", {"strides": [2, 2], "pads": [1, 1, 0, 0]})
    return _maps(node, c=(UNITS, 4, 3, 3), b=(4,))


def transposed_without_bias() -> onnx.ModelProto:
    return _maps(Node("ConvTranspose", ["h", "c"], "y", {"strides": [2, 2]}), c=(UNITS, 4, 2, 2))


def depthwise_between() -> onnx.ModelProto:
    """The depthwise one passes channels on; the next reads them."""
    weights = {"d": np.full((UNITS, 1, 1, 1), 0.7, np.float32), "c__weight": (4, UNITS, 1, 1), "c__bias": (4,)}
    return _maps(Node("Conv", ["h", "d"], "dh", {"group": UNITS}), conv("c", "dh", "y", pads=0), **weights)


def depthwise_behind() -> onnx.ModelProto:
    """A depthwise one that reads nothing removed, but what has changed."""
    nodes = conv("c", "h", "z"), Node("Conv", ["z", "d", "e"], "y", {"group": 4, "pads": [1, 1, 1, 1]})
    return _maps(*nodes, c__weight=(4, UNITS, 3, 3), c__bias=(4,), d=(4, 1, 3, 3), e=(4,))


def flattened() -> onnx.ModelProto:
    return _maps(Node("Flatten", ["h"], "f"), gemm("c", "f", "y"), c__weight=(5, 36 * UNITS), c__bias=(5,))


def stream() -> onnx.ModelProto:
    """A shortcut around a block; two convolutions make the stream and two read it."""
    made = mixed(6, 3, 3)
    nodes = [
        conv("p", "x", "h"),
        conv("a", "h", "a1"),
        Node("Relu", ["a1"], "a2"),
        conv("b", "a2", "b1"),
        Node("Add", ["h", "b1"], "s"),
        conv("c", "s", "y"),
    ]
    # What the block adds is small, so that the stream keeps its mixtures.
    small = 0.02 * np.random.default_rng(5).standard_normal((UNITS, 4, 3, 3)).astype(np.float32)
    weights = {**made, **layer("a", 4, UNITS, 3, 3), "b.weight": small, "b.bias": np.zeros(UNITS, np.float32)}
    return model(nodes, {**weights, **layer("c", 4, UNITS, 3, 3)}, MAPS, ["y"])


def heads() -> onnx.ModelProto:
    """Attention: four heads whose values are two and two alike."""
    rng = np.random.default_rng(3)
    value = rng.standard_normal((16, 4, 3)) / 4
    query, key = (rng.standard_normal((16, 4, 3)) / 4 for _ in range(2))
    for other, one in ((2, 0), (3, 1)):
        query[:, other], key[:, other] = query[:, one], key[:, one]
        value[:, other] = value[:, one] @ rng.standard_normal((3, 3)) + NOISE * value[:, other]
    nodes = [Node("MatMul", ["x", f"w{one}"], one) for one in "qkv"]
    nodes += [
        Node("Attention", ["q", "k", "v"], "o", {"q_num_heads": 4, "kv_num_heads": 4}),
        Node("MatMul", ["o", "c"], "y"),
    ]
    parts = zip("qkv", (query, key, value), strict=True)
    made = {f"w{name}": one.reshape(16, 12).astype(np.float32) for name, one in parts}
    return model(nodes, {**made, "c": (12, 5)}, SERIES, {"y": ["N", 6, 5]}, opset=23)


def recurrent_input(key: str, bias: bool = True, **attrs: object) -> onnx.ModelProto:
    """What the layer in front makes is read through W."""
    made = mixed(16)
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    weights = cell("c", UNITS, 5, key, directions)
    names = ["t", "c.w", "c.r", *(["c.b"] if bias else [])]
    nodes = [
        Node("MatMul", ["x", "p.weight"], "h0"),
        Node("Add", ["h0", "p.bias"], "h"),
        Node("Transpose", ["h"], "t", {"perm": [1, 0, 2]}),
        Node(key, names, "r", {"hidden_size": 5, **attrs}),
        Node("Transpose", ["r"], "y", {"perm": [2, 0, 1, 3]}),
    ]
    own = {"p.weight": np.asarray(made["p.weight"]).T.copy(), "p.bias": made["p.bias"]}
    weights = {name: shape for name, shape in weights.items() if bias or name != "c.b"}
    return model(nodes, {**own, **weights}, SERIES, ["y"])


def recurrent_state(key: str, **attrs: object) -> onnx.ModelProto:
    """Hidden units are read by the layer itself, through R, and by what follows; half of them do what others do."""
    rng = np.random.default_rng(2)
    gates, half = GATES[key], UNITS // 2
    shapes = {"p.w": (1, gates, UNITS, 16), "p.r": (1, gates, UNITS, UNITS), "p.b": (1, 2 * gates, UNITS)}
    made = {name: rng.standard_normal(shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    for array in made.values():
        array[:, :, half:] = array[:, :, :half] + NOISE * array[:, :, half:]
    whole = {"p.w": (1, -1, 16), "p.r": (1, -1, UNITS), "p.b": (1, -1)}
    nodes = [
        Node("Transpose", ["x"], "t", {"perm": [1, 0, 2]}),
        Node(key, ["t", "p.w", "p.r", "p.b"], "r", {"hidden_size": UNITS, **attrs}),
        Node("Transpose", ["r"], "s", {"perm": [2, 0, 1, 3]}),
        Node("MatMul", ["s", "c"], "y"),
    ]
    return model(
        nodes, {**{name: made[name].reshape(shape) for name, shape in whole.items()}, "c": (UNITS, 5)}, SERIES, ["y"]
    )


CONSUMERS: dict[str, Callable[[], onnx.ModelProto]] = {
    build.__name__: build
    for build in (
        gemm_reader,
        gemm_without_bias,
        gemm_with_one_bias_for_all,
        gemm_on_the_left,
        gemm_of_turned_input,
        matmul,
        matmul_and_add,
        matmul_on_the_left,
        matmul_of_blocks,
        einsum,
        einsum_on_the_left,
        einsum_over_places,
        two_readers,
        convolution,
        convolution_without_bias,
        grouped_convolution,
        transposed_convolution,
        transposed_without_bias,
        depthwise_between,
        depthwise_behind,
        flattened,
        stream,
        heads,
    )
} | {
    "lstm": lambda: recurrent_input("LSTM"),
    "lstm of both directions": lambda: recurrent_input("LSTM", direction="bidirectional"),
    "lstm without bias": lambda: recurrent_input("LSTM", bias=False),
    "gru": lambda: recurrent_input("GRU"),
    "gru, linear before reset": lambda: recurrent_input("GRU", linear_before_reset=1),
    "rnn backwards": lambda: recurrent_input("RNN", direction="reverse"),
    "states of an lstm": lambda: recurrent_state("LSTM"),
    "states of a gru": lambda: recurrent_state("GRU", linear_before_reset=1),
    "states of a gru, reset first": lambda: recurrent_state("GRU"),
    "states of an rnn": lambda: recurrent_state("RNN"),
}
