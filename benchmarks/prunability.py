"""What can be pruned, and is it exact: half of every group by magnitude, over many models, beside others' pruners.

    python -m benchmarks.prunability [PATTERN ...] [--lossy] [--json FILE]

Each model in a process of its own, whose peak memory is printed. `exact`: the pruned file against the file in which
the same units are masked, in onnxruntime. `kept`: parameters left. The setting BENCH_RIVALS_PYTHON names an interpreter
that has torch, numpy, onnx, onnxruntime and, where wanted, torch-pruning and onnxsim; both run in the same run.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from benchmarks.rivals import Rival, rivals
from benchmarks.subjects import Subject, subjects
from schemas.criteria import Magnitude
from schemas.errors import EspalierError
from worker.engine import cost, surgery, verify
from worker.engine.axes import Analysis, analyse
from worker.engine.criteria import ranking
from worker.engine.criteria.evidence import gather
from worker.engine.data import Samples, split
from worker.engine.evaluate import session
from worker.engine.execute import Executor
from worker.engine.graph import Array, Graph, freeze
from worker.engine.load import Loaded, load
from worker.engine.probe import look
from worker.engine.select import units_lost

LIMIT_S = 900
NO_DATA = split(None, None, 0)


@dataclass(frozen=True)
class Row:
    """`difference` is the largest one, relative to the largest output."""

    kept: float
    difference: float
    exact: bool
    effect: bool
    groups: int
    pinned: int
    seconds: float
    peak_mib: float
    note: str = ""


def measure(subject: Subject, lossy: bool = False) -> Row:
    """From the file to the proof. The time is that of reading, analysing, ranking and cutting."""
    started = time.perf_counter()
    loaded = load(subject.path, {}, subject.name)
    graph = freeze(loaded.model)
    data = NO_DATA if subject.feeds is None else replace(NO_DATA, fit=Samples(subject.feeds))
    probe = look(Executor(graph), data, 0)
    feeds = {port.name: probe.samples.inputs[port.name] for port in graph.inputs}
    analysis = analyse(graph, probe.seen, lossy)
    gone = halves(graph, analysis)
    pruned, kept = cut(loaded, graph, analysis, gone)
    seconds = time.perf_counter() - started
    masked = surgery.masked(loaded.model, analysis.ties, {}, analysis.groups, gone)
    names = surgery.comparable_outputs(graph)
    models = pruned, masked, loaded.model
    found = [outputs(surgery.to_proto(model, names).SerializeToString(), names, feeds) for model in models]
    proof = verify.compare(list(names), *found, probe.samples.count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = "" if proof.mask_has_effect or not gone else "the mask has no effect"
    return Row(
        kept, proof.max_relative_difference, proof.passed, proof.mask_has_effect,
        len(analysis.groups), len(analysis.stays), seconds, peak, note,
    )  # fmt: skip


def halves(graph: Graph, analysis: Analysis) -> dict[str, tuple[int, ...]]:
    order = ranking(Magnitude())
    found = {}
    for group in analysis.groups:
        steps = order.in_order(gather(graph, group, ()))[: units_lost(0.5, group.units)]
        found[group.name] = tuple(sorted(step.unit for step in steps))
    return found


def cut(
    loaded: Loaded, graph: Graph, analysis: Analysis, gone: dict[str, tuple[int, ...]]
) -> tuple[surgery.ir.Model, float]:
    lost = cost.axes_gone(analysis.groups, {name: len(units) for name, units in gone.items()})
    seen = analysis.ties.seen
    after, before = cost.shapes_after(seen, lost), cost.shapes_after(seen, {})
    model = surgery.cut(loaded.model, analysis.ties, {}, surgery.indices_gone(analysis.groups, gone), after)
    whole = cost.parameters(graph, before)
    return model, cost.parameters(graph, after) / whole if whole else 1.0


def outputs(model: bytes, names: tuple[str, ...], feeds: dict[str, Array]) -> list[Array]:
    return [np.asarray(one) for one in session(model, threads=os.cpu_count() or 1).run(list(names), feeds)]


def _child(subject: Subject, lossy: bool, answer: Connection) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        answer.send(measure(subject, lossy))
    except EspalierError as error:
        answer.send(f"refused: {error}")
    except Exception as error:  # the edge of the child: any other failure is a defect, and is shown as one
        answer.send(f"DEFECT {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def in_a_process(subject: Subject, lossy: bool = False) -> Row | str:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(subject, lossy, there))
    child.start()
    there.close()
    try:
        answer: Row | str = here.recv() if here.poll(LIMIT_S) else f"DEFECT no answer in {LIMIT_S} s"
    except EOFError:
        answer = "DEFECT the process died"
    if child.is_alive() and isinstance(answer, str):
        child.kill()
    child.join()
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="parts of the names of models")
    parser.add_argument("--lossy", action="store_true", help="with options.lossy")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    given = parser.parse_args()
    torch.set_num_threads(1)  # exports compute here; threads would not survive the forks
    others = rivals()
    print("half of every group, magnitude")
    print(
        f"{'model':<28}{'ours':>7}{'exact':>9}{'groups':>8}{'s':>8}{'MiB':>7}", *(f"{one.name:>22}" for one in others)
    )
    rows: dict[str, Row | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder), given.patterns):
            rows[subject.name] = row = in_a_process(subject, given.lossy)
            print(line(subject, row), *(f"{cell(one, subject):>22}" for one in others), flush=True)
            if isinstance(row, str) or row.note:
                print(f"    {row if isinstance(row, str) else row.note}", flush=True)
    for one in others:
        one.close()
    if given.json:
        plain = {name: row if isinstance(row, str) else asdict(row) for name, row in rows.items()}
        given.json.write_text(json.dumps(plain, indent=1))
    wrong = [
        name
        for name, row in rows.items()
        if (isinstance(row, str) and "DEFECT" in row) or (isinstance(row, Row) and not row.exact)
    ]
    print(f"\n{len(rows)} models, not exact or failed: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def line(subject: Subject, row: Row | str) -> str:
    if isinstance(row, str):
        return f"{subject.name:<28}{'-':>7}{'-':>9}{'-':>8}{'-':>8}{'-':>7}"
    exact = f"{row.difference:.0e}" if row.exact else "NO"
    return f"{subject.name:<28}{row.kept:7.3f}{exact:>9}{row.groups:8d}{row.seconds:8.2f}{row.peak_mib:7.0f}"


def cell(rival: Rival, subject: Subject) -> str:
    answer = rival.ask(subject)
    if isinstance(answer, str):
        return answer[:22]
    return f"{answer.kept:.3f} {'exact' if answer.exact else 'not exact' if answer.exact is False else 'runs'}"


if __name__ == "__main__":
    sys.exit(main())
