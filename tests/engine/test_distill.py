"""Training against the uploaded model: the error falls on samples that were not trained on, and each option counts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from schemas.errors import EspalierError
from schemas.finishing import Distill
from tests.engine.nets import Node, classifier, cnn, conv, feeds_for, gemm, layer, model, save
from tests.engine.nets_layers import quantised
from worker.engine import augment
from worker.engine import distill as distilling
from worker.engine.augment import augmented
from worker.engine.data import Samples
from worker.engine.distill import QUICK, Distilled, distill
from worker.engine.graph import Array, Graph, freeze
from worker.engine.learning import learnable
from worker.engine.likeness import targets
from worker.engine.load import load
from worker.engine.muon import Stack

GENTLE = {"epochs": 6, "learning_rate": 0.01, "batch": 16}


def graph_of(proto: onnx.ModelProto, folder: Path) -> Graph:
    return freeze(load(save(proto, folder), {}).model)


def damaged(proto: onnx.ModelProto, zeros: float = 0.0, noise: float = 0.2) -> onnx.ModelProto:
    """The same model with noise on its weights, or with that share of them zero."""
    copy, random = onnx.ModelProto(), np.random.default_rng(3)
    copy.CopyFrom(proto)
    for one in copy.graph.initializer:
        array = onnx.numpy_helper.to_array(one)
        if array.dtype == np.float32 and array.ndim > 1:
            noisy = array + random.normal(0, noise, array.shape) if not zeros else array
            kept = np.where(random.random(array.shape) < zeros, 0.0, noisy).astype(np.float32)
            one.CopyFrom(onnx.numpy_helper.from_array(kept, one.name))
    return copy


def trained(
    folder: Path,
    options: dict[str, object],
    proto: onnx.ModelProto | None = None,
    seed: int = 0,
    keep_zeros: bool = False,
    zeros: float = 0.0,
    noise: float = 0.2,
    clock: Callable[[], float] = lambda: 0.0,
    order: Callable[[Array], Array] = np.ascontiguousarray,
) -> Distilled:
    whole = proto or cnn()
    teacher, student = graph_of(whole, folder), graph_of(damaged(whole, zeros, noise), folder)
    student = replace(student, constants={name: order(array) for name, array in student.constants.items()})
    fit, held = Samples(feeds_for(whole, 64, seed=5)), Samples(feeds_for(whole, 24, seed=6))
    return distill(
        teacher, student, {}, fit, held, Distill.model_validate({**GENTLE, **options}),
        seed=seed, device="cpu", keep_zeros=keep_zeros, tell=lambda *_: None, clock=clock,
    )  # fmt: skip


def without_weights() -> onnx.ModelProto:
    return model([Node("Relu", ["x"], "y")], {}, {"x": ["N", 12]}, ["y"])


@pytest.mark.parametrize("build", [without_weights, quantised])
def test_where_nothing_can_learn_that_is_said(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    with pytest.raises(EspalierError, match="reaches the outputs") as caught:
        trained(tmp_path, {}, build())
    assert "gradient_unavailable" == caught.value.code


@pytest.mark.parametrize("build", [cnn, classifier])
def test_the_student_comes_closer_on_samples_it_was_not_trained_on(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    found = trained(tmp_path, {"epochs": 20}, build())
    assert found.error_after < 0.5 * found.error_before
    assert 20 == found.epochs


def test_a_student_that_only_gets_worse_stays_as_it_was(tmp_path: Path) -> None:
    found = trained(tmp_path, {"learning_rate": 1.0, "epochs": 2, "batch": 8}, classifier(), noise=0.001)
    assert found.error_before > 0
    assert (found.error_before, {}) == (found.error_after, dict(found.changed))


def test_one_step_that_is_not_finite_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    slopes = distilling._Course._slopes

    def overflown(*given: Any) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        found = slopes(*given)
        name = next(iter(found))
        return {**found, name: found[name] * float("nan")} if steps == 3 else found

    monkeypatch.setattr(distilling._Course, "_slopes", overflown)
    found = trained(tmp_path, {"epochs": 20})
    assert steps > 3
    assert found.error_after < 0.5 * found.error_before


OPTIONS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "epochs": ({}, {"epochs": 3}),
    "learning_rate": ({}, {"learning_rate": 0.003}),
    "batch": ({}, {"batch": 64}),
    "augment": ({}, {"augment": "shift"}),
    "features": ({}, {"features": 0.0}),
    "seconds": ({}, {}),  # below, with a clock
}


@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "seconds"])
def test_every_option_changes_the_outcome(option: str, tmp_path: Path) -> None:
    one, other = OPTIONS[option]
    assert trained(tmp_path, one).error_after != trained(tmp_path, other).error_after


def test_no_option_is_without_such_a_test() -> None:
    assert set(Distill.model_fields) == set(OPTIONS)


def test_where_epochs_say_how_long_it_takes_the_clock_changes_nothing(tmp_path: Path) -> None:
    def paced(pace: float) -> Distilled:
        ticks = iter(range(10_000))
        return trained(tmp_path, {}, clock=lambda: pace * next(ticks))

    quick, slow = paced(0.0), paced(1e-3)
    assert quick.changed
    assert all(np.array_equal(array, slow.changed[name]) for name, array in quick.changed.items())


def test_training_ends_when_its_time_is_up(tmp_path: Path) -> None:
    ticks = iter(range(10_000))
    found = trained(tmp_path, {"seconds": 12, "epochs": 500}, clock=lambda: float(next(ticks)))
    assert 0 < found.epochs < 12


def test_equal_seeds_give_equal_weights_and_others_do_not(tmp_path: Path) -> None:
    one, same, other = (trained(tmp_path, {"epochs": 2}, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one.changed[name], same.changed[name]) for name in one.changed)
    assert any(not np.array_equal(one.changed[name], other.changed[name]) for name in one.changed)


def test_a_step_in_parts_is_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sample is so large that few fit into memory at once; 64 samples, two steps of 32."""
    alone = {"epochs": 2, "batch": 32, "features": 0.0}
    whole = trained(tmp_path, alone)
    monkeypatch.setattr("worker.engine.distill.chunk_rows", lambda _: 7)
    parts = trained(tmp_path, alone)
    other = trained(tmp_path, {**alone, "batch": 7})
    assert pytest.approx(whole.error_after, rel=1e-3) == parts.error_after
    assert abs(other.error_after / whole.error_after - 1) > 1e-2


@pytest.mark.parametrize("keep", [True, False])
def test_zeros_of_a_sparse_model_stay_only_where_that_is_asked_for(keep: bool, tmp_path: Path) -> None:
    found = trained(tmp_path, {"epochs": 2}, keep_zeros=keep, zeros=0.5)
    before = graph_of(damaged(cnn(), 0.5), tmp_path).constants
    zeros = [(found.changed[name] == 0).mean() - (before[name] == 0).mean() for name in found.changed]
    assert keep == all(change == 0 for change in zeros)


def test_what_a_normalisation_has_measured_does_not_learn(tmp_path: Path) -> None:
    graph = graph_of(cnn(), tmp_path)
    norms = [op for op in graph.ops if op.key == "BatchNormalization"]
    names = learnable(graph)
    assert norms
    assert all(op.input(1) in names and op.input(3) not in names and op.input(4) not in names for op in norms)


def test_the_target_lies_before_a_softmax(tmp_path: Path) -> None:
    assert ("l",) == targets(graph_of(classifier(), tmp_path))


def quick(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """What this processor says that it has for bfloat16, and small steps count; torch computes it on any."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {says: True})
    monkeypatch.setattr(distilling, "LITTLE", 0)


def both(
    monkeypatch: pytest.MonkeyPatch, folder: Path, epochs: int, proto: onnx.ModelProto, says: str = QUICK[0]
) -> tuple[Distilled, ...]:
    """Trained where the processor is quick, and where it is not."""
    found = []
    for one in (says, "avx2"):
        quick(monkeypatch, one)
        found.append(trained(folder, {"epochs": epochs}, proto))
    return tuple(found)


@pytest.mark.parametrize("says", QUICK)
def test_steps_are_coarser_where_the_processor_is_quick_at_that_and_come_as_far(
    says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse, exact = both(monkeypatch, tmp_path, 20, cnn(), says)
    assert coarse.error_before == exact.error_before
    assert coarse.error_after != exact.error_after
    assert pytest.approx(exact.error_after, rel=0.25) == coarse.error_after


def test_small_steps_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this network multiplies in a step is far less than is worth the rounding."""
    found = []
    for least in (0, distilling.LITTLE):
        quick(monkeypatch, QUICK[0])
        monkeypatch.setattr(distilling, "LITTLE", least)
        found.append(trained(tmp_path, {"epochs": 2}).error_after)
    quick(monkeypatch, "avx2")
    exact = trained(tmp_path, {"epochs": 2}).error_after
    assert [False, True] == [one == exact for one in found]


@pytest.fixture
def cores() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("turned", [True, False])
def test_copies_take_the_same_steps_and_equal_jobs_stay_equal(
    turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: Callable[[int], None]
) -> None:
    """A step's 16 samples by one, two and four threads, in parts of 16, 8 and 4."""
    quick(monkeypatch, "avx2")
    if not turned:
        monkeypatch.setattr(distilling, "worthwhile", lambda *_: {})
    taken: list[int] = []
    threads = distilling._threads

    def watched(count: int) -> Any:
        taken.append(count)
        return threads(count)

    monkeypatch.setattr(distilling, "_threads", watched)
    found = []
    for count in (1, 2, 4, 4, 8):
        cores(count)
        found.append(trained(tmp_path, {"augment": "shift"}))
        assert count == torch.get_num_threads()
    alone, *others = found
    assert {1, 2, 4} == set(taken)
    assert [pytest.approx(alone.error_after, rel=1e-3)] * 4 == [one.error_after for one in others]
    assert all(np.array_equal(others[1].changed[name], others[2].changed[name]) for name in others[1].changed)
    monkeypatch.setattr(distilling, "MOST_WEIGHTS", 10)  # copies of large weights are spared
    taken.clear()
    trained(tmp_path, {"epochs": 1})
    assert [1] == taken


def test_slopes_lie_as_their_weights_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions make them with channels innermost, and fused Adam would take them for others."""
    apart: list[bool] = []
    steps = distilling.Steps.take

    def watched(self: Any, rate: float) -> None:
        weights = [one for group in self.adam.param_groups for one in group["params"]]
        apart.extend(one.grad.stride() != one.stride() for one in weights if one.ndim > 2)
        steps(self, rate)

    monkeypatch.setattr(distilling, "worthwhile", lambda *_: {})
    monkeypatch.setattr(distilling.Steps, "take", watched)
    trained(tmp_path, {"epochs": 1}, wide())
    assert apart
    assert not any(apart)


def test_in_which_order_a_cut_has_left_the_weights_does_not_matter(tmp_path: Path) -> None:
    """Selecting columns leaves them one beside the other."""
    one, other = (trained(tmp_path, {}, order=order) for order in (np.ascontiguousarray, np.asfortranarray))
    assert one.error_after < 0.9 * one.error_before
    assert pytest.approx(one.error_after, rel=1e-3) == other.error_after


def wide() -> onnx.ModelProto:
    nodes = [
        conv("c1", "x", "a"),
        Node("Relu", ["a"], "r"),
        conv("c2", "r", "b"),
        Node("GlobalAveragePool", ["b"], "p"),
    ]
    weights = {**layer("c1", 48, 3, 3, 3), **layer("c2", 48, 48, 3, 3)}
    return model(nodes, weights, {"x": ["N", 3, 4, 4]}, {"p": ["N", 48, 1, 1]})


def far_from_zero() -> onnx.ModelProto:
    """Differences of numbers near 100 count: bfloat16 keeps three digits."""
    nodes = [Node("Add", ["x", "much"], "far"), Node("Sub", ["far", "much"], "near"), gemm("fc", "near", "y")]
    return model(nodes, {"much": np.full(1, 100.0, np.float32), **layer("fc", 4, 12)}, {"x": ["N", 12]}, ["y"])


def test_a_model_that_does_not_bear_coarser_steps_is_spared_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spared, exact = both(monkeypatch, tmp_path, 3, far_from_zero())
    assert spared.error_after == exact.error_after
    monkeypatch.setattr("worker.engine.distill.COARSE", np.inf)
    quick(monkeypatch, QUICK[0])
    assert spared.error_after != trained(tmp_path, {"epochs": 3}, far_from_zero()).error_after


def test_where_an_operator_cannot_be_run_coarsely_steps_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Cast to single precision in front of a product: its factors are no longer of one type."""
    nodes = [Node("Cast", ["x"], "single", {"to": onnx.TensorProto.FLOAT}), gemm("fc", "single", "y")]
    net = model(nodes, layer("fc", 4, 12), {"x": ["N", 12]}, ["y"])
    spared, exact = both(monkeypatch, tmp_path, 3, net)
    assert spared.error_after == exact.error_after


def test_matrices_that_are_worth_it_take_other_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    steps = distilling.worthwhile

    def watched(*given: Any) -> dict[str, Stack]:
        found = steps(*given)
        taken.extend(found)
        return found

    monkeypatch.setattr(distilling, "worthwhile", watched)
    one = trained(tmp_path, {})
    assert taken
    monkeypatch.setattr(distilling, "worthwhile", lambda *_: {})
    assert one.error_after != trained(tmp_path, {}).error_after


def test_images_move_and_turn_and_other_inputs_do_not() -> None:
    images = np.arange(32 * 3 * 16 * 16, dtype=np.float32).reshape(32, 3, 16, 16)
    feeds = {"image": images, "number": np.ones((32, 2), np.float32)}
    still = augmented(feeds, "none", np.random.default_rng(0))
    moved = augmented(feeds, "shift", np.random.default_rng(0))
    turned = augmented(feeds, "flip", np.random.default_rng(0))
    assert np.array_equal(images, still["image"])
    assert (32, 3, 16, 16) == moved["image"].shape
    assert not np.array_equal(images, moved["image"])
    assert not np.array_equal(moved["image"], turned["image"])
    assert np.array_equal(feeds["number"], turned["number"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_half_of_the_images_are_warped_a_little(dtype: type[np.floating[Any]]) -> None:
    """Smooth ones change little, by no colour that they have not, and otherwise than by moving alone."""
    rows, columns = np.mgrid[0:32, 0:32]
    images = np.stack([np.sin(0.2 * rows + phase) + 0.1 * columns for phase in np.arange(64.0)])[:, None].astype(dtype)
    flipped = augmented({"image": images}, "flip", np.random.default_rng(0))["image"]
    warped = augmented({"image": images}, "warp", np.random.default_rng(0))["image"]
    assert (images.shape, images.dtype) == (warped.shape, warped.dtype)
    changed = [not np.array_equal(one, other) for one, other in zip(flipped, warped, strict=True)]
    assert 20 < sum(changed) < 44
    assert images.min() - 1e-2 <= warped.min() <= warped.max() <= max(images.max(), 0) + 1e-2
    likeness = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(flipped, warped, strict=True)]
    assert min(likeness) > 0.3
    assert np.mean(likeness) > 0.8
    even = {"image": np.ones((64, 3, 32, 32), dtype)}
    assert np.allclose(1.0, augment._warped(even["image"], np.random.default_rng(0)))
    alone = images[:1]
    assert any(np.array_equal(alone, augment._warped(alone, np.random.default_rng(seed))) for seed in range(4))


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (32, 64), (64, 32)])
def test_what_is_turned_is_not_bent(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings around the middle stay rings, whatever the shape of the image."""
    for size in ("ZOOMED", "STRETCHED", "SHEARED"):
        monkeypatch.setattr(augment, size, 0.0)
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float32)
    rings = np.hypot(down - (rows - 1) / 2, across - (columns - 1) / 2)
    turned = augment._warped(np.broadcast_to(rings, (16, 1, rows, columns)).copy(), np.random.default_rng(0))
    assert np.abs(turned - rings)[:, :, rings < 14].max() < 0.3
