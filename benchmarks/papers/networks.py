"""Trains networks on the CPU and keeps them as ONNX files under out/ (never committed).

In: a recipe, samples and labels, a seed. Out: the path of the file, from the cache or trained now. Equal seeds give
equal networks. Snapshots of every epoch lie beside the file where a recipe asks for them: the history that Karnin's
sensitivity reads. Input `input`, output `logits`, the batch left open.
"""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.papers.bench import OUT

CACHE_VERSION = 1  # raise it when a training changes, so that older files are not taken for new ones
Optimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained. `snapshots`: its weights are kept after every epoch."""

    name: str
    build: Callable[[], nn.Module]
    optimiser: Optimiser
    batch: int
    epochs: int
    snapshots: bool = False


def adam(rate: float) -> Optimiser:
    return lambda parameters: torch.optim.Adam(parameters, rate)


def sgd(rate: float) -> Optimiser:
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum=0.9)


def rows(*widths: int, between: Callable[[], nn.Module], bias: bool = True) -> nn.Sequential:
    """Fully connected layers fc1, fc2, ... with an activation between them."""
    layers: dict[str, nn.Module] = {}
    for at, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"fc{at}"] = nn.Linear(before, after, bias=bias)
        layers[f"act{at}"] = between()
    layers.popitem()
    return nn.Sequential(OrderedDict(layers))


def trained(recipe: Recipe, x: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> Path:
    path = OUT / f"{recipe.name}_{seed}_v{CACHE_VERSION}.onnx"
    if path.exists():
        return path
    OUT.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    torch.manual_seed(seed)
    model = recipe.build()
    told = [_weights(model)]

    def snapshot() -> None:
        if recipe.snapshots:
            told.append(_weights(model))

    fit(model, x, y, recipe.optimiser(model.parameters()), recipe.batch, recipe.epochs, seed, snapshot)
    if recipe.snapshots:
        members = {f"e{at}/{name}": array for at, one in enumerate(told) for name, array in one.items()}
        np.savez(history(path), **members)  # type: ignore[arg-type]  # numpy's own keywords are none of ours
    export(model, x[:2], path, "input")
    print(f"  trained {recipe.name} with seed {seed} in {time.perf_counter() - begun:.0f} s", flush=True)
    return path


def history(path: Path) -> Path:
    """The snapshots that belong to a network."""
    return path.with_name(f"{path.stem}_epochs.npz")


def _weights(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def fit(
    model: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    optimiser: torch.optim.Optimizer,
    batch: int,
    epochs: int,
    seed: int,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Cross-entropy, in an order that the seed draws. `after` is called after every epoch. On one thread: such steps
    are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.train()
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for some in torch.split(torch.randperm(len(images), generator=order), batch):
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(images[some]), labels[some]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
        after()
    model.eval()
    torch.set_num_threads(threads)


def export(model: nn.Module, example: NDArray[np.float32], path: Path, name: str = "image") -> None:
    """Under a name of its own first: an interrupted export must not be taken for a cached network."""
    unfinished = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter that keeps the weights' names
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        torch.onnx.export(
            model,
            (torch.from_numpy(example),),
            str(unfinished),
            input_names=[name],
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    unfinished.replace(path)
