"""Real exports of small networks, by both exporters: what the engine cuts is exact, and nothing is left out unsaid.

`GROUPS` holds the units of every group, so that coverage cannot shrink unnoticed.
"""

from dataclasses import replace

import onnx
import pytest

from tests.engine.dissect import Dissected, run
from tests.zoo.conftest import Find
from tests.zoo.expected import GROUPS, LOSSY
from tests.zoo.models import CANNOT, MORE_WAYS, WAYS, ZOO, Way
from worker.engine import ops, verify
from worker.engine.execute import Executor, to_numpy
from worker.engine.ops import elementwise

FEW = ("resnet_option_a", "shufflenet", "yolo", "stacked_lstm", "bert", "vit")
CASES = [
    pytest.param(name, way, id=f"{name}-{way}")
    for name in ZOO
    for way in (*WAYS, *(MORE_WAYS if name in FEW else ()))
    if (name, str(way)) not in CANNOT
]
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "RNN", "LSTM", "GRU")
TOLERANCE = 1e-4


def unspoken(dissected: Dissected) -> list[str]:
    """Operators with constant weights that are no layer, and layers in no group without a reason to stay."""
    graph, analysis = dissected.graph, dissected.analysis
    layers = {layer.op.index for layer in analysis.layers}
    heavy = [
        op.label()
        for op in graph.ops
        if op.key in WEIGHTED and op.outputs[0] not in graph.static and op.index not in layers
        if any(name in graph.static for name in op.inputs[:2])
    ]
    free = {axis for group in analysis.groups for axis in group.sites}
    stay = {stay.layer.name for stay in analysis.stays}
    return heavy + [one.name for one in analysis.layers if (one.weight, one.axis) not in free and one.name not in stay]


def executor_difference(dissected: Dissected) -> float:
    """Between our executor and onnxruntime, on the uploaded file."""
    found = Executor(dissected.graph).run(dissected.feeds)
    names = [port.name for port in dissected.graph.outputs]
    ours, theirs = [to_numpy(found[name]) for name in names], run(dissected.loaded.proto, dissected.feeds)
    return verify.compare(names, ours, theirs, theirs, 1).max_relative_difference


@pytest.mark.parametrize(("name", "way"), CASES)
def test_pruned_equals_masked_and_the_mask_has_an_effect(name: str, way: Way, taken_apart: Find) -> None:
    dissected = taken_apart(name, way)
    gone = dissected.random_half()
    onnx.checker.check_model(dissected.cut(gone), full_check=True)
    proof = dissected.proof(gone)
    assert proof.passed, proof
    assert proof.max_relative_difference <= TOLERANCE
    for group in dissected.analysis.groups:
        alone = dissected.proof({group.name: gone[group.name]})
        assert alone.passed, (group.name, alone)
        assert alone.mask_has_effect, group.name


@pytest.mark.parametrize(("name", "way"), CASES)
def test_every_layer_is_in_a_group_or_says_why_not(name: str, way: Way, taken_apart: Find) -> None:
    assert [] == unspoken(taken_apart(name, way))


@pytest.mark.parametrize(("name", "way"), CASES)
def test_the_executor_agrees_with_onnxruntime(name: str, way: Way, taken_apart: Find) -> None:
    assert executor_difference(taken_apart(name, way)) <= TOLERANCE


@pytest.mark.parametrize(("name", "way"), CASES)
def test_coverage_is_what_it_was(name: str, way: Way, taken_apart: Find) -> None:
    found = tuple(sorted(group.units for group in taken_apart(name, way).analysis.groups))
    assert GROUPS[name] == found


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_opens_the_widths_that_norms_hold(name: str, taken_apart: Find) -> None:
    dissected = taken_apart(name, WAYS[1], lossy=True)
    assert LOSSY[name] == tuple(sorted(group.units for group in dissected.analysis.groups))
    gone = dissected.random_half()
    onnx.checker.check_model(dissected.cut(gone), full_check=True)
    proof = dissected.proof(gone)
    assert proof.max_relative_difference <= TOLERANCE
    assert proof.mask_has_effect


def test_the_table_names_the_whole_zoo_and_nothing_else() -> None:
    assert set(ZOO) == set(GROUPS)
    assert set(LOSSY) <= set(ZOO)


def test_the_checks_see_an_executor_that_errs_and_a_layer_that_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, taken_apart: Find
) -> None:
    dissected = taken_apart("resnet_basic", WAYS[1])
    analysis = dissected.analysis
    monkeypatch.setitem(ops.RULES, "Relu", elementwise.unary(lambda x: x))
    assert executor_difference(dissected) > TOLERANCE
    forgetful = replace(dissected, analysis=replace(analysis, stays=analysis.stays[1:]))
    assert [analysis.stays[0].layer.name] == unspoken(forgetful)
