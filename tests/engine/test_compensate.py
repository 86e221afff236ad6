"""What a removed unit hands on. Where units are exact copies the model must not change at all."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from schemas.request import parse_options
from tests.engine.dissect import Dissected, dissect, run
from tests.engine.nets import IMAGE, Node, conv, gemm, layer, matmul_mlp, mlp, model
from tests.engine.nets_recurrent import lstm
from worker.engine.compensate import compensate
from worker.engine.criteria import ranking
from worker.engine.criteria.evidence import Step
from worker.engine.incoming import take_in


def set_weight(proto: onnx.ModelProto, name: str, change: "dict[tuple[int, ...] | int, np.ndarray | float]") -> None:
    for one in proto.graph.initializer:
        if one.name == name:
            array = numpy_helper.to_array(one).copy()
            for index, value in change.items():
                array[index] = value
            one.CopyFrom(numpy_helper.from_array(array, name))


def weight(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(one) for one in proto.graph.initializer if one.name == name)


def after(
    dissected: Dissected, method: str, steps: Mapping[str, tuple[Step, ...]], centre: str = "auto"
) -> list[np.ndarray]:
    groups = dissected.analysis.groups
    taken = {group.name: steps.get(group.name, ()) for group in groups}
    changed, _ = compensate(method, centre, dissected.graph, groups, taken, dissected.evidence)  # type: ignore[arg-type]
    gone = {name: tuple(sorted(step.unit for step in some)) for name, some in taken.items()}
    assert dissected.proof(gone, changed).passed
    return run(dissected.cut(gone, changed), dissected.feeds)


def with_copies(factor: float, activation: str = "Relu") -> onnx.ModelProto:
    """Units 2 and 7 of fc1 are unit 0 times a factor."""
    proto = mlp(activation)
    for unit in (2, 7):
        set_weight(proto, "fc1.weight", {unit: factor * weight(proto, "fc1.weight")[0]})
        set_weight(proto, "fc1.bias", {unit: factor * weight(proto, "fc1.bias")[0]})
    return proto


COPIES = {"fc1": (Step(2, "similar", 0, 0.0), Step(7, "similar", 0, 0.0))}


@pytest.mark.parametrize(("method", "factor", "same"), [
    ("merge", 1.0, True), ("project", 1.0, True), ("none", 1.0, False),
    ("merge", 2.5, False), ("project", 2.5, True), ("none", 2.5, False),
])  # fmt: skip
def test_copies_and_scaled_copies(method: str, factor: float, same: bool, tmp_path: Path) -> None:
    dissected = dissect(with_copies(factor), tmp_path)
    dense = run(dissected.loaded.proto, dissected.feeds)[0]
    difference = np.abs(after(dissected, method, COPIES)[0] - dense).max()
    assert same == bool(difference < 1e-5)


@pytest.mark.parametrize(("method", "same"), [("merge_incoming", True), ("merge", False), ("none", False)])
def test_incoming_weights_of_relu_units_that_are_read_alike_do_the_work_of_both(
    method: str, same: bool, tmp_path: Path
) -> None:
    """relu(a z) + relu(b z) = relu((a + b) z) for positive a and b; the outgoing weights must be the same."""
    proto = with_copies(2.5)
    read = weight(proto, "fc2.weight")[:, 0]
    set_weight(proto, "fc2.weight", {(row, unit): value for row, value in enumerate(read) for unit in (2, 7)})
    dissected = dissect(proto, tmp_path)
    dense = run(dissected.loaded.proto, dissected.feeds)[0]
    chain = {"fc1": (Step(7, "similar", 2, 0.0), Step(2, "similar", 0, 0.0))}
    for steps in (COPIES, chain):
        assert same == bool(np.abs(after(dissected, method, steps)[0] - dense).max() < 1e-5)


def test_incoming_biases_behind_a_product_and_in_gates_are_taken_in(tmp_path: Path) -> None:
    for name, proto in (("product", matmul_mlp()), ("gates", lstm())):
        (tmp_path / name).mkdir()
        dissected = dissect(proto, tmp_path / name)
        group = dissected.analysis.groups[0]
        changed = take_in(dissected.graph, group, [(3, 1)], {})
        biases = {"product": "b1", "gates": "r1.b"}
        assert {"product": {"w1", "b1"}, "gates": {"r1.w", "r1.r", "r1.b"}}[name] == set(changed)
        old = dissected.graph.constants[biases[name]]
        index = group.sites[biases[name], old.ndim - 1]
        want = old.copy()
        want[..., index[1]] += old[..., index[3]]
        np.testing.assert_allclose(changed[biases[name]], want, rtol=1e-6)


def test_a_chain_hands_on_what_it_received(tmp_path: Path) -> None:
    """7 goes into 2, then 2 goes into 0: nothing is lost."""
    dissected = dissect(with_copies(1.0), tmp_path)
    dense = run(dissected.loaded.proto, dissected.feeds)[0]
    steps = {"fc1": (Step(7, "similar", 2, 0.0), Step(2, "similar", 0, 0.0))}
    np.testing.assert_allclose(after(dissected, "merge", steps)[0], dense, atol=1e-5)


def test_projection_with_a_centre_corrects_the_bias(tmp_path: Path) -> None:
    """sigmoid(-z) = 1 - sigmoid(z): opposite around the middle, so only the corrected bias makes it exact."""
    proto = mlp("Sigmoid")
    set_weight(proto, "fc1.weight", {3: -weight(proto, "fc1.weight")[0]})
    set_weight(proto, "fc1.bias", {3: -weight(proto, "fc1.bias")[0]})
    dissected = dissect(proto, tmp_path)
    dense = run(proto, dissected.feeds)[0]
    steps = {"fc1": (Step(3, "similar", 0, 180.0),)}
    np.testing.assert_allclose(after(dissected, "project", steps)[0], dense, atol=1e-5)
    raw = after(dissected, "project", steps, centre="none")[0]
    assert np.abs(raw - dense).max() > 1e-3


def test_behind_a_flatten_each_position_goes_to_the_same_position(tmp_path: Path) -> None:
    nodes = [conv("c1", "x", "c"), Node("Relu", ["c"], "r"), Node("Flatten", ["r"], "f"), gemm("fc", "f", "y")]
    proto = model(nodes, {**layer("c1", 5, 3, 3, 3), **layer("fc", 4, 320)}, IMAGE, ["y"])
    set_weight(proto, "c1.weight", {4: weight(proto, "c1.weight")[1]})
    set_weight(proto, "c1.bias", {4: weight(proto, "c1.bias")[1]})
    dissected = dissect(proto, tmp_path)
    dense = run(proto, dissected.feeds)[0]
    np.testing.assert_allclose(after(dissected, "merge", {"c1": (Step(4, "similar", 1, 0.0),)})[0], dense, atol=1e-5)


def test_grouped_convolutions_merge_within_each_group(tmp_path: Path) -> None:
    from tests.engine.nets import grouped

    proto = grouped()
    for offset in (0, 4):  # unit 2 of each group of four becomes unit 1
        set_weight(proto, "c1.weight", {2 + offset: weight(proto, "c1.weight")[1 + offset]})
        set_weight(proto, "c1.bias", {2 + offset: weight(proto, "c1.bias")[1 + offset]})
    dissected = dissect(proto, tmp_path)
    dense = run(proto, dissected.feeds)[0]
    np.testing.assert_allclose(after(dissected, "merge", {"c1": (Step(2, "similar", 1, 0.0),)})[0], dense, atol=1e-5)


def test_a_step_without_a_partner_goes_to_the_closest_unit_that_stays(tmp_path: Path) -> None:
    dissected = dissect(with_copies(1.0), tmp_path)
    dense = run(dissected.loaded.proto, dissected.feeds)[0]
    steps = {"fc1": (Step(2, "small"), Step(0, "small"))}  # both are closest to 7, the copy that stays
    np.testing.assert_allclose(after(dissected, "merge", steps)[0], dense, atol=1e-5)


def test_dead_units_and_opposite_pairs_hand_nothing_on(tmp_path: Path) -> None:
    dissected = dissect(mlp(), tmp_path)
    steps = {"fc1": (Step(1, "dead"), Step(4, "opposite", 3, 170.0), Step(3, "opposite", 4, 170.0))}
    merged = after(dissected, "merge", steps)[0]
    np.testing.assert_array_equal(after(dissected, "none", steps)[0], merged)


def test_a_request_for_distinctiveness_runs_through(tmp_path: Path) -> None:
    request = parse_options({"criterion": {"name": "distinctiveness", "angle_deg": 1}})
    dissected = dissect(with_copies(1.0), tmp_path)
    dense = run(dissected.loaded.proto, dissected.feeds)[0]
    steps = ranking(request.criterion).by_threshold(dissected.evidence["fc1"])
    similar = {"fc1": tuple(step for step in steps if step.why == "similar")}
    assert [2, 7] == [step.unit for step in similar["fc1"]]
    np.testing.assert_allclose(after(dissected, "merge", similar)[0], dense, atol=1e-5)
