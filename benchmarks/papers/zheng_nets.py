"""Trains the networks of Zheng's paper on MNIST and keeps them as ONNX files.

In: a network's name, a seed, the folder of MNIST. Out: the path of the ONNX file, under out/ (never committed), and the
accuracy on the test images. Settings as in the paper: the first 20,000 training and the first 2,000 test images, Adam
0.005, batches of 100; the CNN 10 epochs, the FNN 100. The paper does not say how pixels were scaled, and the FNN
depends on it: it is trained on pixels in 0..1, and once more on pixels of mean 0 and standard deviation 1.
"""

import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.papers.networks import export, fit

Net = Literal["cnn", "fnn", "fnn-normalised"]
TRAINING = 20_000
TESTING = 2_000
BATCH = 100
RATE = 0.005
EPOCHS: dict[Net, int] = {"cnn": 10, "fnn": 100, "fnn-normalised": 100}
MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, scaled to 0..1
CACHE_VERSION = 1  # raise it when the training changes, so that older files are not taken for new ones


@dataclass(frozen=True)
class Digits:
    """MNIST as the paper cuts it, scaled to 0..1, with an axis for the channel."""

    train: NDArray[np.float32]  # (20000, 1, 28, 28)
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]  # (2000, 1, 28, 28)
    test_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    net: Net
    seed: int
    path: Path
    accuracy: float


def load_digits(folder: Path) -> Digits:
    """MNIST from an .npz with x_train, y_train, x_test, y_test."""
    with np.load(folder / "mnist.npz") as file:

        def images(name: str, count: int) -> NDArray[np.float32]:
            return np.asarray(file[name][:count, None], np.float32) / np.float32(255)

        return Digits(
            images("x_train", TRAINING),
            file["y_train"][:TRAINING].astype(np.int64),
            images("x_test", TESTING),
            file["y_test"][:TESTING].astype(np.int64),
        )


def shaped(net: Net, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images in 0..1 in the shape that the network takes."""
    return images if net == "cnn" else images.reshape(len(images), -1)


def fed(net: Net, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images as the network takes them, normalised where it was trained so."""
    flat = shaped(net, images)
    return (flat - np.float32(MEAN)) / np.float32(STD) if net == "fnn-normalised" else flat


def build(net: Net) -> nn.Sequential:
    """conv10x5-pool-conv20x5-pool-fc64-fc10 with ReLU, or 784-64(sigmoid)-10."""
    if net != "cnn":
        return nn.Sequential(
            OrderedDict([("fc1", nn.Linear(784, 64)), ("sigmoid", nn.Sigmoid()), ("fc2", nn.Linear(64, 10))])
        )
    return nn.Sequential(
        OrderedDict(
            [
                ("conv1", nn.Conv2d(1, 10, 5)),
                ("relu1", nn.ReLU()),
                ("pool1", nn.MaxPool2d(2)),
                ("conv2", nn.Conv2d(10, 20, 5)),
                ("relu2", nn.ReLU()),
                ("pool2", nn.MaxPool2d(2)),
                ("flatten", nn.Flatten()),
                ("fc1", nn.Linear(320, 64)),
                ("relu3", nn.ReLU()),
                ("fc2", nn.Linear(64, 10)),
            ]
        )
    )


def trained(net: Net, seed: int, digits: Digits, folder: Path) -> Trained:
    """The network with this seed: from the cache, or trained now (seconds for the CNN, half a minute for the FNN)."""
    path = folder / f"zheng_{net}_{seed}_v{CACHE_VERSION}.onnx"
    facts = path.with_suffix(".json")
    if path.exists() and facts.exists():
        return Trained(net, seed, path, json.loads(facts.read_text())["accuracy"])
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    model = _train(net, seed, digits)
    accuracy = _accuracy(model, fed(net, digits.test), digits.test_labels)
    export(model, fed(net, digits.test[:2]), path)
    facts.write_text(json.dumps({"net": net, "seed": seed, "accuracy": accuracy}))
    print(
        f"  trained {net} with seed {seed}: {100 * accuracy:.2f} % in {time.perf_counter() - begun:.0f} s", flush=True
    )
    return Trained(net, seed, path, accuracy)


def _train(net: Net, seed: int, digits: Digits) -> nn.Sequential:
    torch.manual_seed(seed)
    model = build(net)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    fit(model, fed(net, digits.train), digits.train_labels, optimiser, BATCH, EPOCHS[net], seed)
    return model


def _accuracy(model: nn.Sequential, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    with torch.no_grad():
        said = model(torch.from_numpy(images)).argmax(1).numpy()
    return float((said == labels).mean())
