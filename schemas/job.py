"""A job as its owner sees it, its states, its events, and the documents that outlive Redis.

In: nothing. Out: `Job` (what GET /jobs/{id} answers), `SubmitManifest` (on disk before the 202) and `ResultManifest`
(on disk before the job is called succeeded).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from schemas.errors import Failure
from schemas.files import ARTIFACT, MOST_FILES, REPORTS
from schemas.kinds import REQUESTS, JobRequest
from schemas.request import JobKind

BLOB_PATTERN = r"^sha256:[0-9a-f]{64}$"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _of_its_kind(raw: Any, info: ValidationInfo) -> Any:
    """Options of an inspection would also pass as options of a pruning: the document's `kind`, before them, decides."""
    kind = info.data.get("kind", "prune")
    if isinstance(raw, Mapping):
        return REQUESTS[kind].model_validate(raw)
    if raw is not None and raw.kind != kind:
        raise ValueError(f"these are no options of kind {kind!r}")
    return raw


RequestOfKind = Annotated[JobRequest, BeforeValidator(_of_its_kind)]


class BlobRef(_Document):
    """A file by its content. `name` is what its uploader called it; only people read it."""

    blob: str = Field(pattern=BLOB_PATTERN, description="sha256:<hex>")
    bytes: int = Field(ge=0)
    name: str = ""


class JobInputs(_Document):
    """The files of one job. `external` maps the locations that the model names to the files' content."""

    model: BlobRef
    external: dict[str, BlobRef] = Field(default_factory=dict)
    calibration: BlobRef | None = None
    evaluation: BlobRef | None = None
    history: BlobRef | None = None

    def all(self) -> tuple[BlobRef, ...]:
        given = (self.model, *self.external.values(), self.calibration, self.evaluation, self.history)
        return tuple(ref for ref in given if ref is not None)


class SubmitManifest(_Document):
    """Everything needed to run the job again if Redis loses it."""

    version: Literal[1] = 1
    id: str
    kind: JobKind = "prune"
    owner: str = Field(description="The name of the API key; never the key.")
    created_at: float = Field(description="Seconds since the epoch.")
    queue: Literal["cpu", "gpu"]
    options: RequestOfKind
    inputs: JobInputs
    idempotency_key: str | None = None
    body_sha256: str = Field(description="Hash of options and inputs: tells a repeat from another request.")


class Verdict(_Document):
    """Whether the caller's constraints hold. Without constraints it is met."""

    met: bool
    broken: tuple[str, ...] = Field(default=(), description="One sentence for each constraint that does not hold.")


class JobResult(_Document):
    """What a succeeded job leaves behind: its files and the verdict. An inspection makes no artifact."""

    artifact: BlobRef | None
    report_json: BlobRef
    report_html: BlobRef
    report_md: BlobRef
    files: tuple[BlobRef, ...] = Field(default=(), max_length=MOST_FILES, description="Further files, by their names.")
    verdict: Verdict

    def named(self) -> dict[str, BlobRef]:
        """Every file by the name that it is fetched by."""
        reports = (self.report_json, self.report_html, self.report_md)
        fixed = {} if self.artifact is None else {ARTIFACT: self.artifact}
        return fixed | dict(zip(REPORTS, reports, strict=True)) | {ref.name: ref for ref in self.files}

    def all(self) -> tuple[BlobRef, ...]:
        return tuple(self.named().values())


class ResultManifest(_Document):
    """How a job ended, as a file: what Redis is told afterwards."""

    version: Literal[1] = 1
    id: str
    attempt: int
    finished_at: float
    state: JobState
    result: JobResult | None = None
    failure: Failure | None = None


class Progress(_Document):
    """Where a running job stands. `fraction` is of the whole job."""

    stage: str = ""
    fraction: float = Field(default=0.0, ge=0, le=1)
    message: str = ""


class JobLinks(_Document):
    self: str
    events: str
    cancel: str
    artifact: str | None = None
    artifacts: str | None = None
    report: str | None = None


class Job(_Document):
    """The answer to GET /jobs/{id}."""

    id: str
    kind: JobKind = "prune"
    state: JobState
    attempt: int = Field(ge=0, description="How often a worker has started it; three attempts at most.")
    cancel_requested: bool = False
    progress: Progress = Field(default_factory=Progress)
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    options: RequestOfKind
    inputs: JobInputs
    result: JobResult | None = None
    failure: Failure | None = None
    links: JobLinks


class JobPage(_Document):
    jobs: tuple[Job, ...]
    next: str | None = Field(default=None, description="Give it as ?cursor= for the next page.")


class JobEvent(_Document):
    """One event of a job. `id` is what a client sends back as Last-Event-ID."""

    id: str
    type: Literal["state", "progress", "log"]
    state: JobState | None = None
    attempt: int | None = None
    progress: Progress | None = None
    at: float
