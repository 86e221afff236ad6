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

UPLOADS_KEPT_SECONDS = 86400.0


@contextmanager
def workspace(home: Path, name: str) -> Iterator[Path]:
    """An empty folder `tmp/work/<name>`, gone afterwards."""
    folder = home.resolve() / "tmp" / "work" / name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EspalierError("storage_unavailable", str(error), where="tmp/work") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(home: Path, now: float) -> list[str]:
    """Remove folders whose worker is dead, and uploads that broke off long ago; their names."""
    removed = []
    for folder in sorted((home.resolve() / "tmp" / "work").glob("*")):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A folder made a moment ago may not be locked yet.
                if now - folder.stat().st_mtime > 1.0:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder.name)
            finally:
                os.close(lock)
    for upload in sorted((home.resolve() / "tmp").glob("upload-*")):
        with contextlib.suppress(OSError):
            if now - upload.stat().st_mtime > UPLOADS_KEPT_SECONDS:
                upload.unlink()
                removed.append(upload.name)
    return removed
