"""Walk the graph in torch, operator by operator, holding only values that are still needed.

In: a graph, a device and arrays for its inputs. Out: the outputs, and every value on its way to `visit`. An operator
that has no torch form runs as a one-node onnxruntime session; one that onnxruntime does not know either (numbers of
eight or four bits, operators newer than it) in ONNX's own reference implementation. Half precision is computed in
single; what is in single becomes `floats`. Refused: a node that none of them can run (`model_does_not_run`, naming the
node) or that there is no memory for (`job_out_of_memory`); a gradient through one without torch form
(`gradient_unavailable`).

`part` walks some of the operators and may stand inside a transform of torch.func; what leaves torch there is `NoTrace`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx.reference import ReferenceEvaluator

from schemas.errors import EspalierError
from worker.engine.chance import settle
from worker.engine.graph import Array, Graph, Op
from worker.engine.memory import is_out_of_memory, run_failure, shortened
from worker.engine.ops import RULES
from worker.engine.ops.rule import NoTorchForm
from worker.engine.quantised import ZEROS

Held: TypeAlias = torch.Tensor | Array  # numpy for what torch has no type for (strings)
Visit: TypeAlias = Callable[[str, Held], None]
NEWEST_IR = 13  # the newest container that onnxruntime reads; a single node needs nothing of newer ones
Masks: TypeAlias = Mapping[tuple[int, int], torch.Tensor]  # by operator index and input slot


class NoTrace(Exception):
    """An operator computes outside torch, where no batch of masks can go."""

    def __init__(self, op: Op) -> None:
        super().__init__(op.label())
        self.op = op


def hold(array: Held, device: str, floats: torch.dtype = torch.float32) -> Held:
    """A numpy array as the executor keeps it; `floats`: what single precision becomes."""
    if isinstance(array, torch.Tensor):
        return array.to(device, floats if array.dtype == torch.float32 else None)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        return array
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(np.float32)
    if not array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array)
    try:
        return hold(torch.from_numpy(array), device, floats)
    except TypeError:
        return array


def to_numpy(value: Held) -> Array:
    if not isinstance(value, torch.Tensor):
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()


@dataclass
class Walk:
    """A batch on its way: the values that are still needed, how often each will be read, and the next operator."""

    live: dict[str, Held]
    left: Counter[str]
    at: int = 0


class Executor:
    """Runs one graph again and again. Values that depend on constants alone are computed once."""

    def __init__(
        self,
        graph: Graph,
        device: str = "cpu",
        constants: Mapping[str, Array] | None = None,
        floats: torch.dtype = torch.float32,
    ) -> None:
        self.graph = graph
        self.device = device
        self.floats = floats
        self.fixed = {name: hold(array, device, floats) for name, array in (constants or graph.constants).items()}
        self.offsets: dict[str, torch.Tensor] = {}  # what is added to values that operators compute
        self._nodes: dict[int, ort.InferenceSession | ReferenceEvaluator] = {}
        self._reads = Counter(
            name for op in graph.ops for name in dict.fromkeys((*op.inputs, *op.captures)) if name not in graph.static
        )
        self._wanted = {port.name for port in graph.outputs}

    @torch.no_grad()
    def run(self, feeds: Mapping[str, Held], visit: Visit | None = None, masks: Masks | None = None) -> dict[str, Held]:
        """The graph's outputs by name. `masks` multiply what single operators read."""
        return self._whole(feeds, visit, masks)

    @torch.enable_grad()
    def differentiable(
        self, feeds: Mapping[str, Held], visit: Visit | None = None, masks: Masks | None = None
    ) -> dict[str, Held]:
        """The same with gradients to whatever asks for them: masks, feeds, or constants in `fixed` (what is computed
        from those alone is computed anew)."""
        moving = {name for name, value in self.fixed.items() if isinstance(value, torch.Tensor) and value.requires_grad}
        if moving:
            for name in self.graph.static - self.graph.constants.keys():
                self.fixed.pop(name, None)
        return self._whole(feeds, visit, masks)

    def part(self, ops: Sequence[Op], values: Mapping[str, Held], wanted: str, masks: Masks) -> torch.Tensor:
        """One value that some of the operators, in order, compute from the values they read."""
        live = dict(values)
        reads = Counter(name for op in ops for name in dict.fromkeys((*op.inputs, *op.captures)))
        self._walk(ops, live, reads, {wanted}, None, masks)
        value = live[wanted]
        assert isinstance(value, torch.Tensor)
        return value

    def _whole(self, feeds: Mapping[str, Held], visit: Visit | None, masks: Masks | None) -> dict[str, Held]:
        walk = self.start(feeds, visit)
        self._walk(self.graph.ops, walk.live, walk.left, self._wanted, visit, masks or {})
        return {name: self.value(walk, name) for name in self._wanted}

    def start(self, feeds: Mapping[str, Held], visit: Visit | None = None, keep: Iterable[str] = ()) -> Walk:
        """A batch before the first operator. Values named in `keep` stay until they are dropped once more."""
        live = {name: hold(array, self.device, self.floats) for name, array in feeds.items()}
        if visit:
            for name, value in (*self.fixed.items(), *live.items()):
                visit(name, value)
        return Walk(live, self._reads + Counter(keep))

    def fork(self, walk: Walk, keep: Iterable[str] = ()) -> Walk:
        """Another walk from where this one stands. Values that are still needed and named in `keep` stay until they are
        dropped once more, others for as long as operators read them."""
        done = Counter(name for op in self.graph.ops[: walk.at] for name in dict.fromkeys((*op.inputs, *op.captures)))
        left = Counter({name: reads - done[name] for name, reads in self._reads.items()}) + Counter(keep)
        live = {name: value for name, value in walk.live.items() if left[name] > 0 or name in self._wanted}
        return Walk(live, left, walk.at)

    @torch.no_grad()
    def advance(self, walk: Walk, until: int, masks: Masks | None = None) -> None:
        """Run the operators before the one with index `until` that have not run yet."""
        self._walk(self.graph.ops[walk.at : until], walk.live, walk.left, self._wanted, None, masks or {})
        walk.at = max(walk.at, until)

    def value(self, walk: Walk, name: str) -> Held:
        """A value that has been computed and is still needed."""
        return walk.live[name] if name in walk.live else self.fixed[name]

    def drop(self, walk: Walk, name: str) -> None:
        """One reader fewer; the last one frees the value."""
        walk.left[name] -= 1
        if walk.left[name] == 0 and name not in self._wanted:
            walk.live.pop(name, None)

    def replace(self, name: str, array: Array) -> None:
        """From now on a constant has another value, or something is added to a value that an operator computes. What
        was computed from constants alone stays as it was."""
        held = hold(array, self.device, self.floats)
        if name in self.graph.constants:
            self.fixed[name] = held
        else:
            assert isinstance(held, torch.Tensor)
            self.offsets[name] = held

    def _walk(
        self,
        ops: Sequence[Op],
        live: dict[str, Held],
        left: Counter[str],
        wanted: Set[str],
        visit: Visit | None,
        masks: Masks,
    ) -> None:
        """The operators in order. `left` counts who still reads each value: the last one lets go of it."""
        for op in ops:
            if op.outputs[0] in self.fixed:
                continue
            results = self._step(op, live, masks)
            for name, value in zip(op.outputs, results, strict=False):
                if name in self.offsets:
                    value = value + self.offsets[name]
                if name in self.graph.static:
                    self.fixed[name] = value
                elif name:
                    live[name] = value
                if name and visit:
                    visit(name, value)
            for name in dict.fromkeys((*op.inputs, *op.captures)):
                left[name] -= 1
                if name in live and left[name] == 0 and name not in wanted:
                    del live[name]

    def in_onnxruntime(self) -> tuple[Op, ...]:
        """The operators that had no torch form so far."""
        return tuple(op for op in self.graph.ops if op.index in self._nodes)

    def _value(self, name: str, live: Mapping[str, Held]) -> Held | None:
        if not name:
            return None
        return live[name] if name in live else self.fixed[name]

    def _masked(
        self, op: Op, slot: int, value: torch.Tensor, mask: torch.Tensor, live: Mapping[str, Held]
    ) -> torch.Tensor:
        """Where the mask is zero the operator reads zero: among integers what stands for it."""
        at = ZEROS.get((op.key, slot))
        if at is None:
            return value * mask
        point = self._value(op.input(at), live)
        zero = point.to(mask.dtype) if isinstance(point, torch.Tensor) else torch.zeros_like(mask)
        return (zero + (value.to(mask.dtype) - zero) * mask).to(value.dtype)

    def _step(self, op: Op, live: Mapping[str, Held], masks: Masks) -> Sequence[Held]:
        values = [self._value(name, live) for name in op.inputs]
        for slot, value in enumerate(values):
            if (op.index, slot) in masks and isinstance(value, torch.Tensor):
                values[slot] = self._masked(op, slot, value, masks[op.index, slot], live)
        tensors = [value for value in values if value is None or isinstance(value, torch.Tensor)]
        rule = RULES.get(op.key)
        if rule is not None and len(tensors) == len(values):
            try:
                return rule.compute(op, tensors)
            except (NoTorchForm, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:
                # torch lacks many forms of unsigned numbers; what odd attributes and sizes mean, onnxruntime says
                if is_out_of_memory(error):
                    raise run_failure(error, shortened(error), where=op.label()) from None
        return self._alone(op, values, live)

    def _alone(self, op: Op, values: Sequence[Held | None], live: Mapping[str, Held]) -> Sequence[Held]:
        """One node as a model of its own; what its subgraphs capture becomes an input."""
        if torch.is_grad_enabled() and any(isinstance(one, torch.Tensor) and one.requires_grad for one in values):
            raise EspalierError(
                "gradient_unavailable", f"{op.label()} has no form here that gives gradients", where=op.label()
            )
        read = dict(zip(op.inputs, values, strict=True)) | {name: self._value(name, live) for name in op.captures}
        try:
            feeds = {name: to_numpy(value) for name, value in read.items() if value is not None}
        except RuntimeError:  # inside a transform of torch.func tensors have no memory of their own
            raise NoTrace(op) from None
        names = [name for name in op.outputs if name]
        known = op.index in self._nodes
        try:
            if not known:
                self._nodes[op.index] = _session(_one_node(self.graph, op, feeds))
            results = self._nodes[op.index].run(names, feeds)
        except Exception as error:  # onnxruntime raises many types, all of them about this node
            found = None if known else _in_reference(self.graph, op, names, feeds)
            if found is None:
                sizes = " and ".join(str(list(value.shape)) for value in feeds.values())
                raise run_failure(error, f"it read {sizes}: {shortened(error)}", where=op.label()) from None
            self._nodes[op.index], results = found
        named = dict(zip(names, results, strict=True))
        return [
            hold(np.asarray(named[name]), self.device, self.floats) if name else torch.empty(0) for name in op.outputs
        ]


def _opsets(graph: Graph, op: Op) -> dict[str, int]:
    """The oldest versions that mean the same: onnxruntime knows old operators in models newer than itself."""
    found = dict.fromkeys(graph.opsets, 1)
    for node in (op.node, *_inside(op.node)):
        version = graph.opsets.get(node.domain, 1)
        if onnx.defs.has(node.op_type, domain=node.domain):
            version = onnx.defs.get_schema(node.op_type, version, node.domain).since_version
        found[node.domain] = max(found.get(node.domain, 1), version)
    return found


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of its subgraphs, however deep."""
    for attr in node.attributes.values():
        graphs = [attr.as_graph()] if attr.type == ir.AttributeType.GRAPH else []
        graphs += attr.as_graphs() if attr.type == ir.AttributeType.GRAPHS else []
        for graph in graphs:
            for inner in graph:
                yield inner
                yield from _inside(inner)


def _one_node(graph: Graph, op: Op, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), _stated_shape(op, array)
        )
        for name, array in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in op.outputs if name]
    node = ir.serde.serialize_node(op.node)
    settle([node])
    return onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in _opsets(graph, op).items()],
        ir_version=min(graph.ir_version, NEWEST_IR),
    )


def _stated_shape(op: Op, array: Array) -> list[int | None]:
    """Any size goes, but onnxruntime wants to know how many sizes or scales a Resize gets."""
    return list(array.shape) if op.key == "Resize" and array.ndim == 1 else [None] * array.ndim


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _in_reference(
    graph: Graph, op: Op, names: list[str], feeds: Mapping[str, Array]
) -> tuple[ReferenceEvaluator, Sequence[Array]] | None:
    """ONNX's own implementation and what it computes; None where it cannot either."""
    try:
        evaluator = ReferenceEvaluator(_one_node(graph, op, feeds))
        results = evaluator.run(names, dict(feeds))
        return evaluator, [np.asarray(one) for one in results]
    except Exception:  # as many types as operators; the caller tells what onnxruntime said
        return None
