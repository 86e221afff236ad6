"""A small convolutional network on scikit-learn's digits, trained in seconds: something to prune.

Writes out/digits.onnx, out/calibration.npz (the training images, with labels) and out/evaluation.npz (images that the
network has not seen). Seeded: the same machine makes the same network. Run it with `make example`.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

SEED = 0
EPOCHS = 30
BATCH = 64
TRAINING_IMAGES = 1297  # of 1,797; the other 500 judge


class Digits(nn.Module):
    """8 x 8 grey images to ten classes. Wider than the task needs, as networks usually are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 48, 3, padding=1)
        self.fc1 = nn.Linear(48 * 2 * 2, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # (samples, 1, 8, 8) -> (samples, 10)
        x = nn.functional.max_pool2d(torch.relu(self.conv1(image)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))


def images() -> tuple[np.ndarray, np.ndarray]:
    """Every image once, shuffled: pixels between 0 and 1, and the digits."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    pixels = (digits.images[order, None] / 16).astype(np.float32)
    return pixels, digits.target[order].astype(np.int64)


def train(pixels: np.ndarray, labels: np.ndarray) -> Digits:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # so small a network gains nothing from more
    x, y = torch.from_numpy(pixels), torch.from_numpy(labels)
    model = Digits()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.002)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval()


def export(model: Digits, path: Path) -> None:
    with warnings.catch_warnings():
        # The exporter through tracing keeps the layers' names; that it is the older one is known.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            do_constant_folding=False,
            dynamo=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder to write into (default: out)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    pixels, labels = images()
    seen, unseen = slice(None, TRAINING_IMAGES), slice(TRAINING_IMAGES, None)
    model = train(pixels[seen], labels[seen])
    with torch.no_grad():
        right = model(torch.from_numpy(pixels[unseen])).argmax(1).numpy() == labels[unseen]
    export(model, out / "digits.onnx")
    np.savez_compressed(out / "calibration.npz", image=pixels[seen], labels=labels[seen])
    np.savez_compressed(out / "evaluation.npz", image=pixels[unseen], labels=labels[unseen])
    print(f"{out}/digits.onnx: {right.mean():.2%} of {right.size} unseen images right; the data lie beside it")


if __name__ == "__main__":
    main()
