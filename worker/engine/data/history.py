"""Reads a training history: what the weights were at the start, what every epoch did to them, what they became.

In: an .npz with a snapshot of every epoch (`e0/<name>` at the start, `e1/<name>` and so on), or with `initial/<name>`,
`sums/<name>` (sums of squared updates) and `final/<name>`; and, in either, `learning_rate`. Out: `History`. The arrays
are read one by one, and of the snapshots only the last is kept. Refused (`history_invalid`): another kind of file,
epochs that are missing, weights that are missing from an epoch or change their shape, numbers that are not finite;
and as for all data, archives that are not what they seem.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EspalierError
from worker.engine.data.files import npz_members, read_members

WHERE = "history"
RATE = "learning_rate"
SUMMED = ("initial", "sums", "final")
SNAPSHOT = re.compile(r"e(0|[1-9][0-9]*)/(.+)", re.DOTALL)
MAX_MEMBERS = 100_000

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class History:
    """By the names that the training gave: weights before and after, and the sum of the squares of the updates."""

    initial: Mapping[str, Float]
    sums: Mapping[str, Float]
    final: Mapping[str, Float]
    learning_rate: float | None


def read_history(path: Path, *, max_bytes: int) -> History:
    """The history in a file."""
    members = npz_members(path, max_bytes=max_bytes, max_members=MAX_MEMBERS, where=WHERE)
    if members is None:
        raise _invalid("the file is not an .npz")
    rate = None
    if RATE in members:
        _, read = next(iter(read_members(path, [RATE], max_bytes=max_bytes, where=WHERE)))
        rate = _rate(read)
    if any(name.startswith("e0/") for name in members):
        return _from_snapshots(path, members, rate, max_bytes)
    return _from_sums(path, members, rate, max_bytes)


def _from_snapshots(path: Path, members: Iterable[str], rate: float | None, max_bytes: int) -> History:
    epochs: dict[int, list[str]] = {}
    for member in members:
        if found := SNAPSHOT.fullmatch(member):
            epochs.setdefault(int(found[1]), []).append(found[2])
    _check_epochs(epochs)
    order = [f"e{epoch}/{name}" for epoch in range(len(epochs)) for name in epochs[0]]
    initial: dict[str, Float] = {}
    final: dict[str, Float] = {}
    sums: dict[str, Float] = {}
    for member, array in read_members(path, order, max_bytes=max_bytes, where=WHERE):
        name = member.partition("/")[2]
        now = _finite(array, member)
        if name not in initial:
            initial[name], final[name], sums[name] = now, now, np.zeros(now.shape)
            continue
        if now.shape != initial[name].shape:
            raise _invalid(f"{member} has shape {now.shape}; at the start it was {initial[name].shape}")
        with np.errstate(over="ignore"):  # looked at when all are added up
            sums[name] += (now - final[name]) ** 2
        final[name] = now
    for name, squares in sums.items():
        if not np.isfinite(squares).all():
            raise _invalid(f"the changes of {name} are too large to be squared")
    return History(initial, sums, final, rate)


def _check_epochs(epochs: Mapping[int, list[str]]) -> None:
    """Two snapshots at least, none left out, each with the same weights."""
    gap = next((epoch for epoch in range(len(epochs)) if epoch not in epochs), None)
    if gap is not None:
        raise _invalid(f"there are snapshots up to e{max(epochs)}, but none of e{gap}")
    if len(epochs) == 1:
        raise _invalid("there is one snapshot, e0: nothing says how the weights changed")
    if not epochs:
        raise _invalid("an array is named e0/, which is the name of no weight")
    first = set(epochs[0])
    for epoch, names in epochs.items():
        odd = sorted(first.symmetric_difference(names))
        if odd:
            raise _invalid(f"{odd[0]!r} is in one of e0 and e{epoch}, but not in the other")


def _from_sums(path: Path, members: Iterable[str], rate: float | None, max_bytes: int) -> History:
    parts: dict[str, dict[str, Float]] = {part: {} for part in SUMMED}
    wanted = [member for member in members if member.partition("/")[0] in SUMMED]
    for member, array in read_members(path, wanted, max_bytes=max_bytes, where=WHERE):
        part, _, name = member.partition("/")
        parts[part][name] = _finite(array, member)
    if not parts["sums"]:
        found = ", ".join(list(members)[:5])
        raise _invalid(f"it holds neither snapshots (e0/<name>, e1/<name>, ...) nor sums/<name>; it holds {found}")
    for name, sums in parts["sums"].items():
        for part in ("initial", "final"):
            if name not in parts[part]:
                raise _invalid(f"there is sums/{name}, but no {part}/{name}")
            if parts[part][name].shape != sums.shape:
                raise _invalid(f"{part}/{name} has shape {parts[part][name].shape}, sums/{name} has {sums.shape}")
        if (sums < 0).any():
            raise _invalid(f"sums/{name} holds a negative number, and squares are none")
    return History(parts["initial"], parts["sums"], parts["final"], rate)


def _rate(array: "NDArray[np.generic]") -> float:
    if array.size != 1 or array.dtype.kind not in "fiu" or not 0 < float(array.reshape(-1)[0]) < np.inf:
        raise _invalid(f"{RATE} must be one positive number")
    return float(array.reshape(-1)[0])


def _finite(array: "NDArray[np.generic]", member: str) -> Float:
    if array.dtype.kind not in "fiub":
        raise _invalid(f"{member} holds {array.dtype}, not real numbers")
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise _invalid(f"{member} holds NaN or infinity")
    return found


def _invalid(detail: str) -> EspalierError:
    return EspalierError("history_invalid", detail, where=WHERE)
