"""What part of a partitioned GPU (MIG) each of its instances is.

There is one meter on the board and none in an instance, so this is an estimate, and says by which method:

- ``slices``: the instance's compute slices of all that the GPU has (seven on most).
- ``gpm``: where the driver measures how busy each instance is (GPM, from Hopper on). The power a board draws whatever it
  does is divided by slices as above; the rest by slices that were busy. How much of it is standing power is seen from
  the board itself: the least it drew since the meter was opened, over what it drew of late.

Where it is not sure what an instance's activity is a share of (``Sharing.busy_comparable``), ``slices`` it is.

What is in no instance gets its slices of the standing power. All weights together are 1 or less, so nothing that is
booked by them can be more than the board used.
"""

from __future__ import annotations

from tpw.model import Part, Sharing, SplitMethod


def parts(sharing: Sharing) -> tuple[Part, ...]:
    """The parts of a GPU, in the order of its instances; none where it is not partitioned."""
    instances = sharing.instances
    if not instances:
        return ()
    slices = max(sharing.slices, sum(instance.slices for instance in instances))
    busy = {i.uuid: i.slices * min(1.0, max(0.0, i.busy_ratio)) for i in instances if i.busy_ratio is not None}
    standing = sharing.baseline_power_ratio
    # One instance whose activity is not known would go free: then nobody's counts.
    measured = standing is not None and len(busy) == len(instances) and sharing.busy_comparable
    if not measured or standing is None:
        return tuple(
            Part(i.uuid, i.profile, i.slices / slices, SplitMethod.SLICES, _is_busy(i.busy_ratio)) for i in instances
        )
    at_work = sum(busy.values())
    standing = min(1.0, max(0.0, standing)) if at_work > 0.0 else 1.0
    return tuple(
        Part(
            i.uuid,
            i.profile,
            standing * i.slices / slices + ((1.0 - standing) * busy[i.uuid] / at_work if at_work > 0.0 else 0.0),
            SplitMethod.GPM,
            _is_busy(i.busy_ratio),
        )
        for i in instances
    )


def _is_busy(ratio: float | None) -> bool | None:
    return None if ratio is None else ratio > 0.0
