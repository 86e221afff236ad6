"""ONNX forms for operators that the exporter has none for, or one that loses what an archive does not store.

`unflatten` (in every traced `nn.MultiheadAttention`): torch reshapes to a computed shape, after which the exporter no
longer knows the rank and gives up at the next transpose. Here the rank is stated. `rms_norm`: torch has none.
"""

from typing import Any

import torch
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

HELPER: Any = symbolic_helper  # without types


def register(opset: int) -> None:
    """Make the exporter use these forms, in this process."""
    register_custom_op_symbolic("aten::unflatten", _unflatten, opset)
    register_custom_op_symbolic("aten::rms_norm", _rms_norm, opset)


def _unflatten(g: Any, source: Any, dim: Any, sizes: Any, *_: Any) -> Any:
    rank = HELPER._get_tensor_rank(source)
    if rank is None or not HELPER._is_packed_list(sizes):
        return HELPER._unimplemented("unflatten", "a tensor of unknown rank or unknown sizes", source)
    axis = HELPER._get_const(dim, "i", "dim") % rank

    def number(value: int) -> Any:
        return g.op("Constant", value_t=torch.tensor([value]))

    parts = [g.op("Reshape", size, number(-1)) for size in HELPER._unpack_list(sizes)]
    shape = g.op("Shape", source)
    kept = [g.op("Slice", shape, number(one), number(one + 1)) for one in range(rank)]
    found = g.op("Reshape", source, g.op("Concat", *kept[:axis], *parts, *kept[axis + 1 :], axis_i=0))
    found.setType(source.type().with_sizes([None] * (rank - 1 + len(parts))))
    return found


def _rms_norm(g: Any, source: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    """x / sqrt(mean(x * x) + eps) * weight over the last axes."""
    if not HELPER._is_packed_list(shape) and shape.node().kind() != "onnx::Constant":
        return HELPER._unimplemented("rms_norm", "a computed shape", source)
    axes = [-1 - place for place in range(len(HELPER._get_const(shape, "is", "normalized_shape")))]
    small = (
        torch.finfo(torch.float32).eps if eps is None or HELPER._is_none(eps) else HELPER._get_const(eps, "f", "eps")
    )
    mean = g.op("ReduceMean", g.op("Mul", source, source), axes_i=axes, keepdims_i=1)
    scale = g.op("Sqrt", g.op("Add", mean, g.op("Constant", value_t=torch.tensor(small, dtype=torch.float32))))
    normal = g.op("Div", source, scale)
    return normal if weight is None or HELPER._is_none(weight) else g.op("Mul", normal, weight)
