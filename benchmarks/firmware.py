"""Small networks as firmware, from one command: `python -m benchmarks.firmware`, or `make bench-embedded`.

Prunes each network in ESPALIER_DATA/seeds (default ../shared/data/seeds) by half of its units, compiles it as uploaded
and as pruned for both processors, and prints the report's estimates beside what the linked image and the emulator say.

In: the networks, and MNIST or CIFAR-10 samples. Out: a table. Exit code 1 where a claim does not hold: estimates of
flash (weights) and of RAM (arena) are within 10 % of the image's constants and of its arena with the stack, and outputs
are within 1e-4 of onnxruntime's.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx

from benchmarks.folder import needed
from schemas.device import Processor
from schemas.request import parse_options
from worker.engine.embedded import toolchain
from worker.engine.embedded.check import compiled
from worker.engine.graph import Array
from worker.engine.run import InputFile, Inputs, Limits, prune

NETWORKS = ("cnn_mnist", "lenet_cifar", "mlp100_mnist", "mlp50x50_mnist", "fnn_mnist")
PROCESSORS: tuple[Processor, ...] = ("cortex-m4", "cortex-m7")
HALF = {"criterion": {"name": "magnitude"}, "amount": {"remove_units": 0.5}}
SAMPLES = 3
MOST_OFF, MOST_DIFFERENT = 0.10, 1e-4


@dataclass(frozen=True)
class Row:
    """One model on one processor: estimated and measured bytes, instructions, and the difference of its outputs."""

    network: str
    state: str
    processor: Processor
    flash: tuple[int, int]
    program: int
    ram: tuple[int, int]
    stack: int
    macs: int
    instructions: int
    difference: float

    def holds(self) -> bool:
        off = max(abs(guess / there - 1) for guess, there in (self.flash, self.ram))
        return off <= MOST_OFF and self.difference <= MOST_DIFFERENT

    def text(self) -> str:
        flash, ram = (f"{guess:>8,} {there:>8,} {guess / there - 1:>+7.1%}" for guess, there in (self.flash, self.ram))
        per_mac = self.instructions / self.macs
        return (
            f"{self.network:<15} {self.state:<6} {self.processor:<9} {flash} {self.program:>7,} {ram} {self.stack:>5,} "
            f"{self.instructions:>11,} {per_mac:>5.1f} {self.difference:>8.1e}{'' if self.holds() else '  FAILS'}"
        )


HEAD = (
    f"{'':<15} {'':<6} {'':<9} {'flash in bytes':<25} {'':>7} {'RAM in bytes':<25}\n"
    f"{'network':<15} {'model':<6} {'processor':<9} {'weights':>8} {'.rodata':>8} {'off':>7} {'.text':>7} "
    f"{'arena':>8} {'+ stack':>8} {'off':>7} {'stack':>5} {'instructions':>12} {'/MAC':>4} {'differs':>8}"
)


def samples_for(network: str, data: Path, count: int) -> Array:
    """Real images in the shape that the network takes."""
    if network.endswith("cifar"):
        found = np.load(data / "cifar10_test.npz")
        images = found[next(key for key in found.files if found[key].ndim == 4)][:count].astype(np.float32) / 255
        return images if images.shape[1] == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    images = np.load(data / "mnist.npz")["x_test"][:count].astype(np.float32) / 255
    return images[:, None] if network.startswith("cnn") else images.reshape(count, -1)


def rows(network: str, data: Path, tools: toolchain.Toolchain, folder: Path) -> Iterator[Row]:
    path = data / "seeds" / f"{network}.onnx"
    feeds = [{"input": one[None]} for one in samples_for(network, data, SAMPLES)]
    source = InputFile(path, sha256(path.read_bytes()).hexdigest(), path.name, path.stat().st_size)
    work = folder / network
    work.mkdir()
    limits = Limits(threads=1, max_data_bytes=1 << 30)
    report = prune(parse_options(HALF), Inputs(source, {}, None, None), work, limits, lambda _: None)
    for state, model, side in (("whole", path, report.before), ("pruned", work / "artifact.onnx", report.after)):
        for processor in PROCESSORS:
            place = work / f"{state}-{processor}"
            place.mkdir()
            made = compiled(onnx.load(model), feeds, processor, tools, place)
            yield Row(
                network=network,
                state=state,
                processor=processor,
                flash=(side.flash_bytes, made.image.weights_bytes),
                program=made.image.program_bytes,
                ram=(side.peak_ram_bytes, made.image.arena_bytes + made.run.stack_bytes),
                stack=made.run.stack_bytes,
                macs=side.macs,
                instructions=made.run.instructions,
                difference=made.difference,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="Small networks as firmware: estimates beside measurements.")
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="of ESPALIER_DATA/seeds")
    networks = parser.parse_args().networks
    data = needed()
    tools = toolchain.find()
    failed = 0
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="espalier-firmware-") as folder:
        for network in networks:
            for row in rows(network, data, tools, Path(folder)):
                print(row.text(), flush=True)
                failed += not row.holds()
    print(f"{failed} rows fail" if failed else "every estimate is within 10 %, every output within 1e-4")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
