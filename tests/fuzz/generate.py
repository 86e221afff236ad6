"""Random graphs of the engine's own operators, each valid ONNX that onnxruntime runs.

In: a seed. Out: a `Program`. The operators are those of `worker.engine.ops.RULES`; the ways to call them are found by
trying (`forms`). Every node is run as it is added, so values stay finite, of ordinary size and not constant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
from onnx import defs, helper, numpy_helper

from tests.fuzz.forms import Array, Call, Draw, Form, Value
from tests.fuzz.layouts import FORMS, LISTED, PLAIN, WEIGHING, at_index
from worker.engine.ops import RULES

OPSETS = (13, 17, 20, 24)
BATCHES = (3, 1)  # every graph with an open batch grows at both
MORE = 4  # and runs at this one
MOST_ELEMENTS = 20_000
STARTS = ((3, 8, 8), (3, 8, 8), (5, 6), (12,))


@dataclass(frozen=True, eq=False)
class Program:
    """A graph that can be taken apart. `inputs` have the shapes of a batch of BATCHES[0], or of 1 where it is fixed."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, Array]
    inputs: Mapping[str, Array]
    output: str
    opset: int
    open_batch: bool

    def pruned(self) -> "Program":
        """Without what the output does not depend on."""
        wanted, kept = {self.output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= set(node.input)
        return replace(
            self,
            nodes=tuple(reversed(kept)),
            constants={name: array for name, array in self.constants.items() if name in wanted},
            inputs={name: array for name, array in self.inputs.items() if name in wanted},
        )

    def build(self, extra: Sequence[str] = ()) -> onnx.ModelProto:
        def put(name: str, array: Array) -> onnx.ValueInfoProto:
            shape = ["N", *array.shape[1:]] if self.open_batch else list(array.shape)
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)

        graph = helper.make_graph(
            list(self.nodes),
            "fuzz",
            [put(name, array) for name, array in self.inputs.items()],
            [helper.make_empty_tensor_value_info(name) for name in (self.output, *extra)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def checked(self) -> onnx.ModelProto:
        """The file as a user would send it: with the type and shape of its output."""
        return onnx.shape_inference.infer_shapes(self.build(), strict_mode=True)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fits_schema(op: str, call: Call, opset: int) -> bool:
    schema = defs.get_schema(op, opset, "")
    if op == "Compress" and not (isinstance(call.inputs[-1], np.ndarray) and call.inputs[-1].ndim == 1):
        return False  # a list of truths; no checker sees it
    if op == "Clip" and any(isinstance(one, np.ndarray) and one.ndim for one in call.inputs[1:]):
        return False  # its bounds are numbers, likewise
    if op == "QuantizeLinear" and any(isinstance(one, np.ndarray) and not one.any() for one in call.inputs[1:2]):
        return False  # what is divided by zero is left to each runtime's taste
    required = {name for name, attr in schema.attributes.items() if attr.required}
    return (
        schema.min_input <= len(call.inputs) <= schema.max_input
        and schema.min_output <= call.outputs <= schema.max_output
        and required <= set(call.attrs) <= set(schema.attributes)
    )


def attempt(op: str, call: Call, known: Mapping[str, Array], opset: int) -> list[Array] | None:
    """What one node gives in onnxruntime, or None where it does not run or gives nothing of use."""
    constants = {f"c{slot}": one for slot, one in enumerate(call.inputs) if not isinstance(one, str)}
    names = [one if isinstance(one, str) else f"c{slot}" for slot, one in enumerate(call.inputs)]
    outputs = [f"y{index}" for index in range(call.outputs)]
    feeds = {name: known[name] for name in dict.fromkeys(names) if name in known}
    x = known.get(names[0]) if names else None
    if op == "InstanceNormalization" and x is not None and x.size == np.prod(x.shape[:2]):
        return None  # of one number nothing is left but how each runtime rounds
    try:
        node = helper.make_node(op, names, outputs, **dict(call.attrs))
        program = Program((node,), constants, feeds, "y0", opset, False)
        found = session(program.build(outputs[1:])).run(outputs, feeds)
    except Exception:  # onnxruntime raises many types; each says that this call does not fit
        return None
    arrays = [np.asarray(one) for one in found]
    return arrays if all(map(ordinary, arrays)) else None


def ordinary(array: Array) -> bool:
    if not 0 < array.size <= MOST_ELEMENTS or array.dtype.kind not in "fiub":
        return False
    if array.dtype != np.float32:
        return array.dtype.kind != "f"
    return bool(np.isfinite(array).all() and np.abs(array).max() < 1e3 and (array.size < 4 or array.std() > 1e-2))


@lru_cache
def ways(opset: int) -> Mapping[str, tuple[Form, ...]]:
    """For every operator in the engine's table the forms that it takes."""
    rng = np.random.default_rng(0)
    floats = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 6, 6), (2, 6, 8), (2, 12))]
    others = [floats[0] > 0, np.arange(12).reshape(2, 6), rng.integers(0, 255, (2, 4, 6), dtype=np.uint8)]
    floats += [1 / (1 + np.exp(-floats[0])), 1 + np.abs(floats[1])]  # logarithms and the like want no others
    values = [Value(f"v{index}", array) for index, array in enumerate([*floats, *others])]
    known = {value.name: value.array for value in values}
    found: dict[str, tuple[Form, ...]] = {}
    for op in RULES:
        if "::" in op or not defs.has(op, opset, ""):
            continue
        taken = [form for form in FORMS if _taken(op, form, values, known, opset)]
        if any(form in taken for form in LISTED):
            taken = [form for form in taken if form is not at_index]  # onnxruntime takes a number for a list, too
        if taken:
            found[op] = tuple(taken)
    return found


def _taken(op: str, form: Form, values: Sequence[Value], known: Mapping[str, Array], opset: int) -> bool:
    rng = np.random.default_rng(1)
    for value in values:
        for _ in range(2):
            call = propose(form, Draw(rng, value, values))
            if call is None:
                continue
            if not fits_schema(op, call, opset):
                return False
            if attempt(op, call, known, opset) is not None:
                return True
    return False


def propose(form: Form, draw: Draw) -> Call | None:
    """A form may find nothing to work on in a value of unusual shape."""
    try:
        return form(draw)
    except (IndexError, ValueError, TypeError):
        return None


class Grower:
    """Adds nodes to a graph, each tried at every batch size first."""

    def __init__(self, rng: np.random.Generator, opset: int, favour: Sequence[str]) -> None:
        self.rng = rng
        self.opset = opset
        self.open_batch = bool(rng.random() < 0.7)
        start = STARTS[int(rng.integers(len(STARTS)))]
        samples = BATCHES if self.open_batch else (1,)
        self.known = [{"x": rng.standard_normal((n, *start)).astype(np.float32)} for n in samples]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.table = ways(opset)
        pairs = [(op, form) for op, forms in self.table.items() for form in forms]
        self.weighing = [pair for pair in pairs if pair[1].__name__.startswith(WEIGHING)]
        self.favour = [op for op in favour if op in self.table]

    def values(self) -> list[Value]:
        return [Value(name, array) for name, array in self.known[0].items()]

    def step(self) -> None:
        """One more node; nothing where forty tries find none."""
        for _ in range(40):
            values = self.values()
            recent = values[-1] if self.rng.random() < 0.85 else values[int(self.rng.integers(len(values)))]
            op, form = self.choose()
            call = propose(form, Draw(self.rng, recent, values))
            if call is not None and self.add(op, call):
                return

    def choose(self) -> tuple[str, Form]:
        """Begin with weights, later as often as not; else any operator, by a form of its own where it has one."""
        luck = self.rng.random()
        if not self.nodes or (luck < 0.4 and not self.favour) or luck < 0.2:
            return self.weighing[int(self.rng.integers(len(self.weighing)))]
        ops = self.favour if self.favour and luck < 0.6 else list(self.table)
        op = ops[int(self.rng.integers(len(ops)))]
        forms = self.table[op]
        own = [form for form in forms if form.__name__ not in PLAIN]
        forms = own if own and self.rng.random() < 0.8 else list(forms)
        return op, forms[int(self.rng.integers(len(forms)))]

    def add(self, op: str, call: Call) -> bool:
        if not fits_schema(op, call, self.opset):
            return False
        results = []
        for known in self.known:
            found = attempt(op, call, known, self.opset)
            if found is None:
                return False
            results.append(found)
        if not all(_alike(*pair) for pair in zip(results[0], results[-1], strict=True)):
            return False
        name = f"n{len(self.nodes)}"
        inputs = []
        for slot, one in enumerate(call.inputs):
            inputs.append(one if isinstance(one, str) else f"{name}.c{slot}")
            if not isinstance(one, str):
                self.constants[inputs[-1]] = one
        outputs = [name, *(f"{name}.{index}" for index in range(1, call.outputs))]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"/{name}/{op}", **dict(call.attrs)))
        for known, found in zip(self.known, results, strict=True):
            known.update(zip(outputs, found, strict=True))
        return True

    def close(self) -> str:
        """A head that reads the last value by constant weights, where its shape allows one."""
        floats = [value for value in self.values() if value.array.dtype == np.float32]
        last = floats[-1]
        if len(last.shape) == 4 and self.rng.random() < 0.5 and self.add("GlobalAveragePool", Call([last.name])):
            last = self.values()[-1]
        if (len(last.shape) != 3 or self.rng.random() < 0.5) and self.add("Flatten", Call([last.name])):
            last = self.values()[-1]
        weight = self.rng.standard_normal((last.shape[-1], 4)).astype(np.float32) if last.shape else None
        if weight is not None and self.add("MatMul", Call([last.name, weight])):
            last = self.values()[-1]
        return last.name


def _alike(one: Array, other: Array) -> bool:
    """The batch may stand on any axis; every other size is the same at both batches."""
    ratio = BATCHES[0] // BATCHES[-1]
    return one.ndim == other.ndim and all(a in (b, ratio * b) for a, b in zip(one.shape, other.shape, strict=True))


def generate(seed: int, favour: Sequence[str] = ()) -> Program:
    """The graph of a seed, with more of the operators in `favour`."""
    for again in range(20):
        program = _grown(np.random.default_rng([seed, again]), favour)
        if valid(program):
            return program
    raise AssertionError(f"seed {seed} gives no valid graph")


def _grown(rng: np.random.Generator, favour: Sequence[str]) -> Program:
    grower = Grower(rng, OPSETS[int(rng.integers(len(OPSETS)))], favour)
    for _ in range(int(rng.integers(3, 13))):
        grower.step()
    output = grower.close()
    inputs = {"x": grower.known[0]["x"]}
    return Program(tuple(grower.nodes), grower.constants, inputs, output, grower.opset, grower.open_batch).pruned()


def valid(program: Program) -> bool:
    """onnx accepts it, too, and infers the shapes that come out: onnxruntime runs some graphs that are none."""
    if not program.nodes or not program.inputs:
        return False
    names = [name for node in program.nodes for name in node.output if name and name != program.output]
    try:
        proto = program.checked()
        onnx.checker.check_model(proto, full_check=True)
        whole = session(program.build(names))
        for batch in (*BATCHES, MORE) if program.open_batch else (1,):
            feeds = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in program.inputs.items()}
            found = dict(zip([program.output, *names], whole.run(None, feeds), strict=True))
            if any(
                found[name].shape != one.shape for name, one in zip(found, whole.run(None, _other(feeds)), strict=True)
            ):
                return False  # sizes that depend on the data
            if not all(
                _as_inferred(one, found[one.name].shape) for one in (*proto.graph.value_info, *proto.graph.output)
            ):
                return False
    except Exception:  # the checker and onnxruntime raise many types
        return False
    return True


def _other(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Values of another kind: signs and order differ."""
    return {name: np.flip(-array) if array.dtype == np.float32 else array for name, array in feeds.items()}


def _as_inferred(info: onnx.ValueInfoProto, shape: tuple[int, ...]) -> bool:
    dims = info.type.tensor_type.shape.dim
    fixed = [one.dim_value if one.HasField("dim_value") else size for one, size in zip(dims, shape, strict=False)]
    return len(dims) == len(shape) and list(shape) == fixed
