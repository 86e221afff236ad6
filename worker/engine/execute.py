"""Walk the graph in torch, operator by operator, holding only values that are still needed.

In: a graph, a device and arrays for its inputs. Out: the outputs, and every value on its way to `visit`. An operator
that has no torch form runs as a one-node onnxruntime session. Half precision is computed in single. Refused: a node
that neither can run (`model_does_not_run`, naming the node) or that there is no memory for (`job_out_of_memory`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch

from worker.engine.graph import Array, Graph, Op
from worker.engine.memory import run_failure, shortened
from worker.engine.ops import RULES
from worker.engine.ops.rule import NoTorchForm

Held: TypeAlias = torch.Tensor | Array  # numpy for what torch has no type for (strings)
Visit: TypeAlias = Callable[[str, Held], None]
Masks: TypeAlias = Mapping[tuple[int, int], torch.Tensor]  # by operator index and input slot


def hold(array: Array, device: str) -> Held:
    """A numpy array as the executor keeps it."""
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        return array
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(np.float32)
    if not array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array)
    try:
        return torch.from_numpy(array).to(device)
    except TypeError:
        return array


def to_numpy(value: Held) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


class Executor:
    """Runs one graph again and again. Values that depend on constants alone are computed once."""

    def __init__(self, graph: Graph, device: str = "cpu", constants: Mapping[str, Array] | None = None) -> None:
        self.graph = graph
        self.device = device
        self.fixed = {name: hold(array, device) for name, array in (constants or graph.constants).items()}
        self._nodes: dict[int, ort.InferenceSession] = {}
        self._reads = Counter(
            name for op in graph.ops for name in dict.fromkeys((*op.inputs, *op.captures)) if name not in graph.static
        )
        self._wanted = {port.name for port in graph.outputs}

    @torch.inference_mode()
    def run(
        self, feeds: Mapping[str, Array], visit: Visit | None = None, masks: Masks | None = None
    ) -> dict[str, Held]:
        """The graph's outputs by name. `masks` multiply what single operators read."""
        live: dict[str, Held] = {name: hold(array, self.device) for name, array in feeds.items()}
        left = Counter(self._reads)
        if visit:
            for name, value in (*self.fixed.items(), *live.items()):
                visit(name, value)
        for op in self.graph.ops:
            if op.outputs[0] in self.fixed:
                continue
            results = self._step(op, live, masks or {})
            for name, value in zip(op.outputs, results, strict=False):
                if name in self.graph.static:
                    self.fixed[name] = value
                elif name:
                    live[name] = value
                if name and visit:
                    visit(name, value)
            for name in dict.fromkeys((*op.inputs, *op.captures)):
                left[name] -= 1
                if name in live and left[name] == 0 and name not in self._wanted:
                    del live[name]
        return {name: live[name] if name in live else self.fixed[name] for name in self._wanted}

    def _value(self, name: str, live: Mapping[str, Held]) -> Held | None:
        if not name:
            return None
        return live[name] if name in live else self.fixed[name]

    def _step(self, op: Op, live: Mapping[str, Held], masks: Masks) -> Sequence[Held]:
        values = [self._value(name, live) for name in op.inputs]
        for slot, value in enumerate(values):
            if (op.index, slot) in masks and isinstance(value, torch.Tensor):
                values[slot] = value * masks[op.index, slot]
        tensors = [value for value in values if value is None or isinstance(value, torch.Tensor)]
        rule = RULES.get(op.key)
        if rule is not None and len(tensors) == len(values):
            try:
                return rule.compute(op, tensors)
            except NoTorchForm:
                pass
            except (RuntimeError, IndexError, TypeError) as error:
                raise run_failure(error, shortened(error), where=op.label()) from None
        return self._in_onnxruntime(op, values, live)

    def _in_onnxruntime(self, op: Op, values: Sequence[Held | None], live: Mapping[str, Held]) -> Sequence[Held]:
        """One node as a session of its own; what its subgraphs capture becomes an input."""
        feeds = {name: to_numpy(value) for name, value in zip(op.inputs, values, strict=True) if value is not None}
        feeds |= {name: to_numpy(value) for name in op.captures if (value := self._value(name, live)) is not None}
        try:
            if op.index not in self._nodes:
                self._nodes[op.index] = _session(self.graph, op, feeds)
            results = self._nodes[op.index].run([name for name in op.outputs if name], feeds)
        except Exception as error:  # onnxruntime raises many types, all of them about this node
            raise run_failure(error, shortened(error), where=op.label()) from None
        named = dict(zip([name for name in op.outputs if name], results, strict=True))
        return [hold(np.asarray(named[name]), self.device) if name else torch.empty(0) for name in op.outputs]


def _session(graph: Graph, op: Op, feeds: Mapping[str, Array]) -> ort.InferenceSession:
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in op.outputs if name]
    node = ir.serde.serialize_node(op.node)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()],
        ir_version=graph.ir_version,
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
