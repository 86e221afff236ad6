"""A home folder belongs to one embedded service at a time.

In: the folder. Out: a `Claim`, held as a file lock that ends with the process, and what the holder says of itself (its
address, its Redis). Refused, as `HomeError`: a folder that cannot be written, and one that another service holds.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

LOCK = "serve.lock"


class HomeError(Exception):
    """The home folder cannot be used."""


class Holder(BaseModel):
    """What a running embedded service writes into its lock file."""

    pid: int
    url: str = ""
    redis_url: str = ""


@dataclass(frozen=True)
class Claim:
    file: IO[str]

    def announce(self, holder: Holder) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(holder.model_dump_json() + "\n")
        self.file.flush()

    def release(self) -> None:
        """The file stays: removing it would let two services lock two files of one name."""
        self.file.seek(0)
        self.file.truncate()
        self.file.close()


def claim(home: Path) -> Claim:
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / LOCK).open("a+")
    except OSError as error:
        raise HomeError(
            f"the home folder {home} cannot be written: {error.strerror}; choose another with --home"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        other = holder_of(home)
        who = f"process {other.pid} at {other.url or 'an address not known yet'}" if other else "another process"
        raise HomeError(f"the home folder {home} is in use by {who}; stop it, or choose another with --home") from None
    held = Claim(file)
    held.announce(Holder(pid=os.getpid()))
    return held


def holder_of(home: Path) -> Holder | None:
    """Who holds the folder, as far as it has said so."""
    try:
        return Holder.model_validate_json((home / LOCK).read_bytes())
    except (OSError, ValidationError):
        return None
