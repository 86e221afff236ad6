"""The files of a job's result: the fixed ones, and further ones that a job lists by name.

In: nothing. Out: the names, `FileList` (what a job leaves in its work folder to say which further files there are) and
`ResultFiles` (what GET /jobs/{id}/artifacts answers). Refused: a name that is more than a plain file name, one that is
taken, one that stands there twice, and more of them than anybody looks through.
"""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

ARTIFACT = "artifact.onnx"
REPORTS = ("report.json", "report.html", "report.md")
FILE_LIST = "files.json"
MOST_FILES = 256
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.bin")
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

FileName = Annotated[str, Field(pattern=FILE_NAME)]


def weights_name(sha256: str) -> str:
    """What a model's weights are called where they are in a file of their own, which the model names."""
    return f"weights-{sha256[:16]}.bin"


def is_weights(name: str) -> bool:
    """Whether a file of a result is of that kind. It belongs beside the model, under this name."""
    return WEIGHTS.fullmatch(name) is not None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileList(_Document):
    """The further files of one job."""

    files: tuple[FileName, ...] = Field(default=(), max_length=MOST_FILES)

    @model_validator(mode="after")
    def _each_its_own(self) -> "FileList":
        taken = {ARTIFACT, *REPORTS, FILE_LIST}
        for name in self.files:
            if name in taken:
                raise ValueError(f"the name {name!r} is taken")
            taken.add(name)
        return self


class ResultFile(_Document):
    """One file of a job's result, fetched by its name."""

    name: FileName
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: str


class ResultFiles(_Document):
    """All files of a job's result: the artifact, the reports, and whatever the job made beside them."""

    artifacts: tuple[ResultFile, ...]
