"""The walk: exact after the cut, better than leaving the rest as it was, and true to the teacher where it can be."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engine import nets, nets_layers, nets_layout
from tests.engine.dissect import Dissected, dissect, run
from tests.engine.test_compensate import with_copies
from worker.engine.criteria.evidence import Step
from worker.engine.refit import forming
from worker.engine.refit.consumers import consumers
from worker.engine.refit.readings import readings
from worker.engine.refit.reconstruct import Material, Rebuilt, reconstruct

NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": nets.mlp,
    "matmul": nets.matmul_mlp,
    "cnn": nets.cnn,
    "residual": nets.residual,
    "dense": nets.dense_block,
    "mobile": nets.mobile,
    "grouped": nets.grouped,
    "squeeze and excite": nets.squeeze_excite,
    "transposed": nets_layers.transposed,
    "transposed depthwise": nets_layers.transposed_depthwise,
    "heads": nets_layers.many_heads,
    "option A": nets_layout.option_a,
    "shared weight": nets_layers.shared_weight,
}


def steps_of(gone: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Step, ...]]:
    return {name: tuple(Step(unit, "small") for unit in units) for name, units in gone.items()}


def halves(feeds: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    cut = 3 * len(next(iter(feeds.values()))) // 4
    return {name: one[:cut] for name, one in feeds.items()}, {name: one[cut:] for name, one in feeds.items()}


def rebuilt(dissected: Dissected, gone: Mapping[str, tuple[int, ...]], on_the_way: bool = False) -> Rebuilt:
    fit, held = halves(dissected.feeds)
    ties, groups = dissected.analysis.ties, dissected.analysis.groups
    found = consumers(dissected.graph, ties.seen, groups)
    return reconstruct(ties, groups, found, Material([fit], [held], "cpu", 0, 1), steps_of(gone), on_the_way)


def apart(dissected: Dissected, gone: Mapping[str, tuple[int, ...]], changed: Mapping[str, np.ndarray]) -> float:
    """The squared error of the outputs on samples that were held back, as a share."""
    _, held = halves(dissected.feeds)
    dense = run(dissected.loaded.proto, held)[0]
    found = run(dissected.cut(gone, changed), held)[0]
    return float(np.square(found - dense).mean() / np.square(dense).mean())


@pytest.mark.parametrize("name", NETS)
def test_exact_after_the_cut_and_no_layer_worse(name: str, tmp_path: Path) -> None:
    dissected = dissect(NETS[name](), tmp_path, samples=200)
    gone = dissected.random_half()
    done = rebuilt(dissected, gone)
    assert dissected.proof(gone, done.changed).passed
    assert done.refits
    for one in done.refits:
        assert one.after <= one.before
    assert any(one.ridge is not None for one in done.refits)
    assert apart(dissected, gone, done.changed) < 0.97 * apart(dissected, gone, {})


def test_what_cannot_be_fitted_stays_as_it_was(tmp_path: Path) -> None:
    """Weights that are stored as integers."""
    dissected = dissect(nets_layers.quantised(), tmp_path, samples=200)
    gone = dissected.random_half()
    done = rebuilt(dissected, gone)
    assert {} == done.changed
    assert () == done.refits


def test_a_worse_fit_would_be_noticed(tmp_path: Path) -> None:
    """The same comparison with weights that were moved the wrong way."""
    dissected = dissect(nets.cnn(), tmp_path, samples=200)
    gone = dissected.random_half()
    changed = rebuilt(dissected, gone).changed
    wrong = {name: 2 * dissected.graph.constants[name] - array for name, array in changed.items()}
    assert apart(dissected, gone, wrong) > apart(dissected, gone, {})


@pytest.mark.parametrize("factor", [1.0, 2.5, 0.2])
def test_copies_go_without_a_trace(factor: float, tmp_path: Path) -> None:
    dissected = dissect(with_copies(factor), tmp_path, samples=200)
    gone = {"fc1": (2, 7)}
    assert apart(dissected, gone, rebuilt(dissected, gone).changed) < 1e-4 * apart(dissected, gone, {})


def test_chosen_on_the_way_keeps_the_number_and_takes_the_cheaper_units(tmp_path: Path) -> None:
    dissected = dissect(with_copies(1.0), tmp_path, samples=200)
    gone = {"fc1": (0, 1), "fc2": (3,)}
    done = rebuilt(dissected, gone, on_the_way=True)
    chosen = {name: tuple(sorted(step.unit for step in steps)) for name, steps in done.taken.items()}
    assert set(chosen["fc1"]) < {0, 2, 7}
    assert (2, 1) == (len(chosen["fc1"]), len(chosen["fc2"]))
    assert dissected.proof(chosen, done.changed).passed


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The small CNN with its normalisation written into the convolution before it."""
    known = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    factor = known["n1.scale"] / np.sqrt(known["n1.var"] + 1e-5)
    moved = {
        "c1.weight": known["c1.weight"] * factor[:, None, None, None],
        "c1.bias": (known["c1.bias"] - known["n1.mean"]) * factor + known["n1.shift"],
    }
    for one in proto.graph.initializer:
        if one.name in moved:
            one.CopyFrom(onnx.numpy_helper.from_array(moved[one.name].astype(np.float32), one.name))
    norm = next(node for node in proto.graph.node if node.op_type == "BatchNormalization")
    for node in proto.graph.node:
        for slot, name in enumerate(node.input):
            if name == norm.output[0]:
                node.input[slot] = norm.input[0]
    proto.graph.node.remove(norm)
    return proto


def test_normalisation_folded_or_not_gives_the_same_model(tmp_path: Path) -> None:
    gone = {"c1": (1, 4), "c2": (0,), "fc1": (2, 3)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = dissect(nets.cnn(), tmp_path / "a", samples=200)
    other = dissect(folded(nets.cnn()), tmp_path / "b", samples=200)
    results = [run(one.cut(gone, rebuilt(one, gone).changed), one.feeds)[0] for one in (plain, other)]
    first, second = results
    # What rounding differs by grows along a descent, and may decide whether it is kept.
    assert np.square(first - second).mean() < 1e-4 * np.square(first).mean()


def test_a_layer_that_reads_nothing_removed_repairs_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only fc1 loses units; fc3 reads what fc2 makes of that. Nothing is formed: that would leave less to repair."""
    monkeypatch.setattr(forming, "STEPS", 0)
    dissected = dissect(nets.mlp(), tmp_path, samples=200)
    done = rebuilt(dissected, {"fc1": (0, 1, 2, 3, 4)})
    assert {"fc2.weight", "fc3.weight"} <= done.changed.keys()
    assert "fc1.weight" not in done.changed


def test_shortcuts_are_taken_off_the_target(tmp_path: Path) -> None:
    dissected = dissect(nets.residual(), tmp_path)
    tails = {one.op.outputs[0]: one.tail for one in readings(dissected.graph, dissected.analysis.ties.seen, ())}
    assert ("s",) == tails["a2o"].addends
    assert ("sum", "sum") == (tails["a2o"].end, tails["a2o"].judged)
    assert ("s", ()) == (tails["s"].end, tails["s"].addends)
    assert ("r",) == tails["b1o"].addends
