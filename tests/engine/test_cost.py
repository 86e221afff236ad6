"""Parameters, MACs and bytes of weights against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import onnx

from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import cnn, mlp, mobile
from worker.engine import cost
from worker.engine.ops.rule import ShapeOf


def shapes(dissected: Dissected) -> ShapeOf:
    return cost.shapes_after(dissected.analysis.ties.seen, {})


def whole(dissected: Dissected) -> cost.Cost:
    return cost.cost(dissected.graph, shapes(dissected))


def test_an_mlp(tmp_path: Path) -> None:
    found = whole(dissect(mlp(), tmp_path))
    assert 10 * 12 + 8 * 10 + 4 * 8 == found.macs
    assert found.macs + 10 + 8 + 4 == found.parameters


def test_a_cnn_with_batch_norm(tmp_path: Path) -> None:
    found = whole(dissect(cnn(), tmp_path))
    assert 64 * 6 * 27 + 16 * 5 * 54 + 7 * 80 + 4 * 7 == found.macs
    assert (6 * 27 + 6) + 24 + (5 * 54 + 5) + (7 * 80 + 7) + (4 * 7 + 4) == found.parameters


def test_depthwise_costs_one_input_channel_per_output(tmp_path: Path) -> None:
    assert 64 * (6 * 3 + 12 * 9 + 5 * 12) + 4 * 5 == whole(dissect(mobile(), tmp_path)).macs


def test_flash_is_every_weight_in_its_own_type(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    assert 4 * whole(dissected).parameters == cost.flash_bytes(dissected.graph, shapes(dissected))
    gone = {"c1": 3}
    fewer = 3 * 27 + 3 + 3 * 4 + 5 * 3 * 9
    lost = cost.axes_gone(dissected.analysis.groups, gone)
    after = cost.shapes_after(dissected.analysis.ties.seen, lost)
    assert 4 * (whole(dissected).parameters - fewer) == cost.flash_bytes(dissected.graph, after)


def test_numbers_of_less_than_a_byte_are_packed() -> None:
    narrow = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4)
    assert (4, 7, 28) == (
        cost.packed_bytes(7, narrow),
        cost.packed_bytes(7, np.dtype(np.int8)),
        cost.packed_bytes(7, np.dtype(np.float32)),
    )
