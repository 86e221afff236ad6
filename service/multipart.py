"""multipart/form-data as a stream: each file goes to its writer as it arrives, in one pass and bounded memory.

In: the chunks of a body, in order, and a source of writers. Out: a `Form`: for each file its finished, not yet
committed writer and the name its uploader gave it, and the text of `options`. Refused: an unknown or repeated field,
a field without a name, text that is too long, a body that ends before its closing boundary. Fields come in any order.
A file field without a byte counts as absent (browsers send those).

The parser is python-multipart's; its callbacks run inside `feed`, which is meant for a worker thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from schemas.errors import EspalierError, nearest
from state.blobs import BlobWriter

FILES = ("model", "calibration", "evaluation", "history")
TEXTS = ("options",)
MAX_TEXT_BYTES = 1024 * 1024
MAX_NAME_CHARS = 200


@dataclass(frozen=True)
class FilePart:
    writer: BlobWriter
    name: str


@dataclass
class Form:
    """What a form held. As a context manager it throws away every file that was not committed."""

    files: dict[str, FilePart] = field(default_factory=dict)
    texts: dict[str, bytearray] = field(default_factory=dict)

    def __enter__(self) -> "Form":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for part in self.files.values():
            part.writer.abort()


def boundary_of(content_type: str) -> bytes:
    """The boundary that the Content-Type header names."""
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise EspalierError("body_invalid", "Content-Type: multipart/form-data names no boundary", where="Content-Type")
    return boundary


class FormReader:
    """Takes a body chunk by chunk and fills a `Form`."""

    def __init__(self, form: Form, boundary: bytes, new_writer: Callable[[], BlobWriter]) -> None:
        self._form = form
        self._new_writer = new_writer
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[str, str] = {}
        self._field = ""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._open,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise EspalierError("body_invalid", str(error), where="Content-Type") from None

    def feed(self, chunk: bytes) -> None:
        """Parses one chunk; files are written as it goes."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise EspalierError("body_invalid", f"the form is malformed: {error}") from None

    def close(self) -> None:
        """Says that the body has ended; it must have ended with the closing boundary."""
        if not self._ended:
            raise EspalierError("body_invalid", "the form ends before its closing boundary; the upload is incomplete")
        for name in [name for name, part in self._form.files.items() if part.writer.bytes == 0]:
            self._form.files.pop(name).writer.abort()

    def _begin(self) -> None:
        self._headers = {}

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode("utf-8", "replace")
        self._header_name.clear()
        self._header_value.clear()

    def _open(self) -> None:
        """The headers of a part are complete: which field is it, and may it come?"""
        _, parameters = parse_options_header_text(self._headers.get("content-disposition", ""))
        name = parameters.get("name", "")
        if name in self._form.files or name in self._form.texts:
            raise EspalierError("body_invalid", f"the field {name!r} comes twice", where=name)
        if name in FILES:
            given = parameters.get("filename", "").replace("\\", "/").rpartition("/")[2]
            self._form.files[name] = FilePart(self._new_writer(), given[:MAX_NAME_CHARS])
        elif name in TEXTS:
            self._form.texts[name] = bytearray()
        elif name:
            known = (*FILES, *TEXTS)
            raise EspalierError(
                "body_invalid", f"unknown field {name[:100]!r}; {nearest(name, known)}", where=name[:100]
            )
        else:
            raise EspalierError("body_invalid", "a part of the form has no field name")
        self._field = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field in TEXTS:
            text = self._form.texts[self._field]
            if len(text) + end - start > MAX_TEXT_BYTES:
                raise EspalierError(
                    "payload_too_large", f"the field holds more than {MAX_TEXT_BYTES} bytes", where=self._field
                )
            text += data[start:end]
        else:
            self._form.files[self._field].writer.write(data[start:end])

    def _end(self) -> None:
        self._ended = True


def parse_options_header_text(value: str) -> tuple[str, dict[str, str]]:
    """A header such as Content-Disposition, with its parameters, as text. Browsers and curl send UTF-8 names."""
    kind, parameters = parse_options_header(value.encode("utf-8").decode("latin-1"))
    decoded = {key.decode("latin-1"): one.decode("utf-8", "replace") for key, one in parameters.items()}
    return kind.decode("latin-1"), decoded
