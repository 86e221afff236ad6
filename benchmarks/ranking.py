"""How well each criterion ranks units, and what an exact ranking costs: `python -m benchmarks.ranking`, or
`make bench-ranking`.

1. Rank agreement (Spearman) with brute force of every criterion of units, on each seed network: within each group, the
   mean weighted by units. 2. A full re-ranking run of mlp100_mnist (100 removals, each after trying every unit that is
   left, on 10,000 samples) beside running the whole model once for every candidate, as fast as that goes here.

In: seeds/, mnist, fashion_mnist and cifar10_test in ESPALIER_DATA (default ../shared/data). Exit code 1 where the two
runs of part 2 disagree, or the first is not 50 times faster. `--quick`: fewer samples, and every tenth candidate of the
slow run.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.stats import spearmanr

from benchmarks.folder import DATA, needed
from schemas.criteria import CRITERIA, BruteForce, CriterionBase, Karnin, Magnitude, Taylor1, Taylor2
from schemas.errors import EspalierError
from worker.engine import surgery
from worker.engine.axes import Group, analyse
from worker.engine.criteria import passed_over, ranking
from worker.engine.criteria.evidence import Evidence, gather
from worker.engine.data import Samples
from worker.engine.data.history import read_history
from worker.engine.evaluate import Task
from worker.engine.execute import Executor
from worker.engine.gates import Look
from worker.engine.graph import freeze
from worker.engine.load import load
from worker.engine.losses import resolve_loss
from worker.engine.observe import grams, see
from worker.engine.refit.readings import readings
from worker.engine.refit.teacher import Watching
from worker.engine.sensitivity import Sensitivities

BY_NAME = (kind() for name, kind in CRITERIA.items() if name not in ("brute_force", "karnin"))
OTHERS: tuple[CriterionBase, ...] = (
    *(one for one in BY_NAME if not one.prunes_weights()),
    Karnin(of="units"),
    Taylor1(signed=False, samples=None),
    Taylor2(hessian="gauss_newton", samples=None),
    Magnitude(norm="l1"),
)
FASTER = 50
CHUNK = 250
Orders = dict[str, NDArray[np.int64]]  # for each group the place of every unit in the order


def digits(name: str, images: str, labels: str, count: int) -> Samples:
    with np.load(DATA / f"{name}.npz") as file:
        x = file[images][:count].astype(np.float32) / np.float32(255)
        return Samples({"input": x}, file[labels][:count].astype(np.int64))


def rows(name: str, count: int) -> Samples:
    found = digits(name, "x_test", "y_test", count)
    return Samples({"input": found.inputs["input"].reshape(count, -1)}, found.labels)


def maps(count: int) -> Samples:
    found = digits("mnist", "x_test", "y_test", count)
    return Samples({"input": found.inputs["input"][:, None]}, found.labels)


def photographs(count: int) -> Samples:
    found = digits("cifar10_test", "x", "y", count)
    x = (found.inputs["input"].transpose(0, 3, 1, 2) - 0.5) / 0.5
    return Samples({"input": np.ascontiguousarray(x, np.float32)}, found.labels)


NETS: dict[str, Callable[[int], Samples]] = {
    "mlp100_mnist": partial(rows, "mnist"),
    "mlp50x50_mnist": partial(rows, "mnist"),
    "fnn_mnist": partial(rows, "mnist"),
    "mlp_fashion": partial(rows, "fashion_mnist"),
    "cnn_mnist": maps,
    "lenet_cifar": photographs,
}


class Net:
    """A seed network, analysed, and its samples."""

    def __init__(self, name: str, samples: int) -> None:
        self.samples = NETS[name](samples)
        self.history = DATA / "seeds" / f"{name}_epochs.npz"
        self.loaded = load(DATA / "seeds" / f"{name}.onnx", {})
        self.graph = freeze(self.loaded.model)
        self.executor = Executor(self.graph)
        self.seen = see(self.executor, self.samples.rows(0, 1).inputs)
        self.analysis = analyse(self.graph, self.seen)
        self.groups = self.analysis.groups
        task = Task("classification", self.graph.outputs[0].name, 1)
        loss = resolve_loss("auto", task, self.graph, self.seen)
        self.look = Look(self.executor, self.seen, self.groups, loss, self.samples, lambda _: None)

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        parts = [part.inputs for part in self.samples.batches(CHUNK)]
        watching = Watching(self.executor, readings(self.graph, self.seen, self.groups), len(parts), 0)
        sites = grams(self.executor, self.groups, parts, True, watching.visit)
        sights = watching.sights()
        sensitive = (
            Sensitivities(read_history(self.history, max_bytes=1 << 30), self.graph, None) if self.told else None
        )
        return {
            group.name: gather(
                self.graph, group, sites[group.name], 0, partial(self.look.open, group), sensitive, sights[group.name]
            )
            for group in self.groups
        }

    @property
    def told(self) -> bool:
        """Whether there is a history of its training."""
        return self.history.is_file()

    def orders(self, criterion: CriterionBase) -> Orders:
        """Groups that the criterion has no say on are left out."""
        passed = passed_over(criterion, self.evidence)  # type: ignore[arg-type]  # one of the union
        judge = ranking(criterion)  # type: ignore[arg-type]  # as above
        found = {}
        for name, one in self.evidence.items():
            if name not in passed:
                order = [step.unit for step in judge.in_order(one)]
                place = np.full(one.units, len(order))
                place[order] = np.arange(len(order))
                found[name] = place
        return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 samples to rank with, every tenth candidate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", type=int, choices=(1, 2), help="only this part")
    options = parser.parse_args(argv)
    needed()
    torch.set_num_threads(options.threads)
    if options.part != 2:
        agreement(200 if options.quick else 1000)
    return 0 if options.part == 1 else removals(10 if options.quick else 1, options.threads)


def agreement(samples: int) -> None:
    """Part 1."""
    columns = {name: spearmans(name, samples) for name in NETS}
    print(f"Spearman with brute force within groups, {samples} samples. -: no say, for want of a ReLU (apoz), of batch")
    print("normalisation (bn_scale) or of a history of the training (karnin)\n")
    print("| criterion | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in dict.fromkeys(["(units; seconds for brute force)", *(one.in_words() for one in OTHERS)]):
        print(f"| {name} | " + " | ".join(column.get(name, "-") for column in columns.values()) + " |")
    print(flush=True)


def spearmans(name: str, samples: int) -> dict[str, str]:
    """For each criterion that has a say on this network."""
    net = Net(name, samples)
    assert net.evidence, "grams are not part of anybody's time"
    begun = time.perf_counter()
    exact = net.orders(BruteForce(samples=None))
    found = {"(units; seconds for brute force)": f"{sum(map(len, exact.values()))}; {time.perf_counter() - begun:.1f}"}
    for criterion in OTHERS:
        if criterion.name == "karnin" and not net.told:
            continue
        try:
            guessed = net.orders(criterion)
        except EspalierError as refused:
            if refused.code != "criterion_not_applicable":
                raise
            continue
        if guessed:
            agreed = [float(spearmanr(order, exact[group]).statistic) for group, order in guessed.items()]
            found[criterion.in_words()] = f"{np.average(agreed, weights=list(map(len, guessed.values()))):.2f}"
    return found


@dataclass(frozen=True)
class Run:
    """A removal order, and what it took."""

    units: tuple[int, ...]
    seconds: float
    candidates: int


def removals(every: int, threads: int) -> int:
    """Part 2."""
    net = Net("mlp100_mnist", 10_000)
    group = net.groups[0]
    begun = time.perf_counter()
    judge = ranking(BruteForce(order="rerank", samples=None, threshold=np.finfo(np.float32).max))  # down to the last
    evidence = Evidence(group.units, lambda: np.zeros((0, 0)), (), open_gates=partial(net.look.open, group))
    steps = judge.by_threshold(evidence)
    ours = Run(tuple(step.unit for step in steps), time.perf_counter() - begun, group.units * (group.units + 1) // 2)
    run, how = fastest(net, group, threads)
    naive, apart = whole_models(net, run, [step.unit for step in steps], [step.score or 0.0 for step in steps], every)
    each, alone = ours.seconds / ours.candidates, naive.seconds / naive.candidates
    print(f"Re-ranking mlp100_mnist, {len(ours.units)} removals, 10,000 samples, {threads} threads")
    print(f"  only what follows: {ours.seconds:.2f} s for {ours.candidates:,} candidates, {each * 1e6:.0f} us each")
    print(f"  the whole model, {how}: {naive.seconds:.1f} s for {naive.candidates:,}, {alone * 1e6:.0f} us each")
    print(f"  {alone / each:.0f} times faster; largest difference in a change of the loss {apart:.1e}")
    agree = naive.units == ours.units and apart < 1e-6
    print("  both remove the same units" if agree else "  THEY DISAGREE", flush=True)
    return 0 if agree and alone / each >= FASTER else 1


Losses = Callable[[NDArray[np.float32]], float]  # of the units' masks: the mean loss


def fastest(net: Net, group: Group, threads: int) -> tuple[Losses, str]:
    """The whole model for one set of masks, in onnxruntime or in torch, whichever is faster here."""
    labels, feeds = net.samples.labels, dict(net.samples.inputs)
    assert labels is not None, "digits have labels"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    masked = surgery.masked(net.loaded.model, net.analysis.ties, {}, [group], {group.name: (0,)})
    proto = surgery.to_proto(masked)
    [mask] = [one for one in proto.graph.initializer if one.name.startswith("espalier.mask")]
    proto.graph.initializer.remove(mask)
    proto.graph.input.append(helper.make_tensor_value_info(mask.name, TensorProto.FLOAT, [1, group.units]))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    consume = group.consumers[0]
    truth, key = torch.from_numpy(labels), (consume.op.index, consume.slot)

    def in_onnxruntime(gates: NDArray[np.float32]) -> float:
        said = session.run(None, {**feeds, mask.name: gates[None]})[0]
        return entropy(torch.from_numpy(said), truth)

    def in_torch(gates: NDArray[np.float32]) -> float:
        said = net.executor.run(feeds, None, {key: torch.from_numpy(gates)[None]})[net.look.loss.tensor]
        assert isinstance(said, torch.Tensor), "digits are told by numbers"
        return entropy(said, truth)

    times = {}
    for run, how in ((in_onnxruntime, "onnxruntime"), (in_torch, "torch")):
        run(np.ones(group.units, np.float32))
        begun = time.perf_counter()
        for _ in range(5):
            run(np.ones(group.units, np.float32))
        times[how] = (time.perf_counter() - begun, run)
    how = min(times, key=lambda one: times[one][0])
    return times[how][1], how


def entropy(said: torch.Tensor, truth: torch.Tensor) -> float:
    lost: torch.Tensor = torch.nn.functional.cross_entropy(said, truth, reduction="none")
    return float(lost.sum(dtype=torch.float64)) / len(truth)


def whole_models(
    net: Net, run: Losses, order: Sequence[int], changes: Sequence[float], every: int
) -> tuple[Run, float]:
    """The same greedy removals. Of the candidates of each ranking every n-th is run, and the one that `order` takes,
    whose change is compared; with all of them the choice is the slow run's own."""
    units = net.groups[0].units
    gates = np.ones(units, np.float32)
    chosen, candidates, apart = [], 0, 0.0
    begun = time.perf_counter()
    base = run(gates)
    for taken, change in zip(order, changes, strict=True):
        left = np.flatnonzero(gates)
        tried = sorted({*left[::every].tolist(), taken}) if every > 1 else left.tolist()
        losses = {}
        for unit in tried:
            gates[unit] = 0
            losses[unit] = run(gates)
            gates[unit] = 1
        candidates += len(tried)
        best = min(losses, key=lambda one: losses[one])
        # Where two are equal in single precision either may go first: the next ranking starts from the same masks.
        chosen.append(taken if losses[taken] - losses[best] < 1e-7 else best)
        apart = max(apart, abs(losses[taken] - base - change))
        gates[taken], base = 0, losses[taken]
    return Run(tuple(chosen), time.perf_counter() - begun, candidates), apart


if __name__ == "__main__":
    sys.exit(main())
