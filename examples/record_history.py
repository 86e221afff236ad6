"""Records how training changes the weights of a network: the history that the criterion `karnin` reads.

`Recorder` is all that a training loop needs; copy it, or import it. `python examples/record_history.py` trains the
network of digits.py with it and writes out/recorded.onnx and out/history.npz.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

LEARNING_RATE = 0.02
EPOCHS = 10


class Recorder:
    """Made before the first update, told of every epoch (or, more exactly, of every update), saved at the end."""

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.model, self.learning_rate = model, learning_rate
        self.initial = self.weights()
        self.last = self.initial
        self.sums = {name: np.zeros_like(array) for name, array in self.initial.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: one.detach().cpu().double().numpy().copy() for name, one in self.model.named_parameters()}

    def step(self) -> None:
        """Adds the squares of what has changed since the last call."""
        now = self.weights()
        for name, array in now.items():
            self.sums[name] += (array - self.last[name]) ** 2
        self.last = now

    def save(self, path: Path) -> None:
        parts = {"initial": self.initial, "sums": self.sums, "final": self.last}
        arrays = {f"{part}/{name}": array for part, ones in parts.items() for name, array in ones.items()}
        np.savez_compressed(path, learning_rate=self.learning_rate, **arrays)


def main() -> None:
    from digits import BATCH, SEED, TRAINING_IMAGES, Digits, export, images  # the file beside this one

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder to write into (default: out)")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pixels, labels = (torch.from_numpy(array[:TRAINING_IMAGES]) for array in images())
    model = Digits()
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    recorder = Recorder(model, LEARNING_RATE)
    for _ in range(given.epochs):
        for rows in torch.randperm(len(pixels)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
            optimiser.step()
        recorder.step()
    recorder.save(given.out / "history.npz")
    export(model.eval(), given.out / "recorded.onnx")
    print(f"{given.out}/recorded.onnx and {given.out}/history.npz: {given.epochs} epochs")


if __name__ == "__main__":
    main()
