"""The arena: sizes worked out by hand, plans that never overlap, and networks that compute inside one."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from onnx.helper import make_tensor_value_info

from tests.engine.dissect import Dissected, dissect
from tests.engine.nets import ROW, ZOO, Node, cnn, gemm, layer, mlp, model, residual, squeeze_excite
from worker.engine import arena, cost
from worker.engine.arena import Block, Buffer
from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import Array, Op
from worker.engine.observe import see
from worker.engine.ops import RULES
from worker.engine.ops.elementwise import softmax
from worker.engine.ops.rule import Rule
from worker.engine.ties import Seen


def peak(dissected: Dissected, gone: dict[str, int] | None = None) -> int:
    seen = dissected.analysis.ties.seen
    after = cost.shapes_after(seen, cost.axes_gone(dissected.analysis.groups, gone or {}))
    return arena.peak_ram_bytes(dissected.graph, seen, after)


def test_a_chain_needs_its_largest_neighbours(tmp_path: Path) -> None:
    """x 192 and c1 384: BatchNormalization and Relu compute in place, Flatten is a view."""
    assert 4 * (192 + 384) == peak(dissect(cnn(), tmp_path))


def test_a_residual_keeps_what_waits_for_the_sum(tmp_path: Path) -> None:
    """s (6 x 64) waits while a1r (5 x 64) becomes a2o (6 x 64); the sums are made in place."""
    assert 4 * 64 * (6 + 5 + 6) == peak(dissect(residual(), tmp_path))


def test_a_broadcast_product_is_made_in_the_larger_of_its_inputs(tmp_path: Path) -> None:
    """c (6 x 64) waits for its gate (6, beside g and d of 6 and 3); m takes its place, and c2 writes 5 x 64."""
    assert 4 * 64 * (6 + 5) == peak(dissect(squeeze_excite(), tmp_path))


def test_pruning_lowers_the_peak(tmp_path: Path) -> None:
    """Half of c1: x 192 and c1 192."""
    assert 4 * (192 + 192) == peak(dissect(cnn(), tmp_path), {"c1": 3})


def test_what_is_read_again_is_not_overwritten(tmp_path: Path) -> None:
    """The second Relu cannot take the place of h, which the sum reads."""
    nodes = [gemm("fc1", "x", "h"), Node("Relu", ["h"], "r"), Node("Add", ["h", "r"], "s"), gemm("fc2", "s", "y")]
    net = model(nodes, {**layer("fc1", 64, 12), **layer("fc2", 4, 64)}, ROW, ["y"])
    assert 4 * (64 + 64) == peak(dissect(net, tmp_path))


def test_inputs_count_even_when_nobody_reads_them(tmp_path: Path) -> None:
    proto = mlp()
    before = peak(dissect(proto, tmp_path))
    proto.graph.input.append(make_tensor_value_info("spare", 1, ["N", 100]))
    assert before + 4 * 100 == peak(dissect(proto, tmp_path))


def test_a_fixed_batch_counts_whole(tmp_path: Path) -> None:
    proto = mlp()
    for put in (*proto.graph.input, *proto.graph.output):
        put.type.tensor_type.shape.dim[0].dim_value = 4
    assert 4 * 4 * (12 + 10) == peak(dissect(proto, tmp_path, samples=4))


# ---- the plan

BLOCKS = st.lists(
    st.builds(lambda size, first, more: Block(size, first, first + more), st.integers(0, 99), st.integers(0, 20),
              st.integers(0, 9)),
    max_size=25,
)  # fmt: skip


def overlaps(wanted: list[Block], offsets: tuple[int, ...]) -> list[tuple[Block, Block]]:
    """Pairs that are alive together and share a byte."""
    return [
        (a, b)
        for (a, at), (b, bt) in combinations(zip(wanted, offsets, strict=True), 2)
        if a.first <= b.last and b.first <= a.last and at < bt + b.bytes and bt < at + a.bytes
    ]


@settings(max_examples=200, deadline=None)
@given(BLOCKS)
def test_no_two_blocks_alive_together_overlap(wanted: list[Block]) -> None:
    plan = arena.plan(wanted)
    assert [] == overlaps(wanted, plan.offsets)
    assert arena.most_alive(wanted) <= plan.bytes
    assert all(offset + block.bytes <= plan.bytes for offset, block in zip(plan.offsets, wanted, strict=True))
    assert all(offset % arena.ALIGNMENT == 0 for offset in plan.offsets)


def test_the_check_for_overlaps_sees_one() -> None:
    wanted = [Block(16, 0, 2), Block(16, 2, 3)]
    assert [(wanted[0], wanted[1])] == overlaps(wanted, (0, 8))


def test_a_gap_that_fits_is_filled() -> None:
    """The last block fits between two that are alive with it."""
    wanted = [Block(64, 0, 9), Block(32, 0, 4), Block(56, 3, 9), Block(24, 5, 9)]
    assert arena.most_alive(wanted) == arena.plan(wanted).bytes == 64 + 32 + 56


def test_nothing_needs_nothing() -> None:
    assert arena.Plan((), 0) == arena.plan([])


# ---- networks that compute inside their arena


def inside(dissected: Dissected, found: tuple[Buffer, ...], seen: Seen) -> dict[str, Array]:
    """Run a network whose values live at the offsets of a plan and nowhere else."""
    graph = dissected.graph
    wanted = arena.blocks(found, seen, lambda name: seen.shapes[name])
    offsets = arena.plan(wanted).offsets
    memory = np.full(arena.plan(wanted).bytes, 0xAA, np.uint8)
    where = {name: offset for buffer, offset in zip(found, offsets, strict=True) for name in buffer.values}

    def place(name: str) -> Array:
        size, dtype = int(np.prod(seen.shapes[name])), seen.dtypes[name]
        raw = memory[where[name] : where[name] + size * dtype.itemsize]
        return raw.view(dtype).reshape(seen.shapes[name])

    executor = Executor(graph)
    executor.run(dissected.feeds)
    for port in graph.inputs:
        place(port.name)[...] = dissected.feeds[port.name]
    for op in graph.ops:
        if op.outputs[0] in graph.static:
            continue
        held = [
            torch.from_numpy(place(name).copy()) if name in where else executor.fixed[name] if name else None
            for name in op.inputs
        ]
        results = RULES[op.key].compute(op, [one for one in held if one is None or isinstance(one, torch.Tensor)])
        for name, result in zip(op.outputs, results, strict=False):
            place(name)[...] = to_numpy(result)
    return {port.name: place(port.name).copy() for port in graph.outputs}


def differs(dissected: Dissected, found: tuple[Buffer, ...], seen: Seen) -> bool:
    expected = Executor(dissected.graph).run(dissected.feeds)
    got = inside(dissected, found, seen)
    return any(not np.allclose(to_numpy(value), got[name], rtol=1e-5, atol=1e-6) for name, value in expected.items())


def opened(build: ModelProto, folder: Path) -> tuple[Dissected, Seen]:
    dissected = dissect(build, folder)
    return dissected, see(Executor(dissected.graph), dissected.feeds)


@pytest.mark.parametrize("name", ZOO)
def test_a_network_computes_the_same_inside_its_arena(name: str, tmp_path: Path) -> None:
    dissected, seen = opened(ZOO[name](), tmp_path)
    assert not differs(dissected, arena.buffers(dissected.graph, seen), seen)


def test_a_life_that_ends_too_early_is_seen(tmp_path: Path) -> None:
    dissected, seen = opened(residual(), tmp_path)
    short = tuple(
        replace(buffer, last=buffer.first) if "s" in buffer.values else buffer
        for buffer in arena.buffers(dissected.graph, seen)
    )
    assert differs(dissected, short, seen)


# ---- operators that compute in place


def strays(key: str, rule: Rule) -> bool:
    """Whether an output element depends on an input element at another index."""
    rng = np.random.default_rng(0)
    channels = [torch.from_numpy(rng.uniform(0.5, 1.5, 3).astype(np.float32)) for _ in range(4)]
    for seed in range(3):
        x = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 0.9, (2, 3, 4)).astype(np.float32))
        if key.startswith("Bitwise"):
            x = (x * 9).to(torch.int32)
        other = x.clone()
        other[1, 1, 1] += 1
        given = [[x, *channels], [other, *channels]] if key == "BatchNormalization" else [[x, x], [other, other]]
        if key == "Clip":
            given = [[x], [other]]
        one, two = (rule.compute(bare(key), tensors)[0] for tensors in given)
        changed = one.nan_to_num() != two.nan_to_num()
        changed[1, 1, 1] = False
        if bool(changed.any()):
            return True
    return False


def bare(key: str) -> Op:
    nothing: dict[str, int] = {}
    return Op(0, key, key, 17, ("x",), ("y",), nothing, (), (), None)  # type: ignore[arg-type]  # no rule reads the node


@pytest.mark.parametrize("key", [key for key, rule in RULES.items() if rule.in_place])
def test_operators_that_compute_in_place_read_only_where_they_write(key: str) -> None:
    assert not strays(key, RULES[key])


def test_an_operator_that_reads_elsewhere_is_seen() -> None:
    assert strays("Softmax", softmax(log=False))
