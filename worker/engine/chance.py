"""Operators that draw random numbers, where two models are compared: both draw the same.

In: nodes of a model. Out: the same nodes, each with a seed of its own. The files that people get draw as they did.
"""

import zlib
from collections.abc import Iterable

import onnx

from worker.engine.graph import DRAWS, Op

SEED = "seed"
LARGEST = 1 << 20  # a single-precision number holds all below


def draws(op: Op) -> bool:
    """Whether the operator's results change from run to run."""
    return op.key in DRAWS or (op.key == "Dropout" and bool(op.input(2)))


def settle(nodes: Iterable[onnx.NodeProto]) -> None:
    """Give seeds to nodes that have none, in place; in subgraphs too."""
    waiting = list(nodes)
    for node in waiting:
        for attr in node.attribute:
            waiting += attr.g.node if attr.HasField("g") else []
            waiting += [inner for graph in attr.graphs for inner in graph.node]
        known = {attr.name for attr in node.attribute}
        if node.domain in ("", "ai.onnx") and SEED not in known:
            seed = zlib.crc32(node.output[0].encode()) % LARGEST  # of the name: places differ from model to model
            if node.op_type in DRAWS:
                node.attribute.append(onnx.helper.make_attribute(SEED, float(seed)))
            elif node.op_type == "Dropout" and len(node.input) > 2:
                node.attribute.append(onnx.helper.make_attribute(SEED, seed))
