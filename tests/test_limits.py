import os
from pathlib import Path

import pytest

from impasto import limits
from impasto.limits import cores


@pytest.mark.parametrize(
    ("step", "job", "expected"),
    [("max 100000", "max 100000", 64), ("max 100000", "250000 100000", 3), ("50000 100000", "800000 100000", 1)],
)
def test_the_tightest_quota_counts_and_parts_of_a_core_as_one(monkeypatch, tmp_path, step, job, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "cpu.max").write_text(f"{step}\n")
    (tmp_path / "job" / "cpu.max").write_text(f"{job}\n")
    (tmp_path / "own").write_text("0::/job/step\n")
    assert cores(tmp_path, tmp_path / "own") == expected
    assert cores(tmp_path, Path("absent")) == 64


def test_the_quota_of_older_groups_counts_too(tmp_path):
    for place, share in (("cpu/slurm/job", "-1"), ("cpu/slurm", "250000")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "cpu.cfs_quota_us").write_text(f"{share}\n")
        (tmp_path / place / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text("3:cpuset:/elsewhere\n2:cpu,cpuacct:/slurm/job\n0::/\n")
    assert limits.quota(tmp_path, tmp_path / "own") == 3
    (tmp_path / "own").write_text("3:memory:/slurm/job\n")
    assert limits.quota(tmp_path, tmp_path / "own") is None
