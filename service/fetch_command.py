"""`espalier fetch`: the files of a job's result, all of them or those that are named.

In: the parsed arguments. Out: files in a folder, their paths on stdout. Refused: names of no file; a job without a
result. Names come from the service, and `schemas.files` lets none through that would leave the folder.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from schemas.files import ARTIFACT, FILE_LIST, REPORTS, FileList
from service.client import Client
from service.files import replacing


def fetch(arguments: argparse.Namespace) -> int:
    with Client(arguments.server, arguments.api_key) as client:
        if not arguments.names:
            print("\n".join(map(str, fetch_all(client, arguments.id, arguments.out))))
        for name in arguments.names:
            path = arguments.out / name
            client.download(arguments.id, name, path)
            print(path)
    return 0


def fetch_all(client: Client, job_id: str, folder: Path) -> tuple[Path, ...]:
    """Every file of a job's result."""
    paths = []
    for one in client.artifacts(job_id):
        client.download(job_id, one, folder / one.name)
        paths.append(folder / one.name)
    return tuple(paths)


def copy_all(workdir: Path, folder: Path) -> tuple[Path, ...]:
    """The same of a job that ran here."""
    paths = []
    for name in left_in(workdir):
        copy(workdir / name, folder / name)
        paths.append(folder / name)
    return tuple(paths)


def left_in(workdir: Path) -> Iterator[str]:
    """The names of the files that the engine left in its work folder."""
    yield from (name for name in (ARTIFACT, *REPORTS) if (workdir / name).exists())
    listed = workdir / FILE_LIST
    if listed.exists():
        yield from FileList.model_validate_json(listed.read_bytes()).files


def copy(source: Path, target: Path) -> None:
    """A file to where it is wanted, whole or not at all."""
    with source.open("rb") as reading, replacing(target) as writing:
        shutil.copyfileobj(reading, writing)
