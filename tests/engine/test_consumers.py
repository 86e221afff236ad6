"""Every kind of operator that reads units takes over what removed ones gave, where the others can say it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engine import nets_layers
from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import ROW, Node, gemm, layer, model
from tests.engine.nets_consumers import CONSUMERS, UNITS
from tests.engine.test_reconstruct import apart, rebuilt

SAMPLES = 300


def halved(name: str, folder: Path) -> tuple[Dissected, dict[str, tuple[int, ...]]]:
    """The mixtures go: the second half of the units of the first group."""
    dissected = dissect(CONSUMERS[name](), folder, samples=SAMPLES)
    group = dissected.analysis.groups[0]
    return dissected, {group.name: tuple(range(group.units // 2, group.units))}


def turned(dissected: Dissected, changed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same step in the wrong direction."""
    none = np.zeros((), np.float32)
    return {name: 2 * dissected.graph.constants.get(name, none) - array for name, array in changed.items()}


@pytest.mark.parametrize("name", CONSUMERS)
def test_what_reads_mixtures_takes_them_over(name: str, tmp_path: Path) -> None:
    dissected, gone = halved(name, tmp_path)
    done = rebuilt(dissected, gone)
    assert dissected.proof(gone, done.changed).passed
    left = apart(dissected, gone, {})
    assert apart(dissected, gone, done.changed) < 0.1 * left
    assert apart(dissected, gone, turned(dissected, done.changed)) > left


@pytest.mark.parametrize("name", [name for name in CONSUMERS if name.startswith("states")])
def test_a_layer_hands_its_own_states_over(name: str, tmp_path: Path) -> None:
    """What reads the layer and the layer's own R: either alone leaves more."""
    dissected, gone = halved(name, tmp_path)
    changed = rebuilt(dissected, gone).changed
    alone = [{name: array for name, array in changed.items() if name.startswith("p.") == own} for own in (True, False)]
    both, *parts = (apart(dissected, gone, some) for some in (changed, *alone))
    assert both < 0.5 * min(parts)


@pytest.mark.parametrize("name", [name for name in CONSUMERS if name.startswith("states")])
def test_of_states_that_do_the_same_one_goes_first(name: str, tmp_path: Path) -> None:
    dissected, gone = halved(name, tmp_path)
    ((group, units),) = gone.items()
    assert len(dissected.evidence[group].sights) == 2  # the layer itself, and what follows
    order = [unit for unit, _ in dissected.evidence[group].eliminated][: len(units)]
    assert set(range(UNITS // 2)) == {unit % (UNITS // 2) for unit in order}


@pytest.mark.parametrize("name", ["lstm", "lstm of both directions", "lstm without bias", "gru"])
def test_a_recurrent_layer_says_what_its_inputs_cost(name: str, tmp_path: Path) -> None:
    """Six inputs can say the other six: what goes after that costs far more."""
    dissected, gone = halved(name, tmp_path)
    (group,) = gone
    costs = [cost for _, cost in dissected.evidence[group].eliminated]
    assert max(costs[: UNITS // 2 - 1]) < 0.2 * costs[UNITS // 2]


@pytest.mark.parametrize(("name", "operators"), [
    ("gemm_without_bias", ["Gemm", "Gemm"]),
    ("convolution_without_bias", ["Conv", "Conv"]),
    ("transposed_without_bias", ["Conv", "ConvTranspose"]),
    ("gemm_with_one_bias_for_all", ["Gemm", "Gemm", "Add"]),
    ("matmul", ["MatMul", "Add", "MatMul", "Add"]),
    ("einsum_on_the_left", ["MatMul", "Add", "Einsum", "Add"]),
])  # fmt: skip
def test_a_consumer_without_a_bias_gets_one(name: str, operators: list[str], tmp_path: Path) -> None:
    dissected, gone = halved(name, tmp_path)
    done = rebuilt(dissected, gone)
    assert "y" in done.changed
    cut = dissected.cut(gone, done.changed)
    onnx.checker.check_model(cut, full_check=True)
    assert operators == [node.op_type for node in cut.graph.node]
    assert ["y"] == [port.name for port in cut.graph.output]
    without = {name: array for name, array in done.changed.items() if name != "y"}
    assert apart(dissected, gone, done.changed) < apart(dissected, gone, without)


def test_the_bias_is_as_narrow_as_what_it_is_added_to(tmp_path: Path) -> None:
    """What lies behind the consumer loses units too."""
    nodes = [
        gemm("a", "x", "h"),
        Node("Sigmoid", ["h"], "s"),
        Node("MatMul", ["s", "b"], "t"),
        Node("Tanh", ["t"], "u"),
    ]
    weights = {**layer("a", 10, 12), "b": (10, 8), **layer("c", 4, 8)}
    dissected = dissect(model([*nodes, gemm("c", "u", "y")], weights, ROW, ["y"]), tmp_path, samples=200)
    gone = {"a": (0, 3, 4, 8, 9), "t": (1, 2, 7)}
    done = rebuilt(dissected, gone)
    assert (1, 8) == done.changed["t"].shape
    assert dissected.proof(gone, done.changed).passed


def test_units_around_zero_need_no_bias(tmp_path: Path) -> None:
    nodes = [Node("MatMul", ["x", "a"], "h"), Node("Tanh", ["h"], "t"), Node("MatMul", ["t", "b"], "y")]
    dissected = dissect(model(nodes, {"a": (12, 30), "b": (30, 4)}, ROW, ["y"]), tmp_path, samples=600)
    done = rebuilt(dissected, {"h": tuple(range(12))})
    assert {"a", "b"} == done.changed.keys()  # what makes the units, what reads them


def test_what_could_not_be_fitted_is_named_with_the_reason(tmp_path: Path) -> None:
    """The width of queries and keys is read by a product of both, and two layers share a weight."""
    reasons = {}
    for proto in (nets_layers.one_head(), nets_layers.shared_weight()):
        dissected = dissect(proto, tmp_path, samples=50)
        done = rebuilt(dissected, dissected.random_half())
        reasons |= {one.op.outputs[0]: one.reason for one in done.unfitted}
    assert reasons == {
        "s": "it holds no weights against what it reads",
        "b": "its weights are read elsewhere too",
        "d": "its weights are read elsewhere too",
    }
