"""Reads a table of numbers from text: .csv with commas, semicolons or tabs, with or without a header.

In: a path and the most bytes its numbers may take. Out: `Table`: features, and labels where a column is called so.
Refused, with the number of the line: text that is not a number, rows of another length, anything that is not UTF-8.
"""

import csv
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError

DELIMITERS = ",;\t"
LABEL_COLUMNS = ("label", "labels", "y")
NUMBER_BYTES = 8


@dataclass(frozen=True)
class Table:
    """Numbers as they were written: columns of integers alone stay integers."""

    features: NDArray[np.generic]  # (samples, features)
    labels: NDArray[np.generic] | None
    names: tuple[str, ...]  # of the features; empty where there is no header


def read_table(path: Path, *, max_bytes: int, where: str) -> Table:
    """A table of numbers, one sample a line."""
    header: list[str] = []
    width = 0
    values = array("d")
    whole: set[int] = set()  # the columns that hold nothing but integers so far
    for line, row in _lines(path, where):
        if not width:
            width, whole = len(row), set(range(len(row)))
            if _is_header(row):
                header = [cell.strip() for cell in row]
                _check_header(header, line, where)
                continue
        if len(row) != width:
            detail = f"line {line} has {len(row)} columns; the first line has {width}"
            raise EspalierError("data_unreadable", detail, where=where)
        values.extend(_numbers(row, line, header, where))
        whole -= {column for column in whole if not row[column].strip().lstrip("+-").isdigit()}
        if len(values) * NUMBER_BYTES > max_bytes:
            detail = f"the table takes more than {max_bytes:,} bytes by line {line}"
            raise EspalierError("data_too_large", detail, where=where)
    if not values:
        raise EspalierError("data_empty", "the table has no line of numbers", where=where)
    return _assemble(np.frombuffer(values, np.float64).reshape(-1, width), header, whole)


def _assemble(numbers: NDArray[np.float64], header: list[str], whole: set[int]) -> Table:
    at = [i for i, name in enumerate(header) if name.lower() in LABEL_COLUMNS]
    kept = [i for i in range(numbers.shape[1]) if i not in at]
    features = numbers[:, kept]
    labels = None
    if at:
        column = numbers[:, at[0]]
        labels = column.astype(np.int64) if at[0] in whole else column
    integers = whole.issuperset(kept)
    return Table(features.astype(np.int64) if integers else features, labels, tuple(header[i] for i in kept if header))


def _is_header(row: list[str]) -> bool:
    """Names, or the running numbers that pandas writes above columns without names."""
    running = len(row) > 2 and [cell.strip() for cell in row] == [str(i) for i in range(len(row))]
    return running or not all(_is_number(cell) for cell in row)


def _check_header(header: list[str], line: int, where: str) -> None:
    """A first line that is not numbers must be names throughout; half and half is a broken first row."""
    numbers = [name for name in header if _is_number(name)]
    labels = [name for name in header if name.lower() in LABEL_COLUMNS]
    if len(labels) > 1:
        raise EspalierError("data_unreadable", f"line {line} names several label columns: {labels}", where=where)
    wrong = next(((i, name) for i, name in enumerate(header) if not _is_number(name)), None)
    if numbers and wrong and not labels:
        detail = f"line {line}, column {wrong[0] + 1}: {wrong[1]!r} is not a number, in a line that holds numbers"
        raise EspalierError("data_unreadable", detail, where=where)
    if not header[0]:
        detail = f"line {line} names every column but the first: that is an index, not a feature"
        raise EspalierError("data_unreadable", detail, where=where, hint="Write it with index=False.")


def _lines(path: Path, where: str) -> Iterator[tuple[int, list[str]]]:
    """Every line that is not blank, with its number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(1 << 16)
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, row
    except UnicodeDecodeError:
        detail = "the file is neither .npz nor .npy, nor text in UTF-8"
        raise EspalierError("data_unreadable", detail, where=where) from None
    except csv.Error as error:
        raise EspalierError("data_unreadable", f"line {reader.line_num}: {error}", where=where) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number; nobody's spreadsheet does


def _numbers(row: list[str], line: int, header: list[str], where: str) -> list[float]:
    try:
        numbers = [float(cell) for cell in row]
    except ValueError:
        numbers = []
    if numbers and "_" not in "".join(row):
        return numbers
    column, cell = next((i, cell) for i, cell in enumerate(row) if not _is_number(cell))
    name = f" ({header[column]})" if header else ""
    hint = (
        "Write decimals with a point." if "," in cell else "Every cell must hold a number; arrays come as .npz or .npy."
    )
    detail = f"line {line}, column {column + 1}{name}: {cell[:40]!r} is not a number"
    raise EspalierError("data_unreadable", detail, where=where, hint=hint)
