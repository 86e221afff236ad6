"""The table of operators: one explicit dict, one file a family.

An operator that is not here pins every axis it touches and is computed by onnxruntime.
"""

from worker.engine.ops import convolution, elementwise, layout, normalisation, pooling, products, recurrent
from worker.engine.ops.rule import Rule

RULES: dict[str, Rule] = {
    **convolution.RULES,
    **elementwise.RULES,
    **layout.RULES,
    **normalisation.RULES,
    **pooling.RULES,
    **products.RULES,
    **recurrent.RULES,
}
