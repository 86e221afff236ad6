"""Whether what follows some gates moves on straight lines, apart from kinks, as they close.

In: the part of the graph between the gates and the loss. Out: yes or no; no where an operator is not known. Where it
does, the loss's second derivative is its Gauss-Newton form, and costs a pass for each output, not for each unit.
"""

from worker.engine.graph import Op
from worker.engine.reach import Reach

# Whatever of their inputs moves.
SUMS = frozenset({
    "Abs", "Add", "AveragePool", "Concat", "DepthToSpace", "Flatten", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "Identity", "LeakyRelu", "Max", "MaxPool", "Mean", "Min", "Neg", "Relu", "SpaceToDepth", "Sub",
    "Sum", "ThresholdedRelu", "Transpose",
})  # fmt: skip
# One factor may move, not two.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul"})
# Only what they read first may move.
SHAPED = frozenset({
    "BatchNormalization", "Clip", "Div", "Dropout", "Expand", "Gather", "Pad", "PRelu", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze",
})  # fmt: skip


def straight(reach: Reach) -> bool:
    """No also where gates stand behind gates, as on a residual stream: there they multiply each other."""
    gated = {key for key, _ in reach.places}
    for op in reach.ops:
        moved = [slot for slot, name in enumerate(op.inputs) if name in reach.made]
        opened = [slot for slot in range(len(op.inputs)) if (op.index, slot) in gated]
        if set(moved).intersection(opened) or not _straight(op, sorted(moved + opened)):
            return False
    return True


def _straight(op: Op, moving: list[int]) -> bool:
    if op.key in PRODUCTS:
        return len(moving) <= 1
    return op.key in SUMS or (op.key in SHAPED and moving in ([], [0]))
