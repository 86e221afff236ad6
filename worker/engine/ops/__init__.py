"""The table of operators: one explicit dict, one file a family.

An operator that is not here pins every axis it touches and is computed by onnxruntime.
"""

from worker.engine.ops import (
    attention,
    contraction,
    convolution,
    elementwise,
    layout,
    normalisation,
    pooling,
    products,
    quantised,
    recurrent,
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
    **normalisation.RULES,
    **pooling.RULES,
    **products.RULES,
    **quantised.RULES,
    **recurrent.RULES,
    **sizes.RULES,
    **slicing.RULES,
    **transposed.RULES,
}
