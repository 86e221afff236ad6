"""What an inspection says is what a pruning of the same model does; nothing is removed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.errors import EspalierError
from schemas.inspect_request import parse_inspection
from schemas.inspection import Inspection
from schemas.job import Progress
from tests.engine.nets import ZOO, Node, cnn, mlp, model, save
from tests.engine.test_run import HALF, as_input, data, job
from worker.engine.inspect import inspect
from worker.engine.render import render_inspection_html, render_inspection_markdown
from worker.engine.stages import Inputs, Limits


def look(
    folder: Path,
    proto: onnx.ModelProto,
    options: dict[str, object] | None = None,
    *,
    calibration: bool = False,
    progress: list[Progress] | None = None,
) -> Inspection:
    folder.mkdir(exist_ok=True)
    inputs = Inputs(
        as_input(save(proto, folder)),
        {},
        as_input(data(folder, proto, "calibration", 1, labels=False)) if calibration else None,
        None,
    )
    emit = progress.append if progress is not None else lambda _: None
    return inspect(parse_inspection(options or {}), inputs, folder, Limits(1, 1 << 30), emit)


def test_it_says_what_a_pruning_of_the_same_model_finds(tmp_path: Path) -> None:
    found = look(tmp_path, cnn())
    report = job(tmp_path / "job", HALF, cnn())
    assert {group.name: group.units_before for group in report.groups} == {one.name: one.units for one in found.groups}
    assert {group.name: group.consumers for group in report.groups} == {one.name: one.consumers for one in found.groups}
    assert report.refusals == found.pins
    assert report.coverage == found.coverage
    assert (report.before.parameters, report.before.macs) == (found.model.parameters, found.model.macs)
    assert {one.name for one in report.layers} == {one.name for one in found.layers}
    assert {"fc2"} == {one.name for one in found.layers if not one.prunable}
    left = {one.name for one in tmp_path.iterdir() if one.is_file()}
    assert {"report.json", "report.html", "report.md", "model.onnx"} == left
    assert found == Inspection.model_validate_json((tmp_path / "report.json").read_text())
    assert "noise" == found.shapes_from


@pytest.mark.parametrize("build", ZOO.values(), ids=ZOO)
def test_what_is_in_groups_and_what_is_not_is_everything(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    found = look(tmp_path, build(), calibration=True)
    rest = sum(one.parameters for one in found.untouched)
    assert found.coverage.parameters == found.coverage.prunable_parameters + rest
    assert "calibration" == found.shapes_from


def test_a_unit_saves_what_the_cost_of_the_cut_model_says(tmp_path: Path) -> None:
    found = look(tmp_path, mlp())
    by_name = {one.name: one for one in found.groups}
    weights = {one.name: tuple(one.dims) for one in mlp().graph.initializer}
    units, inputs = weights["fc1.weight"]
    following = weights["fc2.weight"][0]
    assert units == by_name["fc1"].units
    assert inputs + 1 + following == by_name["fc1"].parameters_per_unit
    assert inputs + following == by_name["fc1"].macs_per_unit


def test_the_scope_shows(tmp_path: Path) -> None:
    found = look(tmp_path, cnn(), {"scope": {"exclude": ["c1"]}})
    assert {"c1": False, "c2": True, "fc1": True} == {one.name: one.in_scope for one in found.groups}
    assert ("c1", "scope") in {(one.where, one.reason) for one in found.pins}
    nothing = look(tmp_path / "none", cnn(), {"scope": {"include": ["nowhere"]}})
    assert not any(one.in_scope for one in nothing.groups)


def test_a_model_in_which_nothing_can_go_is_no_failure(tmp_path: Path) -> None:
    nodes = [Node("MatMul", ["x", "w"], "y")]
    found = look(tmp_path, model(nodes, {"w": (4, 3)}, {"x": ["n", 4]}, ["y"]))
    assert () == found.groups
    assert ["graph_output"] == [one.reason for one in found.pins]
    assert [("graph_output", 12)] == [(one.reason, one.parameters) for one in found.untouched]


def over_steps(weights: tuple[int, ...]) -> onnx.ModelProto:
    """Positions added to what comes in; how many steps there are is open."""
    nodes = [
        Node("Add", ["x", "positions"], "p"),
        *(Node("MatMul", ["p", "w"], "h"), Node("Relu", ["h"], "a"), Node("MatMul", ["a", "v"], "y")),
    ]
    return model(nodes, {"w": (4, 6), "v": (6, 3), "positions": weights}, {"x": ["n", "steps", 4]}, ["y"])


def test_open_dimensions_are_taken_as_the_first_size_that_runs(tmp_path: Path) -> None:
    for steps, size in ((1, 64), (256, 256)):
        found = look(tmp_path / str(steps), over_steps((steps, 4)))
        assert (size, "noise") == (found.open_size, found.shapes_from)
        assert {6} == {group.units for group in found.groups}


def test_where_no_size_runs_data_are_needed_and_the_reason_is_said(tmp_path: Path) -> None:
    nodes = [Node("MatMul", ["mix", "x"], "h")]
    with pytest.raises(EspalierError) as caught:
        look(tmp_path, model(nodes, {"mix": (3, 17)}, {"x": ["n", "steps", 4]}, ["h"]))
    assert "calibration_required" == caught.value.code
    assert "dimensions of x are open" in caught.value.failure.detail
    assert "it read [3, 17] and [1, " in caught.value.failure.detail


def test_weights_inside_branches_are_counted_and_stay(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        weight = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), f"{name}.w")
        nodes = [
            onnx.helper.make_node("Constant", [], [f"{name}.w"], value=weight),
            onnx.helper.make_node("MatMul", ["x", f"{name}.w"], [name]),
        ]
        shape = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3])
        return onnx.helper.make_graph(nodes, name, [], [shape])

    attrs = {"then_branch": branch("one"), "else_branch": branch("other")}
    nodes = [
        Node("ReduceMax", ["x"], "m", {"keepdims": 0}),
        Node("Greater", ["m", "edge"], "c"),
        Node("If", ["c"], "y", attrs),
    ]
    proto = model(nodes, {"edge": np.array(0.5, np.float32)}, {"x": ["n", 4]}, {"y": ["n", 3]})
    found = look(tmp_path / "inspect", proto)
    assert ("inside_branches", 24, 2) == next(
        (one.reason, one.parameters, one.constants) for one in found.untouched if one.parameters > 1
    )
    assert found.coverage.parameters == sum(one.parameters for one in found.untouched)
    with pytest.raises(EspalierError) as caught:
        job(tmp_path / "prune", {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}, proto)
    assert "nothing_to_prune" == caught.value.code
    assert "24 weights inside its branches" in caught.value.failure.detail


def test_preprocess_decides_the_shapes(tmp_path: Path) -> None:
    """The model takes NCHW; what is sent is NHWC, and fits only once it is said."""
    proto = cnn()
    shape = [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    np.savez(tmp_path / "nhwc.npz", x=np.zeros((8, shape[1], shape[2], shape[0]), np.float32))
    inputs = Inputs(as_input(save(proto, tmp_path)), {}, as_input(tmp_path / "nhwc.npz"), None)
    found = inspect(
        parse_inspection({"preprocess": {"layout": "NHWC"}}), inputs, tmp_path, Limits(1, 1 << 30), lambda _: None
    )
    assert 3 == len(found.groups)
    with pytest.raises(EspalierError) as caught:
        inspect(parse_inspection({}), inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    assert "data_shape_mismatch" == caught.value.code


def test_what_onnxruntime_computes_is_named(tmp_path: Path) -> None:
    """An operator of a domain of its own, which onnxruntime brings."""
    nodes = [
        Node("MatMul", ["x", "w"], "h"),
        Node("QuickGelu", ["h"], "a", domain="com.microsoft"),
        Node("MatMul", ["a", "v"], "y"),
    ]
    proto = model(nodes[:1], {"w": (4, 6)}, {"x": ["n", 4]}, ["h"])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.node.extend(node.proto() for node in nodes[1:])
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((6, 3), np.float32), "v"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]))
    found = look(tmp_path, proto)
    assert [("com.microsoft::QuickGelu", 1)] == [(one.operator, one.nodes) for one in found.fallback]
    assert "operator_unknown" in {one.reason for one in found.pins}


def test_progress_ends_at_one(tmp_path: Path) -> None:
    progress: list[Progress] = []
    look(tmp_path, cnn(), progress=progress)
    assert ["load", "data", "analyse", "report"] == list(dict.fromkeys(one.stage for one in progress))
    assert 1.0 == progress[-1].fraction


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(EspalierError) as caught:
        parse_inspection({"scop": {}})
    assert "did you mean 'scope'" in caught.value.failure.detail
    with pytest.raises(EspalierError) as caught:
        parse_inspection({"criterion": {"name": "magnitude"}})
    assert "options_invalid" == caught.value.code


def test_names_from_the_model_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|`@all"
    nodes = [
        Node("Gemm", ["x", evil, "b"], "h", {"transB": 1}),
        Node("Relu", ["h"], "a"),
        Node("MatMul", ["a", "v"], "y"),
    ]
    weights = {evil: (6, 4), "b": (6,), "v": (6, 3)}
    found = look(tmp_path, model(nodes, weights, {"x": ["n", 4]}, ["y"]))
    assert "<script>" not in render_inspection_html(found)
    assert "<script>" not in render_inspection_markdown(found)
