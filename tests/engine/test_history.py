"""Histories of a training: both forms, what is refused, which weight is which, and the formula written out."""

import runpy
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from schemas.criteria import Karnin
from schemas.errors import EspalierError
from schemas.request import parse_options
from tests.engine.dissect import dissect
from tests.engine.nets import cnn, matmul_mlp, mlp, save
from tests.engine.test_run import as_input
from worker.engine.criteria import ranking
from worker.engine.criteria.evidence import gather
from worker.engine.data.history import History, read_history
from worker.engine.run import Inputs, Limits, prune
from worker.engine.sensitivity import Sensitivities, sensitivities

RECORDER = Path(__file__).parents[2] / "examples/record_history.py"


def snapshots(proto: onnx.ModelProto, epochs: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """A made-up training that ends in the model's weights."""
    rng = np.random.default_rng(seed)
    final = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer if len(one.dims) > 1}
    found = {f"e{epochs}/{name}": array for name, array in final.items()}
    for epoch in range(epochs):
        noise = {name: rng.normal(0, 0.3, array.shape) for name, array in final.items()}
        found |= {f"e{epoch}/{name}": (array + noise[name]).astype(np.float32) for name, array in final.items()}
    return found


def read(folder: Path, arrays: Mapping[str, np.ndarray], max_bytes: int = 1 << 24) -> History:
    np.savez(folder / "history.npz", **arrays)
    return read_history(folder / "history.npz", max_bytes=max_bytes)


def naive(steps: list[np.ndarray], rate: float) -> np.ndarray:
    """S_ij = sum_n dw_ij(n)^2 * w_f / (eta * (w_f - w_i)), weight by weight."""
    found = np.zeros(steps[0].shape)
    for at in np.ndindex(found.shape):
        path = [float(step[at]) for step in steps]
        if path[-1] != path[0]:
            squares = sum((b - a) ** 2 for a, b in pairwise(path))
            found[at] = squares * path[-1] / (rate * (path[-1] - path[0]))
    return found


def test_the_formula_from_snapshots_is_the_papers(tmp_path: Path) -> None:
    arrays = snapshots(mlp())
    arrays["e0/fc1.weight"][0, :3] = arrays["e3/fc1.weight"][0, :3]  # ended where they began
    history = read(tmp_path, {**arrays, "learning_rate": np.float64(0.01), "accuracy": np.ones(4)})
    found = Sensitivities(history, dissect(mlp(), tmp_path).graph, None)("fc1.weight")
    want = naive([arrays[f"e{epoch}/fc1.weight"] for epoch in range(4)], 0.01)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert [0, 0, 0] == found[0, :3].tolist()
    assert (found < 0).any()
    turned = naive([arrays[f"e{epoch}/fc1.weight"] for epoch in reversed(range(4))], 0.01)
    assert not np.allclose(found, turned)


def test_sums_say_the_same_as_snapshots(tmp_path: Path) -> None:
    arrays = snapshots(mlp())
    names = [key.removeprefix("e0/") for key in arrays if key.startswith("e0/")]
    summed = {f"initial/{name}": arrays[f"e0/{name}"] for name in names}
    summed |= {f"final/{name}": arrays[f"e3/{name}"] for name in names}
    for name in names:
        steps = [arrays[f"e{epoch}/{name}"].astype(np.float64) for epoch in range(4)]
        summed[f"sums/{name}"] = np.sum([(b - a) ** 2 for a, b in pairwise(steps)], axis=0)
    graph = dissect(mlp(), tmp_path).graph
    one, other = read(tmp_path, arrays), read(tmp_path, summed)
    for name in names:
        np.testing.assert_allclose(Sensitivities(one, graph, 1.0)(name), Sensitivities(other, graph, 1.0)(name))


def change(arrays: dict[str, np.ndarray], key: str, value: np.ndarray | None) -> dict[str, np.ndarray]:
    rest = {name: array for name, array in arrays.items() if name != key}
    return rest if value is None else {**rest, key: value}


NAN = np.full((10, 12), np.nan)


@pytest.mark.parametrize(("key", "value", "says"), [
    ("e1/fc1.weight", None, "'fc1.weight' is in one of e0 and e1"),
    ("e1/fc1.weight", np.ones((3, 3)), r"e1/fc1.weight has shape \(3, 3\); at the start it was \(10, 12\)"),
    ("e2/fc1.weight", NAN, "e2/fc1.weight holds NaN or infinity"),
    ("e2/fc1.weight", np.ones((10, 12), complex), "complex128, not real numbers"),
    ("e5/fc1.weight", np.ones((10, 12)), "there are snapshots up to e5, but none of e4"),
    ("learning_rate", np.float64(0), "learning_rate must be one positive number"),
    ("learning_rate", np.ones(2), "learning_rate must be one positive number"),
])  # fmt: skip
def test_what_is_wrong_with_snapshots_is_said(key: str, value: np.ndarray | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(EspalierError, match=says) as caught:
        read(tmp_path, change(snapshots(mlp()), key, value))
    assert "history_invalid" == caught.value.code


@pytest.mark.parametrize(("arrays", "says"), [
    ({"e0/w": np.ones(3)}, "one snapshot, e0"),
    ({"w": np.ones(3)}, "it holds w"),
    ({"sums/w": np.ones(3), "final/w": np.ones(3)}, "there is sums/w, but no initial/w"),
    ({"sums/w": np.ones(3), "final/w": np.ones(3), "initial/w": np.ones(2)}, "initial/w has shape"),
    ({"e0/": np.ones(3), "e1/": np.ones(3)}, "an array is named e0/"),
    ({"e0/w": np.full(3, 1e300), "e1/w": np.ones(3)}, "the changes of w are too large"),
    ({"sums/w": -np.ones(3), "final/w": np.ones(3), "initial/w": np.ones(3)}, "negative number"),
])  # fmt: skip
def test_what_is_wrong_with_sums_is_said(arrays: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    with pytest.raises(EspalierError, match=says) as caught:
        read(tmp_path, arrays)
    assert "history_invalid" == caught.value.code


def test_hostile_archives_are_judged_by_their_directory(tmp_path: Path) -> None:
    with pytest.raises(EspalierError) as caught:
        read(tmp_path, {f"e{epoch}/w": np.zeros(1 << 20) for epoch in range(3)}, max_bytes=1 << 24)
    assert ("data_too_large", "history") == (caught.value.code, caught.value.failure.where)
    for name in ("e" + "9" * 5000 + "/w", "e1/" + "w" * 5000):
        with pytest.raises(EspalierError, match=r"has 5,0\d\d characters") as caught:
            read(tmp_path, {"e0/w": np.zeros(3), name: np.ones(3)})
        assert "data_unreadable" == caught.value.code
        assert len(caught.value.failure.detail) < 200
    (tmp_path / "table.csv").write_text("1,2\n")
    with pytest.raises(EspalierError, match="the file is not an"):
        read_history(tmp_path / "table.csv", max_bytes=1 << 20)
    np.savez(tmp_path / "objects.npz", **{"e0/w": np.array([None]), "e1/w": np.ones(1)})
    with pytest.raises(EspalierError) as caught:
        read_history(tmp_path / "objects.npz", max_bytes=1 << 20)
    assert "data_object_array" == caught.value.code


def test_weights_that_an_exporter_renamed_and_transposed_are_found_by_their_last_values(tmp_path: Path) -> None:
    arrays = snapshots(matmul_mlp())
    named = {"w1": "layers.0.weight", "w2": "layers.1.weight"}
    renamed = {f"{key.split('/')[0]}/{named[key.split('/')[1]]}": array.T for key, array in arrays.items()}
    graph = dissect(matmul_mlp(), tmp_path).graph
    plain, found = (Sensitivities(read(tmp_path, one), graph, 0.1) for one in (arrays, renamed))
    for weight in ("w1", "w2"):
        np.testing.assert_allclose(plain(weight), found(weight))


def test_a_history_of_another_training_is_refused_with_what_was_found_and_what_was_wanted(tmp_path: Path) -> None:
    graph = dissect(mlp(), tmp_path).graph
    other = {key: array + 0.5 for key, array in snapshots(mlp()).items()}
    with pytest.raises(EspalierError, match=r"fc1.weight \(10x12\) ends in the history up to 0.5 away") as caught:
        Sensitivities(read(tmp_path, other), graph, None)("fc1.weight")
    assert "history_does_not_match" == caught.value.code
    with pytest.raises(EspalierError, match=r"as fc1.weight \(10x12\) of the model; it holds w \(3\)"):
        Sensitivities(read(tmp_path, {"e0/w": np.zeros(3), "e1/w": np.ones(3)}), graph, None)("fc1.weight")


def test_sensitivities_beyond_all_numbers_are_refused(tmp_path: Path) -> None:
    graph = dissect(mlp(), tmp_path).graph
    history = read(tmp_path, snapshots(mlp()))
    assert np.isfinite(Sensitivities(history, graph, 1e-100)("fc1.weight")).all()
    with pytest.raises(EspalierError, match=r"the sensitivities of fc1\.weight are too large") as caught:
        Sensitivities(history, graph, 1e-300)("fc1.weight")
    assert "history_invalid" == caught.value.code


def test_units_sum_the_sensitivities_of_their_incoming_weights(tmp_path: Path) -> None:
    dissected = dissect(cnn(), tmp_path)
    arrays = snapshots(cnn())
    found = Sensitivities(read(tmp_path, arrays), dissected.graph, 0.1)
    sums = found("c2.weight").sum(axis=(1, 2, 3))
    group = next(one for one in dissected.analysis.groups if one.name == "c2")
    evidence = gather(dissected.graph, group, (), sensitivities=found)
    steps = ranking(Karnin(of="units")).in_order(evidence)
    assert np.argsort(sums)[:-1].tolist() == [step.unit for step in steps]
    assert 0 == steps[0].score
    plain = ranking(Karnin(of="units", normalise="none")).in_order(evidence)
    assert pytest.approx(sums.min()) == plain[0].score
    by_size = np.abs(found("c2.weight")).sum(axis=(1, 2, 3))
    absolute = ranking(Karnin(of="units", normalise="abs", threshold=0.9)).by_threshold(evidence)
    assert np.flatnonzero(by_size < 0.9 * by_size.max()).tolist() == sorted(step.unit for step in absolute)


def test_without_normalisation_somebody_must_give_the_learning_rate(tmp_path: Path) -> None:
    graph = dissect(mlp(), tmp_path).graph
    history = read(tmp_path, snapshots(mlp()))
    with pytest.raises(EspalierError, match="holds no learning_rate") as caught:
        sensitivities(Karnin(normalise="none"), history, graph)
    assert "history_invalid" == caught.value.code
    given = sensitivities(Karnin(normalise="none", learning_rate=0.5), history, graph)
    plain = sensitivities(Karnin(), history, graph)
    assert given is not None
    assert plain is not None
    np.testing.assert_allclose(2 * plain("fc1.weight"), given("fc1.weight"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter through tracing
def test_what_the_recorder_writes_prunes_the_network_that_it_watched(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    recorder = runpy.run_path(str(RECORDER))["Recorder"](model, 0.1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    steps = [model[0].weight.detach().numpy().copy()]
    for _ in range(5):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        recorder.step()
        steps.append(model[0].weight.detach().numpy().copy())
    recorder.save(tmp_path / "history.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x[:1],), str(tmp_path / "m.onnx"), dynamic_axes={"x": {0: "n"}}, input_names=["x"],
                          dynamo=False, opset_version=17)  # fmt: skip
    inputs = Inputs(as_input(tmp_path / "m.onnx"), {}, None, None, as_input(tmp_path / "history.npz"))
    options = parse_options({"criterion": {"name": "karnin", "threshold": 0.45}, "scope": {"include": ["0*"]}})
    report = prune(options, inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    scores = naive(steps, 0.1)
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    pruned = onnx.load(tmp_path / "artifact.onnx").graph.initializer
    after = {one.name: onnx.numpy_helper.to_array(one) for one in pruned}
    assert ((scores < 0.45) == (after["0.weight"] == 0)).all()
    assert 0 < (scores < 0.45).sum() < scores.size
    assert inputs.history is not None
    assert inputs.history.sha256 == report.provenance.history_sha256
    assert report.exactness.passed


def test_a_job_without_its_history_is_refused(tmp_path: Path) -> None:
    inputs = Inputs(as_input(save(mlp(), tmp_path)), {}, None, None)
    options = parse_options({"criterion": {"name": "karnin"}, "amount": {"remove_weights": 0.5}})
    with pytest.raises(EspalierError) as caught:
        prune(options, inputs, tmp_path, Limits(1, 1 << 30), lambda _: None)
    assert "history_required" == caught.value.code
