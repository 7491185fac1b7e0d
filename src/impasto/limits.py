"""What Linux's control groups (v1 and v2), which containers and batch systems make, leave to this process."""

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(controller: str, root: Path = GROUPS, own: Path = OWN) -> Iterator[Path]:
    """This process's group of a `controller`, memory or cpu, and those around it; none elsewhere."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if number == "0" or controller in controllers.split(","):  # v2 has one tree for all
            group = (root if number == "0" else root / controller) / path.lstrip("/")
            yield from (group, *group.parents)


def cores(root: Path = GROUPS, own: Path = OWN) -> int:
    """Processor cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, quota(root, own) or count)


def quota(root: Path = GROUPS, own: Path = OWN) -> int | None:
    """How many cores' time there is, rounded up, as `docker run --cpus` limits it; None where nothing does."""
    limits = []
    for group in control_groups("cpu", root, own):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # v2, v1
            with suppress(OSError, ValueError):  # none here
                share, period = " ".join((group / name).read_text() for name in names).split()
                if share not in ("max", "-1"):
                    limits.append(ceil(int(share) / int(period)))
    return min(limits, default=None)
