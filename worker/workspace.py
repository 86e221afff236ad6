"""The folder of one attempt: made, locked, removed; and the folders that dead workers left behind.

In: the home folder. Out: a path that is this process' own. Refused: nothing. The lock ends with the process, so a
folder without one belongs to nobody.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import EspalierError


@contextmanager
def workspace(home: Path, name: str) -> Iterator[Path]:
    """An empty folder `tmp/work/<name>`, gone afterwards."""
    folder = home.resolve() / "tmp" / "work" / name
    try:
        with _alone(home):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            lock = _locked(folder)
    except OSError as error:
        detail = f"{type(error).__name__}: {error.strerror or error}"
        raise EspalierError("storage_unavailable", detail, where="tmp/work") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(home: Path) -> list[str]:
    """Remove folders whose worker is dead; their names."""
    removed = []
    with _alone(home):
        for folder in sorted((home.resolve() / "tmp" / "work").glob("*")):
            with contextlib.suppress(OSError):
                lock = _locked(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
                removed.append(folder.name)
    return removed


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Nobody sweeps between the making of a folder and its locking."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    with (home / "tmp" / "work.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder's lock; raises where somebody else has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
