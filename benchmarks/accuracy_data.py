"""Calibration and test samples of real data, as files that a job takes.

In: the folder of data, a name, a model. Out: `Material`. Calibration never holds test samples, but for the
photographs, of which there are too few. Its labels are left out: nothing of ours learns them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

CALIBRATION = {"cifar": 1_000, "mnist": 10_000, "fashion_mnist": 2_000, "imagenet": 100}
CIFAR: Mapping[str, object] = {
    "scale": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "layout": "NHWC",
}  # fmt: skip
RIVALS = 1_000  # calibration samples
HALVED: Mapping[str, object] = {"scale": 255, "mean": [0.5], "std": [0.5], "layout": "NHWC"}
Images = npt.NDArray[np.generic]


class OfModel(Protocol):
    @property
    def model(self) -> str: ...


Row = TypeVar("Row", bound=OfModel)


def chosen(rows: Sequence[Row], only: str) -> list[Row]:
    """Those with `only` in the names of their models. The program ends where there is none."""
    found = [row for row in rows if only in row.model]
    if not found:
        raise SystemExit(f"--only {only}: no such network here. There are {', '.join({row.model: 0 for row in rows})}")
    return found


@dataclass(frozen=True)
class Material:
    """`ready` are test samples as the model wants them; `rival_calibration` calibration samples likewise."""

    calibration: Path
    evaluation: Path
    rival_calibration: Path
    preprocess: Mapping[str, object]
    ready: Images
    labels: npt.NDArray[np.int64]
    words: str

    def accuracy(self, model: Path) -> float:
        """Top-1, in onnxruntime."""
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        name, hits = session.get_inputs()[0].name, 0
        for start in range(0, len(self.ready), 500):
            found = np.asarray(session.run(None, {name: self.ready[start : start + 500]})[0])
            rows = found.reshape(len(found), -1).argmax(axis=1)
            hits += int((rows == self.labels[start : start + 500]).sum())
        return hits / len(self.ready)


def material(folder: Path, data: str, model: str, most: int | None, work: Path, count: int | None = None) -> Material:
    """Write the files of one kind of data for one model: `most` test samples, `count` calibration samples."""
    found = _samples(folder, data, model, count or CALIBRATION[data])
    fit, preprocess, name = found.fit, found.preprocess, found.name
    test, labels = found.test[:most], found.labels[:most].astype(np.int64)
    calibration, evaluation = work / "calibration.npz", work / "evaluation.npz"
    np.savez(calibration, **{name: fit})
    np.savez(evaluation, **{name: test, "labels": labels})
    rival = work / "rival.npz"
    np.savez(rival, **{name: _ready(fit[:RIVALS], preprocess), "labels": found.taught[:RIVALS].astype(np.int64)})
    words = f"{len(fit):,} calibration samples without labels, {len(test):,} test samples"
    return Material(calibration, evaluation, rival, preprocess, _ready(test, preprocess), labels, words)


@dataclass(frozen=True)
class _Found:
    """`taught`: the labels of `fit`, which only a rival gets to see."""

    fit: Images
    taught: Images
    test: Images
    labels: Images
    preprocess: Mapping[str, object]
    name: str


def _samples(folder: Path, data: str, model: str, count: int) -> _Found:
    if data == "cifar":
        train, test = np.load(folder / "cifar10_train5k.npz"), np.load(folder / "cifar10_test.npz")
        preprocess = HALVED if "lenet" in model else CIFAR
        return _Found(train["x"][:count], train["y"][:count], test["x"], test["y"], preprocess, "input")
    if data == "imagenet":
        return _photographs(folder, count)
    held = np.load(folder / f"{data}.npz")
    shape = (-1, 1, 28, 28) if "cnn" in model else (-1, 784)
    fit, test = held["x_train"][:count].reshape(shape), held["x_test"].reshape(shape)
    return _Found(fit, held["y_train"][:count], test, held["y_test"], {"scale": 255}, "input")


def _photographs(folder: Path, count: int) -> _Found:
    """All 200 photographs judge. Half of them, mirrored and without labels, calibrate: there are no others."""
    from PIL import Image

    held = np.load(folder / "imagenet_sample200_224.npz")
    ends = held["offsets"]
    rows = [
        np.asarray(Image.open(BytesIO(held["jpeg"][start:end].tobytes())).convert("RGB"))
        for start, end in pairwise(ends)
    ]
    images = np.stack(rows)
    preprocess = {"mean": [104, 117, 123], "layout": "NHWC", "channels": "BGR"}
    return _Found(images[::2][:count, :, ::-1], held["y"][::2][:count], images, held["y"], preprocess, "data_0")


def _ready(images: Images, preprocess: Mapping[str, object]) -> Images:
    values = images.astype(np.float32) / np.float32(preprocess.get("scale", 1))
    if preprocess.get("channels") == "BGR":
        values = values[..., ::-1]
    if "mean" in preprocess:
        values = (values - np.asarray(preprocess["mean"], np.float32)) / np.asarray(
            preprocess.get("std", 1), np.float32
        )
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if preprocess.get("layout") == "NHWC" else values
