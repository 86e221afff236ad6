"""Whether the caller's constraints hold.

In: the constraints, both sides of the report, and the device that was named. Out: a `Verdict`, which says by how much a
constraint is missed. Nothing is refused: what cannot be judged counts as missed.
"""

from schemas.device import TargetFit
from schemas.job import Verdict
from schemas.report import Side
from schemas.request import Constraints


def verdict(constraints: Constraints, before: Side, after: Side, target: TargetFit | None) -> Verdict:
    """Whether each constraint that was given holds, and by how much it does not."""
    limits = (
        ("max_file_bytes", constraints.max_file_bytes, after.file_bytes),
        ("max_parameters", constraints.max_parameters, after.parameters),
        ("max_macs", constraints.max_macs, after.macs),
        ("max_peak_ram_bytes", constraints.max_peak_ram_bytes, after.peak_ram_bytes),
    )
    broken = [
        f"{name}: {got:,} is more than {limit:,}" for name, limit, got in limits if limit is not None and got > limit
    ]
    if constraints.max_latency_ms is not None:
        estimate = None if target is None else target.after.milliseconds
        took = after.latency_ms if estimate is None else estimate
        where = "measured" if target is None else f"estimated for {target.device}"
        if took > constraints.max_latency_ms:
            broken.append(f"max_latency_ms: {took:,.6g}, {where}, is more than {constraints.max_latency_ms:,}")
    drop, least = constraints.max_accuracy_drop, constraints.min_accuracy
    if drop is not None or least is not None:
        if before.accuracy is None or after.accuracy is None:
            broken.append("accuracy: there was no data to judge it with")
        else:
            fall = before.accuracy.score - after.accuracy.score
            if drop is not None and fall > drop:
                broken.append(f"max_accuracy_drop: {fall:.4f} is more than {drop:g}")
            if least is not None and after.accuracy.score < least:
                broken.append(f"min_accuracy: {after.accuracy.score:.4f} is less than {least:g}")
    if constraints.fits_target:
        assert target is not None, "the request's validator asks for one"
        broken += [f"fits_target: {target.device}: {why}" for why in target.after.why]
        broken += [
            f"fits_target: {target.device} does not run {one.operator}: {one.reason}"
            for one in target.operators
            if not one.supported
        ]
    return Verdict(met=not broken, broken=tuple(broken))
