"""C from a model: sizes fixed to those of a sample, then the generator, then the arena.

In: an ONNX model and the shapes of its inputs. Out: a `Program`. Refused (`device_operator_unsupported`): operators
that the generator does not know, and sizes that depend on the data.
"""

import re
from collections.abc import Mapping

import onnx

from schemas.errors import EspalierError
from worker.engine.embedded.program import Program, planned

NAMED = re.compile(r"Unsupported op (?:ai\.onnx\.)?([\w.:]+)")
WORDS = 300


def generate(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    """The program of one model at these sizes."""
    # Slow to import, and part of an extra: only jobs that ask for it need it.
    from emx_onnx_cgen.compiler import Compiler, CompilerOptions

    options = CompilerOptions(
        large_temp_threshold_bytes=0,  # no heap
        large_weight_threshold=0,  # no weights in files
        restrict_arrays=False,  # operators compute in place
    )
    try:
        source = Compiler(options).compile(fixed(proto, shapes))
    except Exception as error:  # the generator raises many types, all of them about this model
        text = " ".join(str(error).split())[:WORDS] or type(error).__name__
        named = NAMED.search(text)
        raise EspalierError(
            "device_operator_unsupported",
            f"the generator of C says: {text}",
            where=named[1] if named else "",
        ) from None
    return planned(source)


def fixed(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with every input at its size; all other shapes are left for the generator to find."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.value_info[:]
    held = {tensor.name for tensor in model.graph.initializer}
    for one in [one for one in model.graph.input if one.name in held]:
        model.graph.input.remove(one)
    for one in model.graph.input:
        shape = one.type.tensor_type.shape
        del shape.dim[:]
        for size in shapes[one.name]:
            shape.dim.add().dim_value = size
    for one in model.graph.output:
        one.type.tensor_type.ClearField("shape")
    return model
