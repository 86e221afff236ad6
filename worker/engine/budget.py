"""What a model takes, in the units of a budget, when its groups have lost so many units.

In: the graph, the shapes seen, the groups, what the uploaded file takes. Out: `Quantities`: from units lost to MACs,
parameters, bytes of the file, bytes of RAM and milliseconds; and `Budget`: what is spent beyond its limits. Refused: a
budget that even the smallest model of the scope exceeds (`amount_unreachable`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from schemas.amount import KeepKind
from schemas.errors import EspalierError
from worker.engine import arena, cost
from worker.engine.axes import Group
from worker.engine.devices import is_int8
from worker.engine.graph import Graph
from worker.engine.ops.rule import ShapeOf
from worker.engine.ties import Seen

Lost = Mapping[str, int]  # groups' names and how many units they lose
BYTE = np.dtype(np.int8)
ROUNDED = ("Conv", "Gemm", "MatMul")
CHANNEL_BYTES, ACTIVATION_BYTES = 13, 5  # float scales, zero points of one byte and, of biases, of four
BIAS_BYTES = 4
PULL = 1e-6  # of all activations together: where two tensors are equally large, neither alone moves the peak
NAMES: Mapping[KeepKind, str] = {
    "keep_macs": "MACs",
    "keep_parameters": "parameters",
    "keep_file_bytes": "bytes of the file",
    "keep_peak_ram": "bytes of RAM",
    "keep_latency": "ms",
}


@dataclass(frozen=True, eq=False)
class Quantities:
    """`overhead` are the bytes of the file that are no weights; `milliseconds` each operator's part of the latency;
    `eight_bits`: the result will be rounded; `biases`: the values, and their axes, that may get a bias once units have
    gone."""

    graph: Graph
    seen: Seen
    groups: Sequence[Group]
    overhead: int
    milliseconds: Callable[[], Mapping[int, float]]
    eight_bits: bool = False
    biases: Sequence[tuple[str, tuple[int, ...]]] = ()

    def int8(self) -> bool:
        """Whether the result multiplies integers."""
        return self.eight_bits or is_int8(self.graph)

    def of(self, kind: KeepKind, lost: Lost) -> float:
        after = cost.shapes_after(self.seen, cost.axes_gone(self.groups, lost))
        match kind:
            case "keep_macs":
                return float(sum(cost.macs_by_op(self.graph, after).values()))
            case "keep_parameters":
                return float(cost.parameters(self.graph, after) + self._biases(after, lost))
            case "keep_file_bytes":
                return float(self.overhead + self.weight_bytes(after) + BIAS_BYTES * self._biases(after, lost))
            case "keep_peak_ram":
                return self._ram(after)
            case "keep_latency":
                return self._latency(after)

    def _biases(self, after: ShapeOf, lost: Lost) -> int:
        """The numbers of biases that the compensation may add."""
        if not any(lost.values()):
            return 0
        return sum(prod(after(name)[axis] for axis in axes) for name, axes in self.biases)

    def weight_bytes(self, after: ShapeOf) -> int:
        """As they lie in flash and in the file."""
        if not self.eight_bits:
            return cost.flash_bytes(self.graph, after)
        matrices = [name for name, array in self.graph.constants.items() if cost.is_real(array) and array.ndim > 1]
        saved = sum(prod(after(name)) * (self.graph.constants[name].dtype.itemsize - 1) for name in matrices)
        return cost.flash_bytes(self.graph, after) - saved + self._scales(after)

    def _scales(self, after: ShapeOf) -> int:
        """What rounding adds: for each output channel a scale and a zero point, and the same for its bias; for each
        activation one of both."""
        graph = self.graph
        channels = [
            after(op.outputs[0])[1 if op.key == "Conv" else -1]
            for op in graph.ops
            if op.key in ROUNDED and op.input(1) in graph.constants
        ]
        active = sum(op.outputs[0] not in graph.static for op in graph.ops) + len(graph.inputs)
        return CHANNEL_BYTES * sum(channels) + ACTIVATION_BYTES * active

    def _ram(self, after: ShapeOf) -> float:
        blocks = arena.blocks(self._buffers(), self.deployed(), after)
        return arena.most_alive(blocks) + PULL * sum(block.bytes for block in blocks)

    def _buffers(self) -> tuple[arena.Buffer, ...]:
        known: tuple[arena.Buffer, ...] | None = self.__dict__.get("_found")
        if known is None:
            known = arena.buffers(self.graph, self.deployed())
            self.__dict__["_found"] = known
        return known

    def deployed(self) -> Seen:
        """The types that activations have on the device."""
        if not self.eight_bits:
            return self.seen
        dtypes = {name: BYTE if dtype.kind == "f" else dtype for name, dtype in self.seen.dtypes.items()}
        return replace(self.seen, dtypes=dtypes)

    def _latency(self, after: ShapeOf) -> float:
        whole = cost.shapes_after(self.seen, {})
        before, then = cost.macs_by_op(self.graph, whole), cost.macs_by_op(self.graph, after)
        total = 0.0
        for index, part in self.milliseconds().items():
            op = self.graph.ops[index]
            if before.get(index):
                share = then[index] / before[index]
            else:
                sizes = [(prod(after(name)), prod(whole(name))) for name in op.outputs if name in self.seen.shapes]
                share = sum(small for small, _ in sizes) / max(sum(large for _, large in sizes), 1)
            total += part * share
        return total


@dataclass(frozen=True)
class Budget:
    """Limits on several quantities at once."""

    limits: Mapping[KeepKind, float]
    quantities: Quantities

    def over(self, lost: Lost) -> float:
        """By how much the limits are exceeded, each in shares of itself; nothing where all are met."""
        return sum(max(0.0, self.quantities.of(kind, lost) / limit - 1.0) for kind, limit in self.limits.items())


def budget(keeps: Mapping[KeepKind, float], quantities: Quantities, most: Lost) -> Budget:
    """The limits behind shares. Refused: one that is not met when groups have lost all that they may (`most`)."""
    limits = {}
    for kind, share in keeps.items():
        whole, least = quantities.of(kind, {}), quantities.of(kind, most)
        limits[kind] = share * whole
        if least > limits[kind]:
            raise EspalierError(
                "amount_unreachable",
                f"{kind} {share:.3g} asks for {_figure(kind, limits[kind])} {NAMES[kind]}; removing all that may go "
                f"leaves {_figure(kind, least)} of {_figure(kind, whole)} ({least / whole:.3g})",
                where="/amount",
            )
    return Budget(limits, quantities)


def _figure(kind: KeepKind, amount: float) -> str:
    """What is counted stands whole; milliseconds have a fraction."""
    return f"{amount:.3g}" if kind == "keep_latency" else f"{amount:,.0f}"
