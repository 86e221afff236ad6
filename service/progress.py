"""How far a job is, on a terminal or in a log.

In: `Progress` values and a text stream. Out: on a terminal one line that redraws itself, elsewhere one plain line for
each new stage. Nothing is refused; a closed stream is the caller's affair.
"""

import shutil
from typing import TextIO

from schemas.job import Progress

BAR_CELLS = 24


class ProgressLine:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._stage = ""
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        if self._live:
            self._draw(progress)
        elif progress.stage and progress.stage != self._stage:
            self._stage = progress.stage
            print(_text(progress), file=self._stream, flush=True)

    def end(self) -> None:
        """Leave the line, so that what is printed next starts on a fresh one."""
        if self._drawn:
            print(file=self._stream, flush=True)
            self._drawn = False

    def _draw(self, progress: Progress) -> None:
        full = round(progress.fraction * BAR_CELLS)
        width = shutil.get_terminal_size().columns - 1
        line = f"[{'#' * full}{'.' * (BAR_CELLS - full)}] {_text(progress)}"[:width]
        print(f"\r\x1b[K{line}", end="", file=self._stream, flush=True)
        self._drawn = True


def _text(progress: Progress) -> str:
    message = f": {progress.message}" if progress.message else ""
    return f"{progress.fraction:4.0%} {progress.stage}{message}"
