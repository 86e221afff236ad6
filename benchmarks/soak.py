"""Jobs for minutes while parts of the service are killed; fails on any loss.

Submits small jobs without pause, kills Redis, the API, the worker or a job's process every few seconds, then waits for
every job. Each must have succeeded with one result, nothing but results may be left on disk, and the API's memory must
not have grown much. Run it with `make soak`; SOAK_ARGS="--minutes 30" for longer.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving import serving, until_ready
from schemas.errors import EspalierError
from schemas.job import JobState
from schemas.request import PruneRequest
from service.client import Client

ROOT = Path(__file__).parents[1]
VICTIMS = ("redis.sock", "service.api", "worker.app", "worker.launcher")
MOST_GROWTH_BYTES = 64 << 20


@dataclass(frozen=True)
class Embedded:
    pid: int
    client: Client


def victims(service: Embedded, words: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(service.pid).children(recursive=True):
        try:
            if words in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill_one(service: Embedded, dice: random.Random) -> str:
    words = dice.choice(VICTIMS)
    for process in victims(service, words)[:1]:
        process.kill()
        return words
    return f"no {words} to kill"


def resident(service: Embedded) -> int:
    return sum(process.memory_info().rss for process in victims(service, "service.api"))


def work(service: Embedded, folder: Path, seconds: float, pause: float, dice: random.Random) -> list[str]:
    """Submit until the time is up; the jobs' ids."""
    ids: list[str] = []
    began = killed = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            job = service.client.submit(
                folder / "digits.onnx", PruneRequest(seed=len(ids)), calibration=folder / "calibration.npz"
            )
            ids.append(job.id)
        except EspalierError as error:
            print(f"  refused: {error.code}")
        if time.monotonic() - killed > pause:
            killed = time.monotonic()
            print(
                f"  {killed - began:5.0f} s, {len(ids)} jobs submitted; killing: {kill_one(service, dice)}", flush=True
            )
        while len(ids) > 20 and not service.client.get(ids[-20]).state.finished:
            time.sleep(0.1)
    return ids


def lost(service: Embedded, ids: list[str], home: Path) -> list[str]:
    """What went wrong, one sentence each."""
    wrong = []
    results = set()
    for job_id in ids:
        job = service.client.wait(job_id)
        if job.state is not JobState.SUCCEEDED or job.result is None:
            wrong.append(f"job {job_id} ended as {job.state}: {job.failure}")
        else:
            results |= {ref.blob.removeprefix("sha256:") for ref in job.result.all()}
    time.sleep(1)
    stray = [path.name for path in (home / "blobs").rglob("*") if path.is_file() and path.name not in results]
    missing = [name for name in results if not (home / "blobs" / name[:2] / name).is_file()]
    left = [path.name for path in (home / "tmp" / "work").glob("*")]
    wrong += [f"{len(stray)} blobs that nothing refers to"] if stray else []
    wrong += [f"{len(missing)} results without their file"] if missing else []
    wrong += [f"{len(left)} folders of jobs that have ended"] if left else []
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--kill-every", type=float, default=8.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example = [sys.executable, str(ROOT / "examples/digits.py"), "--out", name]
        subprocess.run(example, check=True, stdout=subprocess.DEVNULL)
        # Jobs whose processes we kill ourselves are no poison: they may start more often than three times.
        settings = {"ESPALIER_LEASE_SECONDS": "3", "ESPALIER_MAX_ATTEMPTS": "100"}
        with serving(**settings) as (url, pid, home), Client(url) as client:
            until_ready(url)
            service = Embedded(pid, client)
            before = resident(service)
            ids = work(service, folder, 60 * given.minutes, given.kill_every, random.Random(given.seed))
            wrong = lost(service, ids, home)
            grown = resident(service) - before
    wrong += [f"the API holds {grown >> 20} MiB more than at the start"] if grown > MOST_GROWTH_BYTES else []
    print(f"{len(ids)} jobs; the API's memory changed by {grown / 2**20:+.1f} MiB")
    if wrong:
        raise SystemExit("soak FAILED\n" + "\n".join(f"  {one}" for one in wrong))
    print("soak passed: every job succeeded once, nothing was lost, nothing was left behind")


if __name__ == "__main__":
    main()
