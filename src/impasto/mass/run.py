"""All of it, as a stream on Ray Data: entries in batches, workers that paint them, and their records."""

import importlib.util
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from impasto import cli
from impasto.errors import UserError
from impasto.files import check_place
from impasto.folder import REPORTS
from impasto.job import Job, json_line
from impasto.mass import storage
from impasto.mass.cluster import Workers, check_address, running, shares
from impasto.mass.painting import Begun, Ledger, Painter, Verifier
from impasto.mass.report import STATUSES, Report, Summary, done_before
from impasto.mass.sources import Source, survey
from impasto.progress import passing

log = logging.getLogger("impasto")

STORE_BYTES = 128 << 20  # of Ray's shared memory: only names pass through it, and what is done
HOPELESS = 100  # pictures in a row that storage refuses, after which the rest is not tried
TOLD = 10  # failures, and pictures with warnings, that are told at once; the report has all
CALLS = 2  # batches that a worker has in hand: one is painted while another is read or written


def stylize_many(
    job: Job, networks: Sequence[Path], source: Source, workers: Workers, verify: bool, as_json: bool
) -> None:
    """Paint every entry of a source that is not yet done, or verify all results.

    Raises `UserError`: for what cannot be reached; at the end, where a picture failed.
    """
    if any(importlib.util.find_spec(package) is None for package in ("ray", "pyarrow")):  # of ray[data]
        raise UserError('this takes Ray, which is not installed: pip install -e ".[ray]"')
    check_address(workers.address)
    if storage.is_local(source.output):
        check_place(Path(source.output) / REPORTS / "a.jsonl")
    summary = Summary(*survey(source))
    done = done_before(source.output, "check" if verify else "mark")
    report = Report(source.output)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with (
            running(workers, STORE_BYTES + 2 * done.nbytes),
            passing(*columns, quiet=as_json) as progress,
        ):
            bar = progress.add_task("Verifying" if verify else "Painting", total=summary.total)
            for records in _watched(_records(job, networks, source, workers, done, verify)):
                report.add(records)
                summary.add(records)
                progress.advance(bar, len(records))
    finally:
        report.close()
    _tell(summary, report, as_json)


def _watched(batches: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """The same; the first failures and warnings are told.

    Too many failures of the storage's in a row end it all with a `UserError`.
    """
    told = warned = hopeless = 0
    for records in batches:
        yield records
        for record in (record for record in records if record["status"] != "skipped"):
            hopeless = hopeless + 1 if record.get("storage") else 0
            if hopeless >= HOPELESS:
                raise UserError(f"{HOPELESS} images in a row could not be read or written: {record['error']}")
            if "error" in record and told < TOLD:
                log.warning("skipped: %s", record["error"])
                told += 1
            if "warnings" in record and warned < TOLD:
                log.warning("%s", "; ".join(record["warnings"]))
                warned += 1


def _tell(summary: Summary, report: Report, as_json: bool) -> None:
    told = summary.told()
    if as_json:
        cli.say(json_line(told))
    counted = ", ".join(f"{told[status]} {status}" for status in STATUSES if told[status])
    speed = f"{told['images_per_second']} images/s, {told['megabytes_per_second']} MB/s"
    log.info("%d images: %s; in %.1f s, %s", summary.total, counted, told["seconds"], speed)
    if bad := told["failed"] + told["lost"]:
        raise UserError(f"{bad} of {summary.total} images failed or are lost; {report.place!r} says which and why")
    if not summary.is_whole:
        raise UserError("the input changed meanwhile: run the same again for the rest")


def _records(
    job: Job, networks: Sequence[Path], source: Source, workers: Workers, done: np.ndarray, verify: bool
) -> Iterator[list[dict[str, Any]]]:
    """The records of each batch, as they come. Raises `UserError`."""
    import ray
    import ray.data

    number, cores, gpus = shares(workers, "cpu" if verify else job.device)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = workers.verbose
    context.target_max_block_size = 1  # byte: each batch travels on its own, so none waits for another
    known = ray.put(done)
    if verify:
        worker: Any = _RayVerifier
        options: dict[str, Any] = {"output": source.output, "checks": known, "megapixels": job.megapixels}
    else:
        ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        sharers = 1 if gpus else min(number, max(1, (os.cpu_count() or 1) // cores))
        options = {"job": job, "networks": list(networks), "output": source.output}
        options |= {"done": known, "ledger": ledger, "sharers": sharers}
        worker = _RayPainter

    def batches(_: dict[str, Any]) -> Iterator[dict[str, Any]]:
        entries = iter(source)
        while batch := list(itertools.islice(entries, workers.batch)):
            yield {"batch": json.dumps(batch)}

    calls = cores + 1 if gpus else CALLS  # decoding for a GPU takes more than one thread
    records = (
        ray.data.from_items([{"source": source.place}])  # one row, of which `batches` makes all
        .flat_map(batches, num_cpus=0)
        .map(
            worker,
            fn_constructor_kwargs=options,
            compute=ray.data.ActorPoolStrategy(
                size=number, max_concurrent_calls_per_actor=calls, enable_true_multi_threading=True
            ),
            num_cpus=cores,
            num_gpus=1 if gpus else 0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cores)}},
        )
    )
    try:
        for row in records.iter_rows():
            batch = json.loads(row["records"])
            if batch[0]["status"] == "stopped":
                raise UserError(batch[0]["error"])
            yield batch
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise UserError(str(cause)) from None
        raise


class _RayPainter(Painter):
    def __init__(self, done: Any, ledger: Any, **options: Any) -> None:
        import ray

        super().__init__(done=ray.get(done), ledger=_Far(ledger), **options)


class _RayVerifier(Verifier):
    def __init__(self, checks: Any, **options: Any) -> None:
        import ray

        super().__init__(checks=ray.get(checks), **options)


class _Far(Begun):
    """The ledger, in a process of its own, which outlives the workers."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, work: int) -> int:
        import ray

        return int(ray.get(self.actor.begin.remote(work)))

    def end(self, work: int) -> None:
        self.actor.end.remote(work)
