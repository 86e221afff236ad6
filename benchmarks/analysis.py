"""How long the tie analysis takes: ten million points in few tensors and in many, and a graph like densenet121.

    python -m benchmarks.analysis

A point is one index on one axis of one tensor. Printed: points, operators, groups, seconds and CPU seconds
of `analyse` alone.
"""

import time

import numpy as np
import onnx_ir as ir

from tests.engine.nets import Node, conv, gemm, layer, model
from worker.engine.axes import analyse
from worker.engine.execute import Executor
from worker.engine.graph import freeze
from worker.engine.observe import see

Network = tuple[list[Node], dict[str, tuple[int, ...]], tuple[int, ...]]  # nodes, weights, the input's shape
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid")


def wide(units: int = 500_000, depth: int = 17) -> Network:
    """One layer of very many units, passed on by elementwise operators."""
    nodes = [gemm("a", "x", "h0")]
    nodes += [Node(ACTIVATIONS[one % 3], [f"h{one}"], f"h{one + 1}") for one in range(depth)]
    return [*nodes, gemm("b", f"h{depth}", "y")], {**layer("a", units, 2), **layer("b", 2, units)}, (1, 2)


def deep(layers: int = 900, units: int = 1600) -> Network:
    """Very many small operators in one long stream."""
    nodes, source = [gemm("first", "x", "h")], "h"
    for one in range(layers):
        nodes += [
            Node("Mul", [source, f"s{one}"], f"m{one}"),
            Node("Relu", [f"m{one}"], f"r{one}"),
            Node("Add", [f"r{one}", f"t{one}"], f"a{one}"),
            Node("Tanh", [f"a{one}"], f"h{one}"),
            Node("Neg", [f"h{one}"], f"n{one}"),
        ]
        source = f"n{one}"
    weights = {f"{kind}{one}": (units,) for one in range(layers) for kind in "st"}
    return (
        [*nodes, gemm("last", source, "y")],
        {**weights, **layer("first", units, 2), **layer("last", 2, units)},
        (1, 2),
    )


def densenet(blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32) -> Network:
    """Dense blocks with their BatchNormalizations and transitions, as in densenet121."""
    nodes, weights, source, channels = [conv("stem", "x", "stem")], {**layer("stem", 64, 3, 3, 3)}, "stem", 64

    def step(name: str, read: str, shape: tuple[int, int, int]) -> str:
        made, wide_, kernel = shape
        parts = [f"{name}.{part}" for part in ("scale", "shift", "mean", "var")]
        weights.update(dict.fromkeys(parts, (wide_,)))
        weights.update(layer(f"{name}.conv", made, wide_, kernel, kernel))
        nodes.append(Node("BatchNormalization", [read, *parts], f"{name}.bn"))
        nodes.append(Node("Relu", [f"{name}.bn"], f"{name}.relu"))
        nodes.append(conv(f"{name}.conv", f"{name}.relu", f"{name}.out", pads=kernel // 2))
        return f"{name}.out"

    for block, count in enumerate(blocks):
        parts = [source]
        for one in range(count):
            name = f"b{block}.{one}"
            joined = parts[0]
            if one:
                joined = f"{name}.cat"
                nodes.append(Node("Concat", list(parts), joined, {"axis": 1}))
            inner = step(f"{name}.1", joined, (4 * growth, channels, 1))
            parts.append(step(f"{name}.2", inner, (growth, 4 * growth, 3)))
            channels += growth
        nodes.append(Node("Concat", list(parts), f"b{block}.cat", {"axis": 1}))
        source = step(f"t{block}", f"b{block}.cat", (channels // 2, channels, 1))
        channels //= 2
    nodes += [Node("GlobalAveragePool", [source], "g"), Node("Flatten", ["g"], "f"), gemm("fc", "f", "y")]
    return nodes, {**weights, **layer("fc", 1000, channels)}, (1, 3, 8, 8)


def measure(name: str, network: Network) -> str:
    nodes, weights, shape = network
    graph = freeze(ir.from_proto(model(nodes, weights, {"x": shape}, ["y"])))
    seen = see(Executor(graph), {"x": np.zeros(shape, np.float32)})
    started, busy = time.perf_counter(), time.process_time()
    analysis = analyse(graph, seen)
    busy, seconds = time.process_time() - busy, time.perf_counter() - started
    sizes = f"{analysis.ties.total:>14,}{len(graph.ops):>11,}{len(analysis.groups):>8,}"
    return f"{name:<10}{sizes}{seconds:>10.2f}{busy:>10.2f}"


def main() -> None:
    print(f"{'graph':<10}{'points':>14}{'operators':>11}{'groups':>8}{'seconds':>10}{'CPU':>10}")
    for build in (wide, deep, densenet):
        print(measure(build.__name__, build()), flush=True)


if __name__ == "__main__":
    main()
