"""What the loss does when a gate closes: exact changes against whole masked models in onnxruntime, derivatives against
finite differences, losses against their formulas, and the orders that criteria make of them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from schemas.criteria import BruteForce, Taylor1, Taylor2
from schemas.errors import EspalierError
from tests.engine.nets import IMAGE, ROW, Node, cnn, conv, feeds_for, gemm, layer, mlp, model, residual, save
from tests.engine.nets_recurrent import lstm
from worker.engine import evaluate, gates, surgery, trials
from worker.engine.axes import Analysis, Group, analyse
from worker.engine.criteria import ranking
from worker.engine.criteria.evidence import Evidence
from worker.engine.data import Samples
from worker.engine.derivatives import slopes
from worker.engine.evaluate import Task
from worker.engine.execute import Executor
from worker.engine.gates import Look
from worker.engine.graph import freeze
from worker.engine.load import Loaded, load
from worker.engine.losses import Loss, resolve_loss
from worker.engine.observe import see
from worker.engine.straight import straight

SAMPLES = 24
CLASSES = Task("classification", "y", 1)
NUMBERS = Task("fidelity", "y")


class Subject:
    """A network, its samples, and what opens its gates."""

    def __init__(
        self, path: Path, samples: Samples, task: Task, wish: str = "auto", double: bool = False, device: str = "cpu"
    ) -> None:
        self.loaded: Loaded = load(path, {})
        graph = freeze(self.loaded.model)
        constants = {
            name: array.astype(np.float64) if double and array.dtype == np.float32 else array
            for name, array in graph.constants.items()
        }
        self.executor, self.samples, self.task = Executor(graph, device, constants), samples, task
        seen = see(self.executor, samples.rows(0, graph.fixed_batch() or 1).inputs)
        self.analysis: Analysis = analyse(graph, seen)
        self.loss = resolve_loss(wish, task, graph, seen)  # type: ignore[arg-type]
        self.looked: list[str] = []
        self.look = Look(self.executor, seen, self.analysis.groups, self.loss, samples, self.looked.append)

    def evidence(self, group: Group) -> Evidence:
        return Evidence(group.units, lambda: np.zeros((group.units, 1)), (), open_gates=lambda: self.look.open(group))

    def naive(self, group: Group, gone: Sequence[int]) -> float:
        """The mean loss of the whole model in onnxruntime, with those units masked."""
        proto = surgery.to_proto(self.loaded.model)
        if gone:
            masked = surgery.masked(self.loaded.model, self.analysis.ties, {}, [group], {group.name: tuple(gone)})
            proto = surgery.to_proto(masked)
        batch = self.executor.graph.fixed_batch()
        runs = evaluate.session(proto.SerializeToString()), evaluate.session(self.loaded.proto.SerializeToString())
        said, dense = (evaluate.outputs(run, self.samples, batch, [self.loss.tensor])[self.loss.tensor] for run in runs)
        if self.samples.labels is None or not self.loss.labelled:
            return float(np.square(said.astype(np.float64) - dense).reshape(len(said), -1).mean())
        chances = np.exp(said.astype(np.float64) - said.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        return float(-np.log(chances[np.arange(len(said)), self.samples.labels]).mean())


def subject(
    folder: Path,
    proto: onnx.ModelProto,
    task: Task = CLASSES,
    *,
    double: bool = False,
    labels: bool = True,
    **more: str,
) -> Subject:
    """Labels are drawn, so that the loss has slopes."""
    feeds = feeds_for(proto, SAMPLES)
    if double:
        feeds = {name: array.astype(np.float64) for name, array in feeds.items()}
    drawn = np.random.default_rng(3).integers(0, 3, SAMPLES) if labels else None
    return Subject(save(proto, folder), Samples(feeds, drawn), task, double=double, **more)


def steps(criterion: BruteForce | Taylor1 | Taylor2, one: Subject, group: Group) -> list[tuple[int, float | None]]:
    return [(step.unit, step.score) for step in ranking(criterion).in_order(one.evidence(group))]


NETS: dict[str, tuple[Callable[[], onnx.ModelProto], Task, dict[str, str]]] = {
    "dense": (mlp, CLASSES, {"fc1": "RankOne", "fc2": "LastLayer"}),
    "convolutional": (cnn, CLASSES, {"c1": "Masked", "c2": "RankOne", "fc1": "LastLayer"}),
    "residual": (residual, CLASSES, {"stem": "Masked", "a1": "Masked"}),
    "recurrent": (lstm, NUMBERS, {"h1": "Masked", "h2": "Masked"}),
}


@pytest.mark.parametrize("name", NETS)
def test_exact_changes_are_those_of_whole_masked_models(name: str, tmp_path: Path) -> None:
    net, task, forms = NETS[name]
    one = subject(tmp_path, net(), task, labels=task.kind != "fidelity")
    assert forms == {group.name: type(one.look.open(group).trials).__name__ for group in one.analysis.groups}
    for group in one.analysis.groups:
        opened = one.look.open(group)
        units = np.arange(group.units)
        want = [one.naive(group, [unit]) - one.naive(group, []) for unit in units]
        assert np.abs(want).max() > 1e-5
        np.testing.assert_allclose(opened.changes(units), want, atol=1e-6)
        for gone in (1, 3):  # the last layer drops what is closed
            opened.close(gone)
        left = np.setdiff1d(units, [1, 3])
        want = [one.naive(group, [1, 3, unit]) - one.naive(group, [1, 3]) for unit in left]
        np.testing.assert_allclose(opened.changes(left), want, atol=1e-6)


@pytest.mark.parametrize(("size", "form"), [(6.0, "LastLayer"), (40.0, "RankOne")])
def test_a_removal_that_turns_sure_answers_round_is_exact_too(size: float, form: str, tmp_path: Path) -> None:
    proto = mlp()
    for one in proto.graph.initializer:
        if one.name == "fc3.weight":
            one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one) * np.float32(size), one.name))
    one = subject(tmp_path, proto)
    group = one.analysis.groups[-1]
    opened = one.look.open(group)
    assert form == type(opened.trials).__name__
    want = np.array([one.naive(group, [unit]) - one.naive(group, []) for unit in range(group.units)])
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(opened.changes(np.arange(group.units)), want, atol=1e-6, rtol=1e-6)


def test_logarithms_are_taken_of_as_many_at_once_as_are_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(tmp_path, mlp())
    group = one.analysis.groups[-1]
    units = np.arange(group.units)
    found = one.look.open(group)
    assert isinstance(found.trials, trials.LastLayer)
    moved = torch.full((3, 48), 1e-6)
    found.trials.steepest = 14.0  # exp(14) is more than 1e6: four at once, not eight
    np.testing.assert_allclose(found.trials._logs(moved.clone()).numpy(), 48 * np.log(1e-6), rtol=1e-6)
    monkeypatch.setattr(trials, "STEEPEST", 1e3)
    assert np.isneginf(found.trials._logs(moved).numpy()).all()
    assert np.isfinite(one.look.open(group).changes(units)).all()


def test_a_change_at_another_unit_is_noticed(tmp_path: Path) -> None:
    one = subject(tmp_path, mlp())
    group = one.analysis.groups[0]
    found = one.look.open(group).changes(np.array([2]))
    assert abs(found[0] - (one.naive(group, [4]) - one.naive(group, []))) > 1e-4


def at_gates(one: Subject, group: Group, gate: np.ndarray) -> float:
    """The mean loss with gates half open."""
    opened = one.look.open(group)
    total = sum(
        float(opened.reach.lost(one.loss, batch, {group.name: torch.from_numpy(gate)}).sum())
        for batch in opened.batches
    )
    return total / one.samples.count


SMOOTH = {"dense": lambda: mlp("Tanh"), "recurrent": lstm}


@pytest.mark.parametrize(("net", "task"), [("dense", CLASSES), ("recurrent", NUMBERS)])
def test_slopes_and_curvatures_are_finite_differences(net: str, task: Task, tmp_path: Path) -> None:
    one = subject(tmp_path, SMOOTH[net](), task, double=True, labels=task.kind != "fidelity")
    for group in one.analysis.groups:
        opened = one.look.open(group)
        opened.close(1)
        slope, curve = opened.slopes(), opened.curvatures("exact")
        for unit in (0, 4):
            gate, step = np.ones(group.units), 1e-4
            gate[1] = 0
            low, middle, high = (at_gates(one, group, gate + (np.arange(group.units) == unit) * h)
                                 for h in (-step, 0.0, step))  # fmt: skip
            assert pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-9) == slope[unit]
            assert pytest.approx((high - 2 * middle + low) / step**2, rel=1e-4, abs=1e-7) == curve[unit]
            assert abs(curve[unit]) > 1e-6


def test_gauss_newton_is_exact_where_nothing_is_left_over_and_never_negative(tmp_path: Path) -> None:
    alone = subject(tmp_path, mlp("Tanh"), NUMBERS, double=True, labels=False)
    group = alone.analysis.groups[0]
    opened = alone.look.open(group)
    np.testing.assert_allclose(opened.curvatures("gauss_newton"), opened.curvatures("exact"), rtol=1e-9)
    labelled = subject(tmp_path, mlp("Tanh"), double=True)
    opened = labelled.look.open(labelled.analysis.groups[0])
    assert (opened.curvatures("gauss_newton") >= 0).all()
    assert np.abs(opened.curvatures("gauss_newton") - opened.curvatures("exact")).max() > 1e-3


@pytest.mark.parametrize("closed", [(), (1,)])
def test_gauss_newton_by_outputs_is_that_by_units(
    closed: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(tmp_path, cnn(), double=True)
    found = []
    for outputs in (one.look.outputs, 0):
        monkeypatch.setitem(one.look.__dict__, "outputs", outputs)
        rows = []
        for group in one.analysis.groups:
            opened = one.look.open(group)
            for unit in closed:
                opened.close(unit)
            rows.append(opened.curvatures("gauss_newton"))
        found.append(np.concatenate(rows))
    assert "first_outer" in one.look.__dict__ or closed
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8, atol=1e-12)
    assert np.abs(found[0]).max() > 1e-3


def rectified() -> onnx.ModelProto:
    proto = cnn()
    for node in proto.graph.node:
        node.op_type = "Relu" if node.op_type == "Sigmoid" else node.op_type
    return proto


@pytest.mark.parametrize("net", [mlp, rectified, residual])
def test_where_all_is_straight_but_kinks_the_exact_curvature_is_that_by_outputs(
    net: Callable[[], onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(tmp_path, net(), double=True)
    for group in one.analysis.groups:
        opened = one.look.open(group)
        opened.close(1)
        assert straight(opened.reach) == (group.name != "stem")  # the stream's gates stand behind each other
        quick = opened.curvatures("exact")
        with monkeypatch.context() as patch:
            patch.setattr(gates, "straight", lambda _: False)
            np.testing.assert_allclose(quick, opened.curvatures("exact"), rtol=1e-8, atol=1e-12)
        with monkeypatch.context() as patch:
            patch.setattr(gates, "TRACED", 1)
            alone = one.look.open(group)  # sample by sample
            alone.close(1)
            np.testing.assert_allclose(quick, alone.curvatures("exact"), rtol=1e-8, atol=1e-12)
            assert [1] == list({batch.count for batch in alone.pieces})
        assert one.samples.count == next(iter(opened.pieces)).count


def test_what_bends_is_not_straight(tmp_path: Path) -> None:
    def bent(*between: Node) -> bool:
        front = [gemm("fc0", "x", "h"), Node("Relu", ["h"], "r"), gemm("fc1", "r", "a")]
        weights = {**layer("fc0", 5, 12), **layer("fc1", 6, 5), **layer("fc2", 3, 6), "c": (6,)}
        proto = model([*front, *between, gemm("fc2", "b", "y")], weights, ROW, ["y"])
        one = subject(tmp_path, proto)
        return not straight(one.look.open(one.analysis.groups[0]).reach)

    assert [False, True, False, True, True] == [
        bent(Node("LeakyRelu", ["a"], "b")),
        bent(Node("Softplus", ["a"], "b")),
        bent(Node("Mul", ["a", "c"], "b")),
        bent(Node("Mul", ["a", "a"], "b")),
        bent(Node("Div", ["c", "a"], "b")),
    ]


def test_gates_of_all_groups_have_the_slopes_of_each_alone(tmp_path: Path) -> None:
    one = subject(tmp_path, residual())
    for group in one.analysis.groups:
        opened = one.look.open(group)
        alone = slopes(one.loss, opened.reach, {group.name: torch.ones(group.units)}, opened.batches)
        np.testing.assert_allclose(opened.slopes(), alone[group.name], atol=1e-7)
        assert np.abs(alone[group.name]).max() > 1e-5


@pytest.mark.parametrize("net", [mlp, cnn, lstm])
def test_small_batches_and_readings_that_are_not_kept_change_nothing(
    net: Callable[[], onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(tmp_path, net(), NUMBERS, labels=False)
    group = one.analysis.groups[-1]
    units = np.arange(group.units)
    opened = one.look.open(group)
    whole = opened.changes(units), opened.curvatures("exact")
    monkeypatch.setattr(gates, "KEPT_BYTES", 0)
    monkeypatch.setattr(gates, "TRACED", 1)
    monkeypatch.setattr(trials, "CHUNK", 1)
    opened = one.look.open(group)
    assert not isinstance(opened.batches, list)
    np.testing.assert_allclose(opened.changes(units), whole[0], atol=1e-7)
    np.testing.assert_allclose(opened.curvatures("exact"), whole[1], rtol=1e-4, atol=1e-7)


def test_operators_that_no_batch_of_masks_can_pass_are_tried_one_by_one(tmp_path: Path) -> None:
    nodes = [conv("c1", "x", "a"), Node("GlobalLpPool", ["a"], "p"), Node("Flatten", ["p"], "f"), gemm("fc", "f", "h"),
             Node("Relu", ["h"], "r"), gemm("out", "r", "y")]  # fmt: skip
    weights = {**layer("c1", 4, 3, 3, 3), **layer("fc", 5, 4), **layer("out", 3, 5)}
    front = [conv("c0", "x", "z"), *nodes]
    front[1] = conv("c1", "z", "a")
    proto = model(front, {**weights, **layer("c0", 6, 3, 3, 3), **layer("c1", 4, 6, 3, 3)}, IMAGE, ["y"])
    one = subject(tmp_path, proto)
    group = next(group for group in one.analysis.groups if group.name == "c0")
    want = [one.naive(group, [unit]) - one.naive(group, []) for unit in range(group.units)]
    np.testing.assert_allclose(one.look.open(group).changes(np.arange(group.units)), want, atol=1e-6)
    for criterion in (Taylor1(), Taylor2(), Taylor2(hessian="gauss_newton")):
        with pytest.raises(EspalierError) as caught:
            steps(criterion, one, group)
        assert "gradient_unavailable" == caught.value.code
        assert "GlobalLpPool" in caught.value.failure.detail


def test_no_slope_is_taken_through_rounding(tmp_path: Path) -> None:
    nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "a"), gemm("fc2", "a", "b"), Node("Round", ["b"], "c"),
             gemm("fc3", "c", "y")]  # fmt: skip
    proto = model(nodes, {**layer("fc1", 10, 12), **layer("fc2", 8, 10), **layer("fc3", 4, 8)}, ROW, ["y"])
    one = subject(tmp_path, proto)
    group = one.analysis.groups[0]
    assert np.abs(one.look.open(group).changes(np.arange(group.units))).max() > 0
    with pytest.raises(EspalierError) as caught:
        steps(Taylor1(), one, group)
    assert "gradient_unavailable" == caught.value.code
    assert "Round" in caught.value.failure.detail


def test_one_ranking_goes_by_the_untouched_model_and_reranking_by_what_is_left(tmp_path: Path) -> None:
    one = subject(tmp_path, mlp("Tanh"))
    group = next(group for group in one.analysis.groups if group.name == "fc2")
    base = one.naive(group, [])
    alone = [one.naive(group, [unit]) - base for unit in range(group.units)]
    assert np.argsort(alone).tolist()[:-1] == [unit for unit, _ in steps(BruteForce(), one, group)]
    gone: list[int] = []
    for unit, score in steps(BruteForce(order="rerank"), one, group):
        here = one.naive(group, gone)
        tried = {left: one.naive(group, [*gone, left]) - here for left in range(group.units) if left not in gone}
        assert min(tried, key=lambda left: tried[left]) == unit
        assert pytest.approx(tried[unit], abs=1e-6) == score
        gone.append(unit)
    assert group.units - 1 == len(gone)
    assert np.argsort(alone).tolist()[:-1] != gone


@pytest.mark.parametrize("order", ["one_ranking", "rerank"])
def test_the_threshold_is_on_the_change_of_the_loss(order: str, tmp_path: Path) -> None:
    one = subject(tmp_path, cnn())
    group = one.analysis.groups[-1]
    every = steps(BruteForce(order=order), one, group)  # type: ignore[arg-type]
    limit = every[2][1]
    assert limit is not None
    found = ranking(BruteForce(order=order, threshold=limit)).by_threshold(one.evidence(group))  # type: ignore[arg-type]
    assert all(step.score is not None and step.score < limit for step in found)
    assert [unit for unit, _ in every[:2]] == [step.unit for step in found]


def test_signs_count_unless_they_are_dropped(tmp_path: Path) -> None:
    one = subject(tmp_path, mlp())
    group = one.analysis.groups[0]
    scores = [score for _, score in steps(Taylor1(), one, group)]
    assert scores == sorted(scores, key=lambda score: score or 0.0)
    assert (scores[0] or 0.0) < 0
    assert all((score or 0.0) >= 0 for _, score in steps(Taylor1(signed=False), one, group))


def test_a_cascade_tries_what_taylor_puts_first(tmp_path: Path) -> None:
    one = subject(tmp_path, mlp())
    group = one.analysis.groups[0]
    guessed, exact = dict(steps(Taylor1(), one, group)), dict(steps(BruteForce(), one, group))
    found = steps(BruteForce(cascade=0.4), one, group)
    first = sorted(guessed, key=lambda unit: guessed[unit] or 0.0)[:4]
    assert set(first) == {unit for unit, _ in found[:4]}
    assert [exact[unit] for unit, _ in found[:4]] == [score for _, score in found[:4]]
    assert [guessed[unit] for unit, _ in found[4:]] == [score for _, score in found[4:]]


def test_without_labels_the_first_order_is_refused_and_the_others_measure_the_distance(tmp_path: Path) -> None:
    one = subject(tmp_path, mlp(), NUMBERS, labels=False)
    group = one.analysis.groups[0]
    for criterion in (Taylor1(), BruteForce(cascade=0.5)):
        with pytest.raises(EspalierError) as caught:
            steps(criterion, one, group)
        assert "labels_required" == caught.value.code
    for other in (Taylor2(), BruteForce()):
        scores = [score or 0.0 for _, score in steps(other, one, group)]
        assert min(scores) > -1e-7
        assert max(scores) > 1e-3


def test_of_a_fixed_batch_a_padded_row_does_not_count(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    feeds = feeds_for(mlp(), 5)
    one = Subject(save(proto, tmp_path), Samples(feeds, np.arange(5) % 3), CLASSES)
    free = Subject(save(mlp(), tmp_path, "free.onnx"), Samples(feeds, np.arange(5) % 3), CLASSES)
    for group, other in zip(one.analysis.groups, free.analysis.groups, strict=True):
        want = free.look.open(other).changes(np.arange(group.units))
        np.testing.assert_allclose(one.look.open(group).changes(np.arange(group.units)), want, atol=1e-7)


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((5, 3, 4))
    labels = rng.integers(0, 3, (5, 4))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    hot = np.moveaxis(np.eye(3)[labels], -1, 1)
    chance = 1 / (1 + np.exp(-z))
    yes = (rng.uniform(size=z.shape) < 0.5).astype(np.float64)
    surprise = -(yes * np.log(chance) + (1 - yes) * np.log(1 - chance))
    cases: list[tuple[Loss, np.ndarray, np.ndarray, np.ndarray]] = [
        (Loss("y", "cross_entropy", "logits", 1, True), z, labels, -(hot * np.log(p)).sum((1, 2)) / 4),
        (Loss("y", "cross_entropy", "classes", 1, True), p, labels, -(hot * np.log(p)).sum((1, 2)) / 4),
        (Loss("y", "squared_error", "logits", 1, True), z, labels, ((p - hot) ** 2).sum((1, 2)) / 4),
        (Loss("y", "squared_error", "classes", 1, True), p, labels, ((p - hot) ** 2).sum((1, 2)) / 4),
        (Loss("y", "cross_entropy", "log_odds", None, True), z, yes, surprise.mean((1, 2))),
        (Loss("y", "cross_entropy", "chances", None, True), chance, yes, surprise.mean((1, 2))),
        (Loss("y", "squared_error", "log_odds", None, True), z, yes, ((chance - yes) ** 2).mean((1, 2))),
        (Loss("y", "squared_error", "numbers", None, True), z, yes, ((z - yes) ** 2).mean((1, 2))),
    ]
    for loss, said, truth, want in cases:
        values = torch.from_numpy(said)
        np.testing.assert_allclose(loss.each(values, loss.target(values, truth)).numpy(), want, rtol=1e-9)
    own = Loss("y", "cross_entropy", "logits", 1, False)
    values = torch.from_numpy(z)
    np.testing.assert_allclose(own.target(values, None).numpy(), p, rtol=1e-9)


def test_the_loss_follows_the_task_and_the_last_operator(tmp_path: Path) -> None:
    def form(key: str | None, task: Task, wish: str = "auto", **attrs: int) -> tuple[str, str, str]:
        nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "a"), gemm("fc2", "a", "z" if key else "y")]
        nodes += [Node(key, ["z"], "y", attrs)] if key else []
        proto = model(nodes, {**layer("fc1", 6, 12), **layer("fc2", 3, 6)}, ROW, ["y"])
        loss = subject(tmp_path, proto, task, labels=False, wish=wish).loss
        return loss.tensor, loss.kind, loss.form

    assert ("y", "cross_entropy", "logits") == form(None, CLASSES)
    assert ("y", "cross_entropy", "classes") == form("Softmax", CLASSES)
    assert ("y", "cross_entropy", "logits") == form("LogSoftmax", CLASSES)
    assert ("y", "squared_error", "logits") == form(None, CLASSES, "squared_error")
    assert ("y", "cross_entropy", "chances") == form("Sigmoid", CLASSES)
    assert ("y", "cross_entropy", "log_odds") == form(None, Task("binary", "y"))
    assert ("y", "cross_entropy", "chances") == form("Sigmoid", Task("binary", "y", link="probabilities"))
    assert ("y", "squared_error", "numbers") == form(None, Task("regression", "y"))
    for wish, task in (("cross_entropy", Task("regression", "y")), ("auto", CLASSES)):
        nodes = (
            [gemm("fc", "x", "y")] if wish != "auto" else [gemm("fc", "x", "z"), Node("TopK", ["z", "k"], ["v", "y"])]
        )
        weights = {**layer("fc", 3, 12), **({"k": np.array([1])} if wish == "auto" else {})}
        with pytest.raises(EspalierError) as caught:
            subject(tmp_path, model(nodes, weights, ROW, {"y": ["N", "k"]}), task, labels=False, wish=wish)
        assert "evaluation_invalid" == caught.value.code


def test_before_an_argmax_the_loss_is_of_what_it_reads(tmp_path: Path) -> None:
    nodes = [
        gemm("fc1", "x", "h"),
        Node("Relu", ["h"], "a"),
        gemm("fc2", "a", "z"),
        Node("ArgMax", ["z"], "y", {"axis": -1}),
    ]
    proto = model(nodes, {**layer("fc1", 6, 12), **layer("fc2", 3, 6)}, ROW, {"y": ["N", 1]})
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    one = subject(tmp_path, proto, Task("classification", "y"))
    assert Loss("z", "cross_entropy", "logits", 1, True) == one.loss
    group = one.analysis.groups[0]
    assert (np.abs(one.look.open(group).slopes()) > 0).any()


DATA = Path(os.environ.get("ESPALIER_DATA") or Path(__file__).parents[3] / "shared/data")
SEEDS = {"mlp100_mnist": (-1,), "mlp50x50_mnist": (-1,), "cnn_mnist": (1, 28, 28)}


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "seeds/mlp100_mnist.onnx").is_file(), reason=f"no models and data in {DATA}")
@pytest.mark.parametrize("name", SEEDS)
def test_exact_changes_of_the_papers_networks(name: str) -> None:
    with np.load(DATA / "mnist.npz") as mnist:
        x = mnist["x_test"][:300].reshape(300, *SEEDS[name]).astype(np.float32) / np.float32(255)
        samples = Samples({"input": x}, mnist["y_test"][:300].astype(np.int64))
    one = Subject(DATA / f"seeds/{name}.onnx", samples, Task("classification", "logits", 1))
    for group in one.analysis.groups:
        units = np.arange(group.units)
        want = [one.naive(group, [unit]) - one.naive(group, []) for unit in units]
        np.testing.assert_allclose(one.look.open(group).changes(units), want, atol=1e-6)


def relaid(proto: onnx.ModelProto, order: np.ndarray, scale: np.ndarray) -> onnx.ModelProto:
    """The same function: the units of fc1 in another order, each scaled up before the ReLU and down behind it."""
    weights = {one.name: onnx.numpy_helper.to_array(one).copy() for one in proto.graph.initializer}
    weights["fc1.weight"] = (weights["fc1.weight"] * scale[:, None])[order]
    weights["fc1.bias"] = (weights["fc1.bias"] * scale)[order]
    weights["fc2.weight"] = (weights["fc2.weight"] / scale)[:, order]
    for one in proto.graph.initializer:
        one.CopyFrom(onnx.numpy_helper.from_array(weights[one.name].astype(np.float32), one.name))
    return proto


@pytest.mark.parametrize("criterion", [Taylor1(), Taylor2(), Taylor2(hessian="gauss_newton"), BruteForce()], ids=str)
def test_what_the_loss_does_depends_on_no_order_and_on_no_scale_that_relu_absorbs(
    criterion: BruteForce | Taylor1 | Taylor2, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    order, scale = rng.permutation(10), rng.uniform(0.5, 2, 10)
    plain, other = subject(tmp_path, mlp()), subject(tmp_path, relaid(mlp(), order, scale))
    want = dict(steps(criterion, plain, plain.analysis.groups[0]))
    found = {int(order[unit]): score for unit, score in steps(criterion, other, other.analysis.groups[0])}
    assert pytest.approx(want, abs=1e-6) == found
    alive = [unit for unit in want if want[unit]]  # of dead units any may go first
    assert alive == [unit for unit in found if unit in alive]
    again = subject(tmp_path, mlp())
    assert want == dict(steps(criterion, again, again.analysis.groups[0]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("net", [mlp, cnn, residual])
def test_the_gpu_finds_the_same(net: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    one, other = subject(tmp_path, net()), subject(tmp_path, net(), device="cuda")
    for group, same in zip(one.analysis.groups, other.analysis.groups, strict=True):
        here, there = one.look.open(group), other.look.open(same)
        for opened in (here, there):
            opened.close(1)
        left = np.setdiff1d(np.arange(group.units), [1])
        np.testing.assert_allclose(there.changes(left), here.changes(left), atol=1e-4)
        np.testing.assert_allclose(there.slopes(), here.slopes(), atol=1e-4)
        for how in ("exact", "gauss_newton"):
            np.testing.assert_allclose(there.curvatures(how), here.curvatures(how), atol=1e-4)  # type: ignore[arg-type]
