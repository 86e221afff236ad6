"""The Python client: submit a job, follow it, fetch what it made.

In: an address, an API key, files and options. Out: the documents of `schemas`. Every refusal is an `EspalierError` with
the code that the service sent (or `service_unreachable`, `response_invalid`, `download_corrupt`). Needs httpx and
schemas only.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TypeVar
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from schemas.device import DeviceProfile, TargetList
from schemas.errors import EspalierError, Failure, nearest
from schemas.files import ResultFile, ResultFiles, is_weights
from schemas.inspection import Inspection
from schemas.job import Job, JobEvent, JobPage, Progress
from schemas.kinds import JobRequest
from schemas.report import Report
from schemas.sweep_report import SweepReport
from service.files import replacing

DEFAULT_SERVER = "http://127.0.0.1:8000"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ATTEMPTS = 5
LONGEST_PAUSE = 10.0
CHUNK = 1 << 18
# Refusals that pass by themselves; a missing device does not.
PASSING = ("state_unavailable", "storage_unavailable", "queue_full", "too_many_jobs")

Model = TypeVar("Model", bound=BaseModel)
ReportKind = Literal["json", "html", "md"]


class Client:
    """One Espalier service. `transport` and `sleep` are seams for tests."""

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        api_key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_seconds: float = 90.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sleep = sleep
        headers = {"User-Agent": "espalier-client"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        try:
            host = httpx.URL(base_url).host
            self._http = httpx.Client(
                base_url=base_url,
                headers=headers,
                transport=transport,
                timeout=httpx.Timeout(timeout_seconds, connect=10.0),
                trust_env=host not in LOOPBACK,  # a company's proxy does not reach our own machine
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise EspalierError("service_unreachable", f"{base_url!r} is not an address: {error}") from None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        model: Path,
        options: JobRequest,
        *,
        calibration: Path | None = None,
        evaluation: Path | None = None,
        history: Path | None = None,
        external: Mapping[str, Path] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Upload and queue. Repeated with the same key after a broken connection, so that one call makes one job."""
        key = {"Idempotency-Key": idempotency_key or str(uuid4())}
        document = options.model_dump_json(by_alias=True, exclude_unset=True)
        files = {"model": model, "calibration": calibration, "evaluation": evaluation, "history": history}
        present = {field: path for field, path in files.items() if path is not None}

        def send_form() -> httpx.Response:
            with ExitStack() as opened:
                parts = {field: (path.name, opened.enter_context(path.open("rb"))) for field, path in present.items()}
                return self._http.post(f"/{options.kind}", headers=key, data={"options": document}, files=parts)

        if not external:
            return _parse(Job, self._checked(send_form))
        blobs: dict[str, object] = {field: {"blob": self.upload(path)} for field, path in present.items()}
        outside = {location: self.upload(path) for location, path in external.items()}
        body = {**blobs, "model": {"blob": self.upload(model), "external": outside}, "options": json.loads(document)}
        return _parse(Job, self._checked(lambda: self._http.post(f"/{options.kind}", headers=key, json=body)))

    def upload(self, path: Path) -> str:
        """Store a file under its hash; its blob name, for requests that refer to it."""
        name = f"sha256:{_sha256(path)}"

        def put() -> httpx.Response:
            with path.open("rb") as file:
                return self._http.put(f"/blobs/{name}", content=iter(lambda: file.read(CHUNK), b""))

        self._checked(put)
        return name

    def get(self, job_id: str, *, wait_seconds: int = 0) -> Job:
        params = {"wait": wait_seconds} if wait_seconds else {}
        return _parse(Job, self._checked(lambda: self._http.get(f"/jobs/{job_id}", params=params)))

    def jobs(self, *, limit: int = 20, cursor: str | None = None) -> JobPage:
        params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        return _parse(JobPage, self._checked(lambda: self._http.get("/jobs", params=params)))

    def targets(self) -> tuple[DeviceProfile, ...]:
        """The devices that `options.target` knows."""
        return _parse(TargetList, self._checked(lambda: self._http.get("/targets"))).targets

    def cancel(self, job_id: str) -> Job:
        return _parse(Job, self._checked(lambda: self._http.post(f"/jobs/{job_id}/cancel")))

    def delete(self, job_id: str) -> None:
        self._checked(lambda: self._http.delete(f"/jobs/{job_id}"))

    def events(self, job_id: str, last_event_id: str = "") -> Iterator[JobEvent]:
        """The events after `last_event_id`, as they happen, until the job ends or the connection does."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        try:
            with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield from _events(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def wait(self, job_id: str, on_progress: Callable[[Progress], None] = lambda _: None) -> Job:
        """The finished job. Follows its events; where those cannot be had, asks again and again."""
        last_id, broken = "", 0
        while broken < 3:
            try:
                for event in self.events(job_id, last_id):
                    last_id, broken = event.id, 0
                    if event.progress is not None:
                        on_progress(event.progress)
            except EspalierError as error:
                if error.code in ("not_found", "unauthorized"):
                    raise
                broken += 1
            job = self.get(job_id, wait_seconds=1)
            if job.state.finished:
                return job
        while not job.state.finished:
            on_progress(job.progress)
            job = self.get(job_id, wait_seconds=10)
        return job

    def artifact(self, job_id: str, path: Path) -> None:
        """Fetch the pruned model into `path`, which appears only once it is whole and has the announced hash. Weights
        that are in a file of their own come first, beside it, under the name that the model knows them by."""
        result = self.get(job_id).result
        if result is None or result.artifact is None:
            raise EspalierError("job_has_no_result", f"job {job_id} has no artifact", where=job_id)
        if any(is_weights(ref.name) for ref in result.files):
            for name, sha in self.report(job_id).provenance.artifact_external_sha256.items():
                self._fetch(f"/jobs/{job_id}/artifacts/{name}", f"sha256:{sha}", path.parent / name)
        self._fetch(f"/jobs/{job_id}/artifact", result.artifact.blob, path)

    def artifacts(self, job_id: str) -> tuple[ResultFile, ...]:
        """Every file that the job made."""
        return _parse(ResultFiles, self._checked(lambda: self._http.get(f"/jobs/{job_id}/artifacts"))).artifacts

    def download(self, job_id: str, name: str | ResultFile, path: Path) -> None:
        """Fetch one of them into `path`, which appears only once it is whole and has the announced hash."""
        if isinstance(name, str):
            known = {one.name: one for one in self.artifacts(job_id)}
            if name not in known:
                detail = f"job {job_id} made no file {name!r}; {nearest(name, tuple(known))}"
                raise EspalierError("not_found", detail, where=job_id, hint="Name one of them, or none for all.")
            name = known[name]
        self._fetch(f"/jobs/{job_id}/artifacts/{name.name}", f"sha256:{name.sha256}", path)

    def _fetch(self, address: str, announced: str, path: Path) -> None:
        def fetch() -> httpx.Response:
            hasher = hashlib.sha256()
            with replacing(path) as file, self._http.stream("GET", address) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                for chunk in response.iter_bytes(CHUNK):
                    hasher.update(chunk)
                    file.write(chunk)
                arrived = f"sha256:{hasher.hexdigest()}"
                if arrived != announced:
                    raise EspalierError("download_corrupt", f"expected {announced}, got {arrived}")
                return response

        self._checked(fetch)

    def document(self, job_id: str, kind: type[Model]) -> Model:
        """The report of a job, as the kind of document that it is."""
        return _parse(kind, self._checked(lambda: self._http.get(f"/jobs/{job_id}/report.json")))

    def report(self, job_id: str) -> Report:
        """The report of a pruning."""
        return self.document(job_id, Report)

    def inspection(self, job_id: str) -> Inspection:
        """The report of an inspection."""
        return self.document(job_id, Inspection)

    def sweep_report(self, job_id: str) -> SweepReport:
        """The report of a sweep or a comparison."""
        return self.document(job_id, SweepReport)

    def report_document(self, job_id: str, kind: ReportKind) -> bytes:
        """The report as the service renders it: JSON, HTML or Markdown."""
        return self._checked(lambda: self._http.get(f"/jobs/{job_id}/report.{kind}")).content

    def _checked(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send; wait and send again where the service is unwell or unreachable. Every request here may be repeated."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = send()
                if not response.is_error:
                    return response
                refusal = _refusal(response)
                if refusal.code not in PASSING or attempt == ATTEMPTS:
                    raise refusal
                pause = _retry_after(response)
            except httpx.TransportError as error:
                if attempt == ATTEMPTS or isinstance(error, httpx.UnsupportedProtocol):
                    raise self._unreachable(error) from error
                pause = 0.25 * 2 ** (attempt - 1)
            self._sleep(min(pause, LONGEST_PAUSE))
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: httpx.TransportError) -> EspalierError:
        reason = str(error) or type(error).__name__
        return EspalierError("service_unreachable", f"no answer from {self._http.base_url}: {reason}")


def _parse(model: type[Model], response: httpx.Response) -> Model:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise EspalierError("response_invalid", f"{response.url}: {place or 'body'}: {first['msg']}") from None


def _refusal(response: httpx.Response) -> EspalierError:
    """The failure in a problem+json answer; anything else (a proxy's page) becomes `response_invalid`."""
    try:
        problem = json.loads(response.content)
        fields = {name: problem[name] for name in Failure.model_fields if problem.get(name) is not None}
        return EspalierError.of(Failure.model_validate({"detail": "", **fields}))
    except (ValueError, TypeError, AttributeError):
        start = response.text[:200].strip()
        return EspalierError(
            "response_invalid", f"{response.url} answered {response.status_code}: {start or 'nothing'}"
        )


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 1.0


def _events(lines: Iterator[str]) -> Iterator[JobEvent]:
    """Server-sent events whose data is one JobEvent each; comments and fields that we do not use are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            try:
                event = JobEvent.model_validate_json("\n".join(data))
            except ValidationError as error:
                raise EspalierError("response_invalid", f"an event that is none: {data[0][:200]!r}") from error
            data = []
            yield event


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
