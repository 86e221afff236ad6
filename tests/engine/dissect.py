"""Takes a model apart as the engine's stages do, for tests of single stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from schemas.report import Exactness
from tests.engine.nets import feeds_for, save
from worker.engine import cost, surgery, verify
from worker.engine.axes import Analysis, analyse
from worker.engine.criteria.evidence import Evidence, gather
from worker.engine.execute import Executor, to_numpy
from worker.engine.graph import Array, Graph, freeze
from worker.engine.load import Loaded, load
from worker.engine.observe import grams, see
from worker.engine.quantised import unrounded
from worker.engine.refit.consumers import consumers
from worker.engine.refit.teacher import Watching


@dataclass(frozen=True)
class Dissected:
    loaded: Loaded
    graph: Graph
    analysis: Analysis
    evidence: Mapping[str, Evidence]
    feeds: Mapping[str, Array]

    def names(self) -> list[str]:
        return [group.name for group in self.analysis.groups]

    def cut(self, gone: Mapping[str, tuple[int, ...]], changed: Mapping[str, Array] | None = None) -> onnx.ModelProto:
        ties, groups = self.analysis.ties, self.analysis.groups
        lost = cost.axes_gone(groups, {name: len(units) for name, units in gone.items()})
        after = cost.shapes_after(ties.seen, lost)
        model = surgery.cut(self.loaded.model, ties, changed or {}, surgery.indices_gone(groups, gone), after)
        return surgery.to_proto(model)

    def masked(
        self, gone: Mapping[str, tuple[int, ...]], changed: Mapping[str, Array] | None = None
    ) -> onnx.ModelProto:
        ties, groups = self.analysis.ties, self.analysis.groups
        return surgery.to_proto(surgery.masked(self.loaded.model, ties, changed or {}, groups, gone))

    def proof(self, gone: Mapping[str, tuple[int, ...]], changed: Mapping[str, Array] | None = None) -> Exactness:
        names = [port.name for port in self.graph.outputs]
        protos = self.cut(gone, changed), self.masked(gone, changed), surgery.to_proto(self.loaded.model)
        three = [run(unrounded(proto), self.feeds) for proto in protos]
        return verify.compare(names, *three, 16)

    def random_half(self, seed: int = 0) -> dict[str, tuple[int, ...]]:
        """A seeded random half of every group."""
        rng = np.random.default_rng(seed)
        return {
            group.name: tuple(sorted(rng.choice(group.units, group.units // 2, replace=False).tolist()))
            for group in self.analysis.groups
        }


def dissect(
    proto: onnx.ModelProto,
    folder: Path,
    samples: int = 16,
    given: Mapping[str, Array] | None = None,
    lossy: bool = False,
) -> Dissected:
    """`given` are the samples to use; made up where there are none."""
    loaded = load(save(proto, folder), {})
    graph = freeze(loaded.model)
    executor = Executor(graph)
    wanted = {port.name for port in graph.inputs}
    made = feeds_for(proto, samples) if given is None else given
    feeds = {name: array for name, array in made.items() if name in wanted}
    seen = see(executor, {name: array[: graph.fixed_batch() or 1] for name, array in feeds.items()})
    analysis = analyse(graph, seen, lossy)
    watching = Watching(executor, consumers(graph, analysis.ties.seen, analysis.groups), 1, 0)
    found = grams(executor, analysis.groups, [feeds], beside=watching.visit)
    sights = watching.sights()
    evidence = {
        group.name: gather(graph, group, found[group.name], sights=sights.get(group.name, ()))
        for group in analysis.groups
    }
    return Dissected(loaded, graph, analysis, evidence, feeds)


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(one) for one in session.run(None, dict(feeds))]


def assert_exact(dissected: Dissected, seed: int) -> None:
    """The oracle of the engine: a seeded random half of every group, all together and each group alone."""
    gone = dissected.random_half(seed)
    onnx.checker.check_model(dissected.cut(gone), full_check=True)
    proof = dissected.proof(gone)
    assert proof.passed, proof
    for group in dissected.analysis.groups:
        alone = dissected.proof({group.name: gone[group.name]})
        assert alone.passed, group.name
        assert alone.mask_has_effect, group.name


def assert_computes_alike(dissected: Dissected, rtol: float, atol: float) -> None:
    """The executor, all of it in torch, gives what onnxruntime gives."""
    executor = Executor(dissected.graph)
    found = to_numpy(executor.run(dissected.feeds)["y"])
    np.testing.assert_allclose(found, run(dissected.loaded.proto, dissected.feeds)[0], rtol=rtol, atol=atol)
    assert {} == executor._nodes
