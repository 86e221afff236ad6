"""What the worker tells the process of one job, and what that process says back: one JSON document, then JSON lines.

In: nothing. Out: `Order` (down, as a file beside the work folder) and `Line` (up, on a pipe of the job's own). Refused:
anything that does not fit; a confined process may have been taken over, so nothing it says is taken on trust.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.errors import Failure
from schemas.job import Progress, RequestOfKind
from schemas.request import JobKind
from worker.sandbox import Confinement, Level, Sandbox

Emit = Callable[[Progress], None]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Document):
    """An input of a job as a file: where it lies, and what it is."""

    path: Path
    sha256: str
    name: str
    bytes: int


class Sources(_Document):
    """All inputs of a job."""

    model: Source
    external: dict[str, Source]
    calibration: Source | None
    evaluation: Source | None
    history: Source | None = None

    def all(self) -> tuple[Source, ...]:
        given = (self.model, *self.external.values(), self.calibration, self.evaluation, self.history)
        return tuple(source for source in given if source is not None)


class Bounds(_Document):
    """What the process may use. `memory_bytes` limits the address space, which CUDA forbids; then only the worker
    watches what is resident. `torchscript`: a model may come as a program, if the process is confined at full level."""

    threads: int
    cpu_seconds: int
    memory_bytes: int | None
    file_bytes: int
    data_bytes: int
    sandbox: Literal["full", "best", "off"]
    cuda: bool
    torchscript: bool


class Toolbox(_Document):
    """Programs that a process may start, and the folders that they read."""

    programs: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()


class Order(_Document):
    """`prune`, `inspect`: run a job. `compile`: check its artifact as firmware. `verify`: judge the artifact. The
    artifact may name the files `beside` it."""

    kind: JobKind | Literal["compile", "verify"]
    workdir: Path
    bounds: Bounds
    request: RequestOfKind | None = None
    sources: Sources | None = None
    artifact: Path | None = None
    tools: Toolbox = Toolbox()
    beside: tuple[Path, ...] = ()

    def confined_to(self, level: Level) -> "Order":
        """The order as the process may carry it out, once it knows how far it is confined."""
        if level == "full":
            return self
        return self.model_copy(update={"bounds": self.bounds.model_copy(update={"torchscript": False})})

    def confinement(self) -> Confinement:
        """What the process of this order may do."""
        read = [source.path for source in self.sources.all()] if self.sources else []
        return Confinement(
            read=(*read, *([self.artifact] if self.artifact else []), *self.beside, *self.tools.folders),
            run=self.tools.programs,
            write=self.workdir,
            cpu_seconds=self.bounds.cpu_seconds,
            memory_bytes=self.bounds.memory_bytes,
            file_bytes=self.bounds.file_bytes,
            cuda=self.bounds.cuda,
        )


Work = Callable[[Order, Emit], None]


class Line(_Document):
    """One line of a job's process: exactly one of these. The last is `done` or `failure`."""

    confined: Sandbox | None = None
    progress: Progress | None = None
    done: Literal[True] | None = None
    failure: Failure | None = None
