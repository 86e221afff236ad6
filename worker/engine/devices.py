"""Where both models would run: memory, time and operators, device by device.

In: the two sides of a report, the graph, the target that was asked for. Out: `Devices`. Nothing is refused: what does
not fit says so.
"""

from collections import Counter
from collections.abc import Iterator

from schemas.device import (
    RUNTIMES,
    TARGETS,
    Compiled,
    CustomTarget,
    DeviceFit,
    DeviceProfile,
    Devices,
    Fit,
    OperatorSupport,
    Processor,
    Runtime,
    Speed,
    TargetFit,
)
from schemas.errors import EspalierError
from schemas.report import Side
from worker.engine.graph import Graph
from worker.engine.quantised import dequantises_constant

INTEGER_PRODUCTS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")

Device = DeviceProfile | CustomTarget


def devices(
    target: str | CustomTarget | None, graph: Graph, before: Side, after: Side, *, quantized: bool = False
) -> Devices:
    """Every device, and the target with all that is in its way. `quantized`: the model has been rounded since."""
    int8 = is_int8(graph)
    then = int8 or quantized
    asked = None
    device = named(target)
    if device is not None:
        program, stack = beside(device, graph)
        asked = TargetFit(
            device=device.name if isinstance(device, DeviceProfile) else "custom",
            before=fit(device, graph, before, int8),
            after=fit(device, graph, after, then),
            flash_bytes=device.flash_bytes,
            ram_bytes=device.ram_bytes,
            program_bytes=program,
            stack_bytes=stack,
            operators=tuple(operators(device, graph, then)),
        )
    every = (
        DeviceFit(device=name, before=fit(one, graph, before, int8), after=fit(one, graph, after, then))
        for name, one in TARGETS.items()
    )
    return Devices(target=asked, profiles=tuple(every))


def named(target: str | CustomTarget | None) -> Device | None:
    """The device that a request means."""
    return TARGETS[target] if isinstance(target, str) else target


def unfinished(processor: Processor) -> Compiled:
    """What stands in the report until the compiled check has ended, and if it never does."""
    failure = EspalierError("device_check_failed", "it was stopped before its end").failure
    return Compiled(processor=processor, figures=None, refused=failure)


def is_int8(graph: Graph) -> bool:
    """Whether the model multiplies integers: its weights, or its products, are quantised."""
    return any(op.key in INTEGER_PRODUCTS or dequantises_constant(graph, op) for op in graph.ops)


def beside(device: Device, graph: Graph) -> tuple[int, int]:
    """Flash and RAM that the program takes, as estimated."""
    room, running = runtime_of(device).program, sum(op.outputs[0] not in graph.static for op in graph.ops)
    return room.base_bytes + room.operator_bytes * running, room.stack_bytes


def runtime_of(device: Device) -> Runtime:
    """A device of one's own is taken for a microcontroller."""
    return RUNTIMES[device.runtime if isinstance(device, DeviceProfile) else "static-c"]


def fit(device: Device, graph: Graph, side: Side, int8: bool) -> Fit:
    why = tuple(_missing(device, graph, side))
    return Fit(fits=not why, why=why, speed=tuple(_speeds(device, side.macs, int8)))


def _missing(device: Device, graph: Graph, side: Side) -> Iterator[str]:
    program, stack = beside(device, graph)
    needs = (
        ("flash", side.flash_bytes, program, "program", device.flash_bytes),
        ("RAM", side.peak_ram_bytes, stack, "stack", device.ram_bytes),
    )
    for memory, own, more, name, there in needs:
        needed = own + more
        if there is not None and needed > there:
            of_them = f" (some {more:,} of them for the {name})" if more else ""
            yield (
                f"{needed:,} bytes of {memory}{of_them} are needed and {there:,} are there: {needed - there:,} too few"
            )


def _speeds(device: Device, macs: int, int8: bool) -> Iterator[Speed]:
    if isinstance(device, CustomTarget):
        if device.clock_hz is not None and device.macs_per_cycle is not None:
            yield _speed("int8" if int8 else "fp32", macs, device.macs_per_cycle, device.clock_hz)
        return
    yield _speed("fp32", macs, device.macs_per_cycle.fp32, device.clock_hz)
    if int8:
        yield _speed("int8", macs, device.macs_per_cycle.int8, device.clock_hz)


def speed(device: Device, macs: int, int8: bool) -> Speed | None:
    """In the arithmetic that the model is in; nothing where the device states no rate."""
    return next(reversed(tuple(_speeds(device, macs, int8))), None)


def _speed(arithmetic: str, macs: int, rate: float, clock_hz: int) -> Speed:
    cycles = macs / rate
    return Speed.model_validate(
        {"arithmetic": arithmetic, "cycles": round(cycles), "milliseconds": 1000 * cycles / clock_hz}
    )


def operators(device: Device, graph: Graph, int8: bool) -> Iterator[OperatorSupport]:
    """Each kind of operator in the model; those that depend on constants alone are computed before it is deployed."""
    runtime = runtime_of(device)
    counts = Counter(op.key for op in graph.ops if op.outputs[0] not in graph.static)
    for key, nodes in sorted(counts.items()):
        reason = _in_the_way(runtime, key)
        yield OperatorSupport(
            operator=key, nodes=nodes, supported=not reason, reason=reason or _taken_over(runtime, key, int8)
        )


def _in_the_way(runtime: Runtime, key: str) -> str:
    if "::" in key and not key.startswith("com.microsoft::"):
        return "an operator of one's own, for which there is no kernel"
    return runtime.cannot.get(key, "")


def _taken_over(runtime: Runtime, key: str, int8: bool) -> str:
    if not runtime.accelerates:
        return ""
    if key in runtime.accelerates:
        return "accelerated" if int8 else "on the CPU: the accelerator takes int8 only"
    return "on the CPU: the accelerator does not take it"
