"""Thousands of random graphs: `make fuzz`.

    python -m tests.fuzz [--graphs 3000] [--first 0] [--favour Split Gather] [--keep out/fuzz]

Prints every failure as a small program, keeps its file, and ends with 1 where there was one.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz.generate import generate
from tests.fuzz.oracle import judge
from tests.fuzz.shrink import reproducer, shrink


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--favour", nargs="*", default=[], help="operators to draw more often")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="where files of failing graphs go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    failures = groups = effective = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(given.first, given.first + given.graphs):
            program = generate(seed, given.favour)
            seen.update({node.op_type for node in program.nodes})
            verdict = judge(program, folder, seed)
            groups += verdict.groups
            effective += verdict.effective
            if verdict.failure is not None:
                failures += 1
                small, failure = shrink(program, verdict.failure, folder, seed)
                print(reproducer(small, failure, seed), flush=True)
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{seed}.onnx").write_bytes(small.checked().SerializeToString())
    print(f"{given.graphs:,} graphs, {groups:,} groups, {effective:,} graphs where the mask had an effect,")
    print(f"{len(seen)} operators: {', '.join(f'{op} {count}' for op, count in sorted(seen.items()))}")
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
