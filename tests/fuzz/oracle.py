"""What must hold for every graph: the engine reads it, computes what onnxruntime computes, and cuts it exactly.

In: a program and a seed for what is removed. Out: a `Verdict`, perhaps with a `Failure`. A difference counts only where
it comes back with other data and is far larger than what rounding of the inputs does (a Floor may jump by one).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from schemas.errors import EspalierError
from tests.engine.dissect import Dissected, dissect, run
from tests.fuzz.forms import Array
from tests.fuzz.generate import MORE, Program, session
from worker.engine import verify
from worker.engine.execute import Executor, to_numpy

TOLERANCE = 1e-4
ROUNDING = 1e-5
Gone = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Failure:
    kind: str
    detail: str
    gone: Gone


@dataclass(frozen=True)
class Verdict:
    failure: Failure | None
    groups: int = 0
    effective: bool = False  # the mask changed the output


def feeds_of(program: Program, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for name, array in program.inputs.items():
        shape = (MORE, *array.shape[1:]) if program.open_batch else array.shape
        if array.dtype == np.float32:
            found[name] = rng.standard_normal(shape).astype(np.float32)
        else:
            found[name] = np.resize(array, shape)
    return found


def judge(program: Program, folder: Path, seed: int = 0, gone: Gone | None = None) -> Verdict:
    """`gone` instead of the seeded choices."""
    again = [feeds_of(program, seed), feeds_of(program, seed + 1000)]
    if not all(_answers(program, feeds) for feeds in again):
        return Verdict(None)
    try:
        dissected = dissect(program.checked(), folder, given=again[0])
    except (EspalierError, AssertionError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        return Verdict(Failure("does not analyse", f"{type(error).__name__}: {error}"[:500], {}))
    if all(_executor_errs(dissected, feeds) for feeds in again):
        return Verdict(Failure("executor differs from onnxruntime", "", {}))
    groups = dissected.analysis.groups
    effective = False
    for chosen in [gone] if gone is not None else [dissected.random_half(seed), uneven(dissected, seed)]:
        if not chosen or not any(chosen.values()):
            continue
        failure, effect = _cut(dissected, chosen, again)
        effective |= effect
        if failure is not None:
            return Verdict(failure, len(groups))
    return Verdict(None, len(groups), effective)


def _answers(program: Program, feeds: Mapping[str, Array]) -> bool:
    """Whether onnxruntime runs the whole graph, too, and to numbers: indices may be counted from samples that are not
    there, rows may be all zeros, and its own optimiser spoils some graphs. Such a graph says nothing of us."""
    try:
        found = run(program.checked(), feeds)
    except (Fail, InvalidArgument, RuntimeException):
        return False
    return all(np.isfinite(one).all() for one in found if one.dtype.kind == "f")


def uneven(dissected: Dissected, seed: int) -> dict[str, tuple[int, ...]]:
    """Of some groups some units, so that equal parts become unequal."""
    rng = np.random.default_rng(seed + 7)
    found = {}
    for group in dissected.analysis.groups:
        if rng.random() < 0.6:
            count = int(rng.integers(1, group.units))
            found[group.name] = tuple(sorted(rng.choice(group.units, count, replace=False).tolist()))
    return found


def _executor_errs(dissected: Dissected, feeds: Mapping[str, Array]) -> bool:
    feeds = {name: array for name, array in feeds.items() if name in dissected.feeds}
    names = [port.name for port in dissected.graph.outputs]
    found = Executor(dissected.graph).run(feeds)
    theirs = run(dissected.loaded.proto, feeds)
    return _differs([to_numpy(found[name]) for name in names], theirs, dissected.loaded.proto, feeds)


def _cut(dissected: Dissected, gone: Gone, again: list[dict[str, Array]]) -> tuple[Failure | None, bool]:
    try:
        cut, masked = dissected.cut(gone), dissected.masked(gone)
        onnx.checker.check_model(cut, full_check=True)
        session(cut)
    except Exception as error:  # whatever stage fails, the engine has made a file that nobody can use
        return Failure("cannot be cut", f"{type(error).__name__}: {error}"[:500], gone), False
    wrong, effect = 0, False
    for feeds in again:
        feeds = {name: array for name, array in feeds.items() if name in dissected.feeds}
        try:
            small, whole = run(cut, feeds), run(masked, feeds)
        except Exception as error:
            return Failure("does not run after the cut", f"{type(error).__name__}: {error}"[:500], gone), False
        wrong += _differs(small, whole, masked, feeds)
        effect |= any(not np.array_equal(*pair) for pair in zip(whole, run(dissected.loaded.proto, feeds), strict=True))
    return (Failure("pruned differs from masked", "", gone) if wrong == len(again) else None), effect


def _differs(ours: list[Array], theirs: list[Array], model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
    """Beyond the tolerance, and beyond thirty times what rounding the inputs does."""
    names = [str(index) for index in range(len(ours))]
    difference = verify.compare(names, ours, theirs, theirs, 1).max_relative_difference
    if difference <= TOLERANCE:
        return False
    rng = np.random.default_rng(0)
    nudged = {
        name: (array * (1 + ROUNDING * rng.standard_normal(array.shape))).astype(array.dtype)
        if array.dtype == np.float32
        else array
        for name, array in feeds.items()
    }
    jump = verify.compare(names, run(model, nudged), theirs, theirs, 1).max_relative_difference
    return difference > 30 * jump or difference == float("inf")
