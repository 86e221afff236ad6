"""Whether this machine can compile for microcontrollers and emulate them."""

import pytest

from schemas.errors import EspalierError
from worker.engine.embedded import toolchain


def missing() -> str:
    """What is missing, or nothing."""
    try:
        toolchain.find()
    except EspalierError as error:
        return f"{error.failure.detail}: {error.failure.hint}"
    return ""


MISSING = missing()
needs_toolchain = pytest.mark.skipif(bool(MISSING), reason=MISSING or "it is there")
