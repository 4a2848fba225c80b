"""The part of a partitioned GPU (MIG) that belongs to each of its instances.

The GPU has one power meter and its instances have none, so this is an estimate, labelled with its method:

- ``slices``: the instance's share of the GPU's compute slices (seven on most models).
- ``gpm``: if the driver measures how busy each instance is (GPM, from Hopper on). The GPU's baseline power is divided by
  slices as above, the rest by busy slices. The baseline is measured: the lowest power since the meter was opened, as a
  share of recent power.

``slices`` is also the method if it is uncertain what an instance's activity is a share of (``Sharing.busy_comparable``).

Slices in no instance get their share of the baseline. The weights sum to 1 or less, so that no more is booked by them than
the GPU used.
"""

from __future__ import annotations

from tpw.model import Part, Sharing, SplitMethod


def parts(sharing: Sharing) -> tuple[Part, ...]:
    """The parts of a GPU, in the order of its instances; empty if it is not partitioned."""
    instances = sharing.instances
    if not instances:
        return ()
    slices = max(sharing.slices, sum(instance.slices for instance in instances))
    busy = {i.uuid: i.slices * min(1.0, max(0.0, i.busy_ratio)) for i in instances if i.busy_ratio is not None}
    baseline = sharing.baseline_power_ratio
    # An instance of unknown activity would be charged nothing: then no activity is used.
    measured = baseline is not None and len(busy) == len(instances) and sharing.busy_comparable
    if not measured or baseline is None:
        return tuple(
            Part(i.uuid, i.profile, i.slices / slices, SplitMethod.SLICES, _is_busy(i.busy_ratio)) for i in instances
        )
    at_work = sum(busy.values())
    baseline = min(1.0, max(0.0, baseline)) if at_work > 0.0 else 1.0
    return tuple(
        Part(
            i.uuid,
            i.profile,
            baseline * i.slices / slices + ((1.0 - baseline) * busy[i.uuid] / at_work if at_work > 0.0 else 0.0),
            SplitMethod.GPM,
            _is_busy(i.busy_ratio),
        )
        for i in instances
    )


def _is_busy(ratio: float | None) -> bool | None:
    return None if ratio is None else ratio > 0.0
