"""What Linux's control groups (v2), which containers and batch systems make, leave to this process."""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(root: Path = GROUPS, own: Path = OWN) -> Iterator[Path]:
    """This process's group and those around it; none elsewhere."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for path in (line.removeprefix("0::/") for line in lines if line.startswith("0::")):
        yield from (root / path, *(root / path).parents)


def cores(root: Path = GROUPS, own: Path = OWN) -> int:
    """Processor cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, quota(root, own) or count)


def quota(root: Path = GROUPS, own: Path = OWN) -> int | None:
    """How many cores' time there is, rounded up, as `docker run --cpus` limits it; None where nothing does."""
    limits = []
    for group in control_groups(root, own):
        try:
            share, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):  # none here
            continue
        if share != "max":
            limits.append(ceil(int(share) / int(period)))
    return min(limits, default=None)
