"""The settings of the service and the workers, read once from the environment.

In: a mapping such as `os.environ`. Out: `Settings`. Refused: an unknown `ESPALIER_` name (naming the nearest one) and a
value of the wrong kind. The documentation lists every field; a test compares the two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import EspalierError, nearest

PREFIX = "ESPALIER_"
MEBI = 1024 * 1024

# Read by the command line, the benchmarks and the optional tests, not by the service.
OTHERS = ("ESPALIER_SERVER", "ESPALIER_API_KEY", "ESPALIER_DATA")


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", description="redis://, rediss:// or unix:///path.")
    home: Path = Field(default=Path(".espalier"), description="Working files, manifests and, by default, blobs.")
    blobs_url: str = Field(default="", description="s3://bucket/prefix for blobs and manifests; empty: the folder.")
    host: str = Field(default="127.0.0.1", description="The address the API binds to.")
    port: int = Field(default=8000, ge=0, lt=65536, description="The port the API binds to; 0 picks a free one.")
    api_keys_file: Path | None = Field(default=None, description="Lines `name:sha256-hex`; without it: loopback only.")
    public_url: str = Field(default="", description="The address in links, where a proxy stands before the API.")
    max_upload_bytes: int = Field(default=2048 * MEBI, gt=0, description="The largest body of one request.")
    max_data_bytes: int = Field(default=4096 * MEBI, gt=0, description="The largest data file once unpacked.")
    max_queued_jobs: int = Field(default=1000, gt=0, description="Queued jobs before submits answer 503.")
    max_jobs_per_key: int = Field(default=100, gt=0, description="Unfinished jobs of one key before 429.")
    idempotency_seconds: int = Field(default=86400, gt=0, description="How long an Idempotency-Key is remembered.")
    lease_seconds: float = Field(default=10.0, gt=0, description="A worker silent for this long has lost its job.")
    max_attempts: int = Field(default=3, gt=0, description="Starts of one job before it fails as worker_lost.")
    job_wall_seconds: float = Field(default=3600.0, gt=0, description="The longest a job may run.")
    job_cpu_seconds: float = Field(default=14400.0, gt=0, description="The most CPU time a job may use.")
    job_memory_bytes: int = Field(default=16384 * MEBI, gt=0, description="The most memory a job may hold.")
    job_threads: int = Field(default=0, ge=0, description="Threads of a job; 0: one for each core.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="What this worker has; cuda takes prune.gpu.")
    sandbox: Literal["full", "best", "off"] = Field(
        default="best", description="full: refuse jobs unless fully confined; best: confine as far as the kernel can."
    )

    torchscript: bool = Field(
        default=True, description="Take TorchScript models, which are programs, where jobs are fully confined."
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings in an environment; empty values count as absent."""
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        given = {}
        for name, value in environ.items():
            if not name.startswith(PREFIX) or name in OTHERS or not value:
                continue
            if name not in known:
                raise EspalierError("options_invalid", f"unknown setting {name}; {nearest(name, tuple(known))}")
            given[known[name]] = value
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise EspalierError("options_invalid", f"{first['msg']} (got {first['input']!r})", where=name) from None

    def to_env(self) -> dict[str, str]:
        """The environment that gives these settings to a child process."""
        return {PREFIX + name.upper(): str(value) for name, value in self if value is not None}
