"""Further files of a result, beside the artifact and the reports: a stage writes one and lists it by its name.

In: the work folder and a name. Out: the path to write at; the name stands in the folder's list. Refused, as a fault of
ours: a name that `schemas.files` does not let through.
"""

from pathlib import Path

from schemas.files import FILE_LIST, FileList


def add_file(workdir: Path, name: str) -> Path:
    """The path of a further file of the result, listed from now on."""
    kept = workdir / FILE_LIST
    before = FileList.model_validate_json(kept.read_bytes()).files if kept.exists() else ()
    kept.write_text(FileList(files=(*before, name)).model_dump_json(), encoding="utf-8")
    return workdir / name
