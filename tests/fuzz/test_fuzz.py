"""Random graphs of every operator in the engine's table.

The oracle fails on seeded faults and shrinks what it finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuzz.generate import OPSETS, generate, ways
from tests.fuzz.oracle import Failure, judge
from tests.fuzz.shrink import reproducer, shrink
from worker.engine import ops
from worker.engine.ops import RULES, elementwise, layout
from worker.engine.ties import Ties

GRAPHS = 60
EFFECTIVE = 15  # of these at least so many must lose units that matter

# Operators that are not drawn, and why.
# The published node tests of ONNX cover all of them (tests/engine/test_operators.py).
INDICES = "wants indices that fit a shape"
SIZES = "its output's size depends on values"
WHOLE = "computes with quantised or whole numbers alone"
IMAGES = "wants a grid or columns of an image, whose sizes fit each other"
OWN = "is onnxruntime's own: ONNX has no schema that says how it may be called"
NOT_DRAWN = {
    **{key: OWN for key in RULES if "::" in key},
    **dict.fromkeys(("GatherElements", "ScatterElements", "ScatterND", "OneHot"), INDICES),
    **dict.fromkeys(("Compress", "ConstantOfShape", "Range"), SIZES),
    **dict.fromkeys(("BitShift", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"), WHOLE),
    **dict.fromkeys(("AffineGrid", "Col2Im", "GridSample"), IMAGES),
    "CumProd": "newer than the opsets drawn",
    "RotaryEmbedding": "wants caches whose sizes fit each other",
    "Upsample": "older than the opsets drawn",
}


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_a_random_graph_is_cut_exactly(seed: int, tmp_path: Path) -> None:
    program = generate(seed)
    failure = judge(program, tmp_path, seed).failure
    if failure is not None:
        pytest.fail(reproducer(*shrink(program, failure, tmp_path, seed), seed))


def test_the_graphs_have_units_that_matter(tmp_path: Path) -> None:
    assert sum(judge(generate(seed), tmp_path, seed).effective for seed in range(GRAPHS)) >= EFFECTIVE


def test_every_operator_of_the_table_is_drawn_or_says_why_not() -> None:
    drawn = {op for opset in OPSETS for op in ways(opset)}
    assert set(NOT_DRAWN) == set(RULES) - drawn


def first_failure(folder: Path, *favour: str) -> tuple[str, Failure, int]:
    """The first failing graph, shrunk: its text, its failure and how many nodes it has."""
    for seed in range(3 * GRAPHS):
        program = generate(seed, favour)
        failure = judge(program, folder, seed).failure
        if failure is not None:
            small, failure = shrink(program, failure, folder, seed)
            return reproducer(small, failure, seed), failure, len(small.nodes)
    raise AssertionError("no graph showed the fault")


def _spoil(monkeypatch: pytest.MonkeyPatch, key: str, **changes: object) -> None:
    monkeypatch.setitem(ops.RULES, key, replace(ops.RULES[key], **changes))


def test_an_axis_that_should_be_pinned_is_found_and_shown_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _spoil(monkeypatch, "Softmax", tie=elementwise.tie_first)
    text, failure, size = first_failure(tmp_path, "Softmax")
    assert "pruned differs from masked" == failure.kind
    assert "Softmax(" in text
    assert size <= 5, text
    assert 1 == sum(map(len, failure.gone.values()))


def test_a_wrong_repeat_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interleaved(op: layout.Op, ties: Ties) -> None:
        x, y = op.inputs[0], op.outputs[0]
        if len(ties.shape(x)) < 3 or op.integer("axis", 1) != 1:
            return
        channels = ties.points((x, 1))
        flat = ties.points((y, 1)).reshape(-1, len(channels))
        ties.tie((x, 0), (y, 0))
        ties.tie_points(flat, np.tile(channels, (len(flat), 1)))
        ties.speak((x, 1), (y, 1))

    _spoil(monkeypatch, "Flatten", tie=interleaved)
    text, failure, size = first_failure(tmp_path, "Flatten", "Conv")
    assert "pruned differs from masked" == failure.kind
    assert "Flatten(" in text
    assert size <= 5, text


def test_a_missing_shift_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unshifted(op: layout.Op, ties: Ties) -> None:
        axis = op.integer("axis", 1) % len(ties.shape(op.outputs[0]))
        whole = ties.points((op.outputs[0], axis))
        for name in op.inputs:
            ties.tie_points(ties.points((name, axis)), whole[: ties.shape(name)[axis]])
            ties.speak((name, axis))
        ties.speak((op.outputs[0], axis))

    _spoil(monkeypatch, "Concat", tie=unshifted)
    text, failure, size = first_failure(tmp_path, "Concat", "Conv")
    assert failure.kind in ("does not run after the cut", "cannot be cut", "pruned differs from masked")
    assert "Concat(" in text
    assert size <= 6, text


def test_an_executor_that_errs_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(RULES, "Sigmoid", elementwise.unary(torch.tanh))
    text, failure, size = first_failure(tmp_path, "Sigmoid")
    assert "executor differs from onnxruntime" == failure.kind
    assert "Sigmoid(" in text
    assert 1 == size
