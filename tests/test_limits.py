import os
from pathlib import Path

import pytest

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
