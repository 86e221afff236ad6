"""Devices: what fits where, how fast, and what is in the way; worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from pydantic import ValidationError

from schemas.device import RUNTIMES, TARGETS, CustomTarget, DeviceProfile, read
from schemas.errors import EspalierError
from schemas.parse import parse
from schemas.request import Constraints, parse_options
from schemas.sweep import SweepRequest
from tests.engine.dissect import dissect
from tests.engine.nets import ROW, Node, cnn, gemm, layer, mlp, model
from tests.engine.test_render import side
from worker.engine import devices
from worker.engine.graph import Graph
from worker.engine.verdict import verdict

LARGE, SMALL = side(), side(0.01).model_copy(update={"peak_ram_bytes": 4_608})


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return dissect(cnn(), tmp_path).graph


def test_what_is_missing_is_said_in_bytes(graph: Graph) -> None:
    """10,400,000 bytes of weights in 524,288 of flash; 46,080 of activations fit the 131,072 of RAM. A program of ten
    operators takes 1,280 bytes and 128 for each, its stack 512."""
    found = devices.devices("stm32f4", graph, LARGE, SMALL).target
    assert found is not None
    assert 10 == sum(op.outputs[0] not in graph.static for op in graph.ops)
    (why,) = found.before.why
    needed = "10,402,560 bytes of flash (some 2,560 of them for the program) are needed"
    assert f"{needed} and 524,288 are there: 9,878,272 too few" == why
    assert (False, True) == (found.before.fits, found.after.fits)
    tight = CustomTarget(flash_bytes=10_402_560, ram_bytes=46_591)
    found = devices.devices(tight, graph, LARGE, SMALL).target
    assert found is not None
    (why,) = found.before.why
    assert "46,592 bytes of RAM (some 512 of them for the stack) are needed and 46,591 are there: 1 too few" == why


def test_exactly_enough_is_enough(graph: Graph) -> None:
    found = devices.devices(CustomTarget(flash_bytes=10_402_560, ram_bytes=46_592), graph, LARGE, SMALL).target
    assert found is not None
    assert found.before.fits


def test_a_program_is_nothing_beside_what_linux_has(graph: Graph) -> None:
    found = devices.devices("raspberry-pi-4", graph, LARGE, SMALL).target
    assert found is not None
    assert (0, 0) == (found.program_bytes, found.stack_bytes)


def test_external_storage_has_room_for_every_weight(graph: Graph) -> None:
    huge = LARGE.model_copy(update={"flash_bytes": 10**13})
    fits = {one.device: one.before.fits for one in devices.devices(None, graph, huge, huge).profiles}
    assert fits == {name: one.flash_bytes is None for name, one in TARGETS.items()}


def test_time_is_macs_over_rate_over_clock(graph: Graph) -> None:
    """48 million MACs at 0.2 a cycle and 180 MHz."""
    found = devices.devices("stm32f4", graph, LARGE, SMALL).target
    assert found is not None
    assert [("fp32", 240_000_000)] == [(one.arithmetic, one.cycles) for one in found.before.speed]
    assert pytest.approx(1333.333, abs=0.001) == found.before.speed[0].milliseconds


def test_a_device_of_ones_own_needs_a_clock_and_a_rate_for_a_time(graph: Graph) -> None:
    bare = CustomTarget(flash_bytes=1, ram_bytes=1, clock_hz=1000)
    rated = bare.model_copy(update={"macs_per_cycle": 48.0})
    for target, cycles in ((bare, []), (rated, [1_000_000])):
        found = devices.devices(target, graph, LARGE, SMALL).target
        assert found is not None
        assert cycles == [one.cycles for one in found.before.speed]


def test_int8_has_a_time_of_its_own(tmp_path: Path) -> None:
    nodes = [
        Node("DequantizeLinear", ["q", "scale", "zero"], "w"),
        Node("MatMul", ["x", "w"], "h"),
        Node("Relu", ["h"], "r"),
        gemm("fc", "r", "y"),
    ]
    weights = {
        "q": np.ones((12, 8), np.int8),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(0, np.int8),
        **layer("fc", 4, 8),
    }
    graph = dissect(model(nodes, weights, ROW, ["y"]), tmp_path).graph
    found = devices.devices("cortex-m55-ethos-u55", graph, LARGE, SMALL).target
    assert found is not None
    assert [("fp32", 48_000_000), ("int8", 750_000)] == [(one.arithmetic, one.cycles) for one in found.before.speed]
    said = {one.operator: one.reason for one in found.operators}
    assert {"MatMul": "accelerated", "Relu": "accelerated", "Gemm": "accelerated"} == said


def test_an_accelerator_of_int8_does_not_take_floating_point(graph: Graph) -> None:
    found = devices.devices("cortex-m55-ethos-u55", graph, LARGE, SMALL).target
    assert found is not None
    said = {one.operator: one.reason for one in found.operators}
    assert "on the CPU: the accelerator takes int8 only" == said["Conv"]
    assert all(one.supported for one in found.operators)


def test_operators_without_a_static_size_are_in_the_way(tmp_path: Path) -> None:
    net = mlp()
    net.graph.node.append(Node("NonZero", ["y"], "places").proto())
    net.graph.output.append(make_tensor_value_info("places", TensorProto.INT64, [2, None]))
    graph = dissect(net, tmp_path).graph
    on_mcu = devices.devices("stm32f4", graph, SMALL, SMALL).target
    on_linux = devices.devices("raspberry-pi-5", graph, SMALL, SMALL).target
    assert on_mcu is not None
    assert on_linux is not None
    assert ["NonZero"] == [one.operator for one in on_mcu.operators if not one.supported]
    assert [] == [one.operator for one in on_linux.operators if not one.supported]
    broken = verdict(Constraints(fits_target=True), SMALL, SMALL, on_mcu).broken
    assert ("fits_target: stm32f4 does not run NonZero: the size of its output depends on the data",) == broken
    assert () == verdict(Constraints(fits_target=True), SMALL, SMALL, on_linux).broken
    assert () == verdict(Constraints(), SMALL, SMALL, on_mcu).broken


ONE_BLOCK = "is missing (What activations have room in, as one block)"


@pytest.mark.parametrize(
    ("options", "pointer", "detail"),
    [
        ({"target": "stm32f"}, "/target", "no device is called 'stm32f'; did you mean 'stm32f7'?"),
        ({"target": {"flash_bytes": 3}}, "/target/ram_bytes", ONE_BLOCK),
        (
            {"target": {"flash_bytes": 3, "ram_bytes": 4, "ram": 4}},
            "/target/ram",
            "unknown option 'ram'; did you mean 'ram_bytes'?",
        ),
        ({"target": 7}, "/target", "give the name of a device, or an object with flash_bytes and ram_bytes"),
        (
            {"constraints": {"fits_target": True}},
            "",
            'constraints.fits_target needs a target, such as "stm32f4"; see GET /targets',
        ),
    ],
)
def test_targets_that_mean_nothing_are_refused_where_they_stand(
    options: dict[str, object], pointer: str, detail: str
) -> None:
    with pytest.raises(EspalierError) as caught:
        parse_options(options)
    assert [(pointer, detail)] == [(one.pointer, one.detail) for one in caught.value.failure.errors]


def test_many_prunings_are_not_compiled_one_by_one() -> None:
    with pytest.raises(EspalierError) as caught:
        parse({"over": {"amount.remove_units": [0.2, 0.5]}, "base": {"verify_on": "cortex-m4"}}, SweepRequest)
    assert "verify_on is for a single pruning" in caught.value.failure.detail


def test_the_devices_are_what_was_promised() -> None:
    expected = {"stm32f4", "stm32f7", "stm32h7", "stm32u5", "nrf52840", "rp2040", "esp32", "esp32-s3", "raspberry-pi-4",
                "raspberry-pi-5", "jetson-orin-nano", "cortex-m55-ethos-u55"}  # fmt: skip
    assert expected == set(TARGETS)
    assert all(one.runtime in RUNTIMES for one in TARGETS.values())


def test_a_file_with_an_unknown_runtime_or_field_is_refused(tmp_path: Path) -> None:
    text = Path(devices.__file__).parents[2].joinpath("schemas/devices.toml").read_text()
    path = tmp_path / "devices.toml"
    path.write_text(text.replace('runtime = "ethos-u55"', 'runtime = "ethos"'))
    with pytest.raises(ValueError, match="no such runtime: ethos"):
        read(path)
    path.write_text(text.replace("clock_hz = 64_000_000", "clock_mhz = 64", 1))
    with pytest.raises(ValidationError, match="clock_mhz"):
        read(path)
    assert isinstance(TARGETS["nrf52840"], DeviceProfile)
