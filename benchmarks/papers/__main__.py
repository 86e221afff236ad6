"""The five papers: `python -m benchmarks.papers [--quick] [--paper NAME]`, or `make bench-papers`.

In: seeds/, mnist, fashion_mnist and cifar10_test in ESPALIER_DATA (default ../shared/data), and scikit-learn's data.
Out: each paper's table beside ours, what differs and why; out/papers/<paper>.json, .png and .svg. Exit code 1 where a
paper says of itself that its claim does not hold here.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.folder import needed
from benchmarks.papers import fathollahi, ghosh, khanal, wolfe, zheng

PAPERS: Mapping[str, Callable[[bool], bool]] = {
    "zheng": zheng.show,
    "ghosh": ghosh.show,
    "khanal": khanal.show,
    "fathollahi": fathollahi.show,
    "wolfe": wolfe.show,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one training and a few points of each, for a look")
    parser.add_argument("--paper", choices=tuple(PAPERS), action="append", help="only this paper; repeatable")
    options = parser.parse_args(argv)
    needed()
    held = []
    for name in options.paper or PAPERS:
        begun = time.perf_counter()
        print(f"\n==== {name}", flush=True)
        held.append(PAPERS[name](options.quick))
        print(f"({name}: {time.perf_counter() - begun:.0f} s)", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
