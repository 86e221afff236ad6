"""Rounds a finished model to eight bits: weights, and activations between QuantizeLinear and DequantizeLinear.

In: the model's file, samples to calibrate with. Out: a second file, by onnxruntime's static quantiser; the names that
it gives to what it adds are long, and are shortened; what goes without saying is left out. Refused: a model that it
cannot take (`quantize_failed`, in its words).
"""

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from schemas.errors import EspalierError
from schemas.finishing import Quantize
from worker.engine.data import Samples
from worker.engine.evaluate import chunk_rows, pad
from worker.engine.graph import Array

MOST_SAMPLES = 512
OLDEST_PER_CHANNEL = 13  # the opset in which QuantizeLinear got its axis
NOTE = "onnx.infer"  # that shapes were inferred
WINDOWS = "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"
USUAL = {"dilations": 1, "strides": 1, "pads": 0}  # of windows; the specification says it in words alone
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Samples, batch by batch, as the quantiser asks for them."""

    def __init__(self, samples: Samples, batch: int | None) -> None:
        self._parts: Iterator[Samples] = samples.batches(batch or chunk_rows(samples))
        self._batch = batch

    def get_next(self) -> dict[str, Array] | None:
        part = next(self._parts, None)
        return None if part is None else dict(pad(part, self._batch).inputs)


def quantize(source: Path, target: Path, samples: Samples, batch: int | None, options: Quantize) -> None:
    """Write the eight-bit model."""
    proto = onnx.load(source, load_external_data=False)
    opset = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 1)
    if options.weights == "per_channel" and opset < OLDEST_PER_CHANNEL:
        raise EspalierError(
            "quantize_failed",
            f"scales for each channel need opset {OLDEST_PER_CHANNEL}; the model has opset {opset}",
            where="/quantize/weights",
            hint='Use "per_tensor", or export the model with a newer opset.',
        )
    try:
        with _silence():
            quantize_static(
                source,
                target,
                _Reader(samples.rows(0, min(MOST_SAMPLES, samples.count)), batch),
                quant_format=QuantFormat.QDQ,
                per_channel=options.weights == "per_channel",
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=METHODS[options.ranges],
            )
    except EspalierError:
        raise
    except Exception as error:  # as many types as things that can be wrong with a model
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise EspalierError("quantize_failed", f"onnxruntime's quantiser: {words}", where="/quantize") from None
    onnx.save(_shortened(_slim(onnx.load(target), proto), proto), target)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The quantiser prints what it does, and warns that its input was not preprocessed by its own tool."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


def _slim(proto: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """Of what the quantiser adds: biases are rounded around zero, so the zeros that say so are left out. Those of
    weights stay, for onnxruntime's Gemm of eight bits asks for them; as bytes, where a -128 takes one and not ten, and
    once. Attributes that say what goes without saying are left out, and the quantiser's note to itself."""
    for node in proto.graph.node:
        for attribute in [one for one in node.attribute if _goes_without_saying(node, one, proto)]:
            node.attribute.remove(attribute)
    for entry in [one for one in proto.metadata_props if one.key == NOTE]:
        proto.metadata_props.remove(entry)
    known = {one.name for one in before.graph.initializer}
    added = {one.name: one for one in proto.graph.initializer if one.name not in known}
    dropped = set()
    for node in proto.graph.node:
        zero = added.get(node.input[2]) if node.op_type == "DequantizeLinear" and len(node.input) > 2 else None
        if zero is not None and zero.data_type == TensorProto.INT32 and not numpy_helper.to_array(zero).any():
            dropped.add(node.input.pop(2))
    dropped -= {name for node in proto.graph.node for name in node.input}
    for name, one in added.items():
        if one.data_type == TensorProto.INT8 and one.int32_data:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one), name))
    dropped |= _shared(proto, {name for name, one in added.items() if one.data_type == TensorProto.INT8})
    for place in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[place].name in dropped:
            del proto.graph.initializer[place]
    return proto


def _goes_without_saying(node: onnx.NodeProto, attribute: onnx.AttributeProto, proto: onnx.ModelProto) -> bool:
    value = onnx.helper.get_attribute_value(attribute)
    if node.op_type in WINDOWS and attribute.name in USUAL:
        return all(one == USUAL[attribute.name] for one in value)
    version = next((one.version for one in proto.opset_import if one.domain == node.domain), 0)
    if not version or not onnx.defs.has(node.op_type, version, node.domain):
        return False
    declared = onnx.defs.get_schema(node.op_type, version, node.domain).attributes.get(attribute.name)
    usual = declared.default_value if declared is not None else onnx.AttributeProto()
    return bool(usual.type == attribute.type and value == onnx.helper.get_attribute_value(usual))


def _shared(proto: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """Single numbers among these tensors that are equal become one. The names that nobody reads any more."""
    first: dict[bytes, str] = {}
    same = {
        one.name: first.setdefault(numpy_helper.to_array(one).tobytes(), one.name)
        for one in proto.graph.initializer
        if one.name in names and not one.dims
    }
    for node in proto.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    return same.keys() - same.values()


def _shortened(proto: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """Short names for nodes and values that the uploaded model does not have: in a small model they weigh more than the
    numbers."""
    known = {one.name for one in before.graph.initializer} | {
        name for node in before.graph.node for name in node.output
    }
    known |= {port.name for port in (*before.graph.input, *before.graph.output)}
    nodes = {node.name for node in before.graph.node}
    made = [one.name for one in proto.graph.initializer] + [name for node in proto.graph.node for name in node.output]
    short = {name: f"q{number}" for number, name in enumerate(dict.fromkeys(made)) if name and name not in known}
    while clash := known & set(short.values()):
        short = {name: f"_{one}" if one in clash else one for name, one in short.items()}
    for initializer in proto.graph.initializer:
        initializer.name = short.get(initializer.name, initializer.name)
    for node in proto.graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
        if node.name not in nodes:
            node.name = ""
    del proto.graph.value_info[:]
    return proto
