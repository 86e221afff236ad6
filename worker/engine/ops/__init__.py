"""The table of operators: one explicit dict, one file a family.

An operator that is not here pins every axis it touches and is computed by onnxruntime.
"""

from worker.engine.ops import (
    attention,
    contraction,
    convolution,
    elementwise,
    layout,
    logic,
    normalisation,
    pooling,
    products,
    quantised,
    recurrent,
    reductions,
    resizing,
    runtime,
    selection,
    sizes,
    slicing,
    transposed,
)
from worker.engine.ops.rule import Rule

RULES: dict[str, Rule] = {
    **attention.RULES,
    **contraction.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **layout.RULES,
    **logic.RULES,
    **normalisation.RULES,
    **pooling.RULES,
    **products.RULES,
    **quantised.RULES,
    **recurrent.RULES,
    **reductions.RULES,
    **resizing.RULES,
    **runtime.RULES,
    **selection.RULES,
    **sizes.RULES,
    **slicing.RULES,
    **transposed.RULES,
}
