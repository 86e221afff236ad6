"""Student and teacher are compared unit by unit, also where the student has fewer of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import ROW, Node, cnn, gemm, layer, mlp, model, save
from tests.engine.nets_layout import option_a
from worker.engine import surgery
from worker.engine.execute import Executor
from worker.engine.graph import Graph, freeze
from worker.engine.likeness import Likeness, Place, difference, read, targets
from worker.engine.load import load
from worker.engine.ties import Axis, Points


def pruned(whole: Dissected, gone: Mapping[str, tuple[int, ...]], folder: Path) -> Graph:
    folder.mkdir()
    return freeze(load(save(whole.cut(gone), folder), {}).model)


def likeness(whole: Dissected, student: Graph, gone: Mapping[Axis, Points]) -> Likeness:
    return Likeness(Executor(whole.graph), Executor(student), gone, whole.feeds)


def by_features(like: Likeness, whole: Dissected) -> float:
    sides = like.given(whole.feeds, like.features), like.taught(whole.feeds, like.features)
    return float(difference(like.features, *sides).detach())


@pytest.mark.parametrize("build", [mlp, cnn])
def test_units_that_stayed_are_compared_with_themselves(build: object, tmp_path: Path) -> None:
    """Units of the first layer went: what is left of it computes what it did."""
    whole = dissect(build(), tmp_path)  # type: ignore[operator]
    first = whole.names()[0]
    gone = {first: (0, 2)}
    student = pruned(whole, gone, tmp_path / "cut")
    like = likeness(whole, student, surgery.indices_gone(whole.analysis.groups, gone))
    place = next(one for one in like.features if one.kept)
    alone = likeness(whole, student, surgery.indices_gone(whole.analysis.groups, gone))
    alone.features = (place,)
    assert by_features(alone, whole) < 1e-10
    wrong = likeness(whole, student, surgery.indices_gone(whole.analysis.groups, {first: (0, 1)}))
    wrong.features = tuple(one for one in wrong.features if one.name == place.name)
    assert by_features(wrong, whole) > 1e-3
    assert {one.name for one in like.features} == set(read(whole.graph))


def test_what_the_two_do_not_have_alike_is_left_out(tmp_path: Path) -> None:
    whole = dissect(mlp(), tmp_path)
    student = pruned(whole, {whole.names()[0]: (0, 2)}, tmp_path / "cut")
    untold = likeness(whole, student, {})
    assert 1 == len(read(whole.graph)) - len(untold.features)
    assert ["y"] == [one.name for one in untold.outputs]


def test_features_of_a_damaged_student_differ(tmp_path: Path) -> None:
    whole = dissect(mlp(), tmp_path)
    same = likeness(whole, whole.graph, {})
    assert 0.0 == by_features(same, whole)
    worse = dissect(mlp("Sigmoid"), tmp_path).graph
    assert by_features(likeness(whole, worse, {}), whole) > 0.1


@pytest.mark.parametrize("last", ["Softmax", "ArgMax"])
def test_outputs_are_compared_before_a_choice_is_made(last: str, tmp_path: Path) -> None:
    nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "a"), gemm("fc2", "a", "l"), Node(last, ["l"], "y")]
    net: onnx.ModelProto = model(nodes, {**layer("fc1", 6, 12), **layer("fc2", 4, 6)}, ROW, {"y": ["N", 4]})
    if last == "ArgMax":
        net.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        net.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    graph = dissect(net, tmp_path).graph
    assert ("l",) == targets(graph)
    feeds = {"x": np.zeros((2, 12), np.float32)}
    assert ["l"] == [one.name for one in Likeness(Executor(graph), Executor(graph), {}, feeds).outputs]


@pytest.mark.parametrize(
    ("floats", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float64, 1e-6)]
)
def test_the_slope_of_a_difference_is_that_of_the_mean_square(floats: torch.dtype, tolerance: float) -> None:
    random = torch.Generator().manual_seed(0)
    ours, taught = (torch.randn(4, 6, 5, 5, generator=random) for _ in range(2))
    theirs = ours.clone().requires_grad_()
    ours = ours.to(floats).requires_grad_()
    found = difference((Place("x", {}, spread=2.5),), {"x": ours}, {"x": taught.to(floats)})
    wanted = F.mse_loss(theirs, taught) / 2.5
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=tolerance)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert float((ours.grad.float() - theirs.grad).norm() / theirs.grad.norm()) < tolerance


class _Orders(TorchDispatchMode):
    """Notes sums and differences of images that lie in different orders."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, what: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        images = [one for one in given if isinstance(one, torch.Tensor) and one.ndim == 4 and min(one.shape) > 1]
        sums = str(what).split(".")[1] in ("add", "add_", "sub", "mul")
        if sums and len({one.shape for one in images}) == 1 < len({one.stride() for one in images}):
            self.mixed.append(str(what))
        return what(*given, **(named or {}))


def test_slopes_lie_in_the_order_that_convolutions_compute_in(tmp_path: Path) -> None:
    """To add two orders up takes ten times as long: with them a ResNet-20's steps took a third longer."""
    whole = dissect(option_a(), tmp_path)
    gone = {whole.names()[0]: (1,)}
    student = pruned(whole, gone, tmp_path / "cut")
    like = likeness(whole, student, surgery.indices_gone(whole.analysis.groups, gone))
    assert any(one.kept for one in like.features)
    like.student.fixed |= {
        name: value.clone().requires_grad_()
        for name, value in like.student.fixed.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    with _Orders() as orders:
        sides = like.given(whole.feeds, like.features), like.taught(whole.feeds, like.features)
        difference(like.features, *sides).backward()  # type: ignore[no-untyped-call]
    assert [] == orders.mixed
