"""Where real networks and images lie, which are not part of this project.

In: ESPALIER_DATA (default ../shared/data). Out: the folder; `needed` ends a program that cannot do without it.
"""

import os
from pathlib import Path

DATA = Path(os.environ.get("ESPALIER_DATA") or "../shared/data")


def needed() -> Path:
    if not DATA.is_dir():
        raise SystemExit(
            f"{DATA}: no such folder. This benchmark needs real networks and images, which are not part of this\n"
            "project. Set ESPALIER_DATA to a folder of them; benchmarks/accuracy_data.py says under which names."
        )
    return DATA
