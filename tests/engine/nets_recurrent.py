"""Small recurrent networks, written node by node."""

from collections.abc import Callable

import numpy as np
import onnx

from tests.engine.nets import Node, gemm, layer, model

STEPS = {"x": ["T", "N", 5]}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(name: str, inputs: int, hidden: int, key: str, directions: int = 1) -> dict[str, tuple[int, ...]]:
    gates = GATES[key] * hidden
    return {
        f"{name}.w": (directions, gates, inputs),
        f"{name}.r": (directions, gates, hidden),
        f"{name}.b": (directions, 2 * gates),
    }


def recurrent(key: str, name: str, source: str, output: str, *more: str, **attrs: object) -> Node:
    return Node(key, [source, f"{name}.w", f"{name}.r", f"{name}.b", *more], output, attrs)


def stacked(key: str, **attrs: object) -> onnx.ModelProto:
    """Two layers, every step of the second read by a MatMul."""
    nodes = [
        recurrent(key, "r1", "x", "h1", hidden_size=6, **attrs),
        Node("Reshape", ["h1", "to1"], "s1"),
        recurrent(key, "r2", "s1", "h2", hidden_size=7, **attrs),
        Node("Reshape", ["h2", "to2"], "s2"),
        Node("MatMul", ["s2", "fc"], "y"),
    ]
    weights = {**cell("r1", 5, 6, key), **cell("r2", 6, 7, key), "fc": (7, 3)}
    targets = {"to1": np.array([0, -1, 6]), "to2": np.array([0, -1, 7])}
    return model(nodes, {**weights, **targets}, STEPS, ["y"])


def lstm() -> onnx.ModelProto:
    return stacked("LSTM")


def gru() -> onnx.ModelProto:
    return stacked("GRU")


def gru_linear_before_reset() -> onnx.ModelProto:
    return stacked("GRU", linear_before_reset=1)


def rnn() -> onnx.ModelProto:
    return stacked("RNN", direction="reverse")


def bidirectional() -> onnx.ModelProto:
    """Both directions are summed: they share one hidden axis."""
    nodes = [
        recurrent("LSTM", "r1", "x", "h", hidden_size=6, direction="bidirectional"),
        Node("ReduceSum", ["h", "one"], "s", {"keepdims": 0}),
        Node("MatMul", ["s", "fc"], "y"),
    ]
    weights = {**cell("r1", 5, 6, "LSTM", 2), "fc": (6, 3), "one": np.array([1])}
    return model(nodes, weights, STEPS, ["y"])


def bidirectional_joined() -> onnx.ModelProto:
    """Both directions side by side, as exporters write it: Transpose, then Reshape."""
    nodes = [
        recurrent("GRU", "r1", "x", "h", hidden_size=6, direction="bidirectional"),
        Node("Transpose", ["h"], "t", {"perm": [0, 2, 1, 3]}),
        Node("Reshape", ["t", "join"], "j"),
        Node("MatMul", ["j", "fc"], "y"),
    ]
    weights = {**cell("r1", 5, 6, "GRU", 2), "fc": (12, 3), "join": np.array([0, 0, -1])}
    return model(nodes, weights, STEPS, ["y"])


def seq2seq() -> onnx.ModelProto:
    """An encoder hands its last states to a decoder with peepholes: their hidden units go together."""
    nodes = [
        Node("LSTM", ["x", "e.w", "e.r", "e.b"], ["", "h", "c"], {"hidden_size": 6}),
        Node("LSTM", ["x", "d.w", "d.r", "d.b", "", "h", "c", "d.p"], "o", {"hidden_size": 6}),
        Node("Reshape", ["o", "to"], "s"),
        Node("MatMul", ["s", "fc"], "y"),
    ]
    weights = {**cell("e", 5, 6, "LSTM"), **cell("d", 5, 6, "LSTM"), "d.p": (1, 18), "fc": (6, 3)}
    return model(nodes, {**weights, "to": np.array([0, -1, 6])}, STEPS, ["y"])


def cell_state() -> onnx.ModelProto:
    """Only the cell state of the last step is read."""
    nodes = [
        Node("LSTM", ["x", "r.w", "r.r", "r.b"], ["", "", "c"], {"hidden_size": 6}),
        Node("Reshape", ["c", "to"], "s"),
        gemm("fc", "s", "y"),
    ]
    return model(nodes, {**cell("r", 5, 6, "LSTM"), **layer("fc", 3, 6), "to": np.array([-1, 6])}, STEPS, ["y"])


def last_step() -> onnx.ModelProto:
    """A projection in front, only the last state behind."""
    nodes = [
        Node("MatMul", ["x", "proj"], "p"),
        Node("Tanh", ["p"], "t"),
        Node("GRU", ["t", "r.w", "r.r", "r.b"], ["", "h"], {"hidden_size": 6}),
        Node("Reshape", ["h", "to"], "s"),
        gemm("fc", "s", "y"),
    ]
    weights = {"proj": (5, 8), **cell("r", 8, 6, "GRU"), **layer("fc", 3, 6), "to": np.array([-1, 6])}
    return model(nodes, weights, STEPS, ["y"])


def zero_states() -> onnx.ModelProto:
    """Two layers start from zeros that are made for both at run time, for as many samples as come."""
    nodes = [
        Node("Shape", ["x"], "size"),
        Node("Gather", ["size", "1"], "samples"),
        Node("Unsqueeze", ["samples", "front"], "samples1"),
        Node("Concat", ["two", "samples1", "six"], "target", {"axis": 0}),
        Node("ConstantOfShape", ["target"], "zeros"),
        Node("Slice", ["zeros", "front", "one", "front"], "first"),
        Node("Slice", ["zeros", "one", "two", "front"], "second"),
        recurrent("GRU", "r1", "x", "h1", "", "first", hidden_size=6),
        Node("Reshape", ["h1", "to"], "s1"),
        recurrent("GRU", "r2", "s1", "h2", "", "second", hidden_size=6),
        Node("Reshape", ["h2", "to"], "s2"),
        Node("MatMul", ["s2", "fc"], "y"),
    ]
    numbers = {"1": np.array(1), "front": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    numbers |= {"six": np.array([6]), "to": np.array([0, -1, 6])}
    weights = {**cell("r1", 5, 6, "GRU"), **cell("r2", 6, 6, "GRU"), "fc": (6, 3), **numbers}
    return model(nodes, weights, STEPS, ["y"])


ZOO: dict[str, Callable[[], onnx.ModelProto]] = {
    build.__name__: build
    for build in (
        lstm,
        gru,
        gru_linear_before_reset,
        rnn,
        bidirectional,
        bidirectional_joined,
        seq2seq,
        last_step,
        cell_state,
        zero_states,
    )
}
