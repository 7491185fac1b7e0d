"""Without Ray: what is to be done, what a worker does of it, and what is kept of that."""

import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
from PIL import Image

from impasto import batch
from impasto.errors import UserError
from impasto.folder import REPORT, REPORTS
from impasto.job import Job
from impasto.mass import storage
from impasto.mass.painting import Ledger, Painter, Verifier, check_mark
from impasto.mass.report import Report, Summary, done_before
from impasto.mass.run import _watched
from impasto.mass.sources import Entry, Source, absolute, survey

from .conftest import noise_image

JOB = Job(device="cpu", precision="float32")
NOTHING = np.array([], np.uint64)


@pytest.fixture(autouse=True)
def bucket():
    """An object store of this process's own."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def painter(network_file, tmp_path):
    def painter(output=None, done=NOTHING, ledger=None, networks=None, **changes):
        job, place = replace(JOB, **changes), str(output or tmp_path / "out")
        return Painter(job, networks or [network_file], place, done, ledger or Ledger(), sharers=1)

    return painter


def given(worker, entries):
    return json.loads(worker({"batch": json.dumps(list(entries))})["records"])


def test_a_folder_is_listed_with_names_that_can_be_written(photos, tmp_path):
    (photos / ".hidden.jpg").write_bytes(b"")
    (photos / "note.txt").write_text("no image")
    (photos / "x.ppm").write_bytes(b"")
    (photos / "out").mkdir()
    (photos / "out" / "a.jpg").write_bytes(b"")  # of an earlier run
    names = ["a.jpg", "b.PNG", "deeper/c.jpeg", "deeper/d.webp", "deeper/still/e.bmp", "f.jpg"]
    entries = list(Source(str(photos), str(photos / "out")))
    assert [entry.name for entry in entries] == [*names, "x.ppm.png"]
    assert [entry.source for entry in entries] == [str(photos / name) for name in [*names, "x.ppm"]]
    pngs = [entry.name for entry in Source(str(photos), str(photos / "out"), ".png")]
    assert pngs == [name if name == "b.PNG" else f"{name}.png" for name in [*names, "x.ppm"]]


def test_a_bucket_is_listed_as_a_folder_is(photos, bucket):
    bucket.put(str(photos), "/photos", recursive=True)
    entries = list(Source("memory://photos", "memory://out"))
    assert {entry.name for entry in entries} == {entry.name for entry in Source(str(photos), "/out")}
    assert all(storage.read(entry.source) == (photos / entry.name).read_bytes() for entry in entries)
    storage.write("memory://photos/.ipynb_checkpoints/a.jpg", b"content")  # hidden
    assert len(list(Source("memory://photos", "memory://out"))) == len(entries)


def test_what_another_run_painted_below_is_no_photo(photos, bucket):
    for place in (str(photos), "memory://photos"):
        bucket.put(str(photos), "/photos", recursive=True)
        count = len(list(Source(place, f"{place}/night")))
        for name in ("night/a.jpg", "night/deeper/b.jpg", f"night/{REPORTS}/1.jsonl", "own/a.jpg"):
            storage.write(f"{place}/{name}", b"content")
        assert len(list(Source(place, f"{place}/wave"))) == count + 1
        assert {entry.name for entry in Source(f"{place}/night", "/out")} == {"a.jpg", "deeper/b.jpg"}  # as asked for


def test_what_stylize_painted_below_is_no_photo_either(photos, tmp_path, network_file):
    count = len(list(Source(str(photos), "/out")))
    batch.run(JOB, [network_file], str(photos), str(photos / "night"))
    noise_image(20, 16).save(photos / "night" / "own.png")  # a photo beside what was painted
    assert len(list(Source(str(photos), "/out"))) == count + 1
    assert len(list(Source(str(photos / "night"), "/out"))) == count + 1  # as asked for


ROWS = [("a.jpg", None), ("deeper/ü, 'b'.png", "x/y.webp"), ("/data/c.png", None), ("s3://bucket/d.jpg", None)]
NAMED = ["a.jpg", "x/y.webp", "data/c.png", "bucket/d.jpg"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_manifests_of_every_kind_say_the_same(tmp_path, kind):
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="comes with Ray")
        parquet = pytest.importorskip("pyarrow.parquet", reason="comes with Ray")
        sources, outputs = zip(*ROWS, strict=True)
        parquet.write_table(pyarrow.table({"input": sources, "output": outputs, "more": [1, 2, 3, 4]}), path)
    elif kind == "jsonl":
        path.write_text("\n\n".join(json.dumps({"input": a, **({"output": b} if b else {})}) for a, b in ROWS))
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [mark.join(['"{}"'.format(cell or "") for cell in row]) for row in [("input", "output"), *ROWS]]
        text = ("\ufeff" + "\r\n".join(lines)).encode()  # as spreadsheets write it
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    entries = list(Source(str(path), str(tmp_path / "out")))
    assert [entry.name for entry in entries] == NAMED
    places = [str(tmp_path / "a.jpg"), str(tmp_path / ROWS[1][0]), "/data/c.png", "s3://bucket/d.jpg"]
    assert [entry.source for entry in entries] == places


def test_a_text_manifest_has_a_path_in_each_line(tmp_path):
    (tmp_path / "list.txt").write_bytes(
        b"a.jpg\r\n\nb \xff.png\nhttps://host/c.jpg?size=3\nmemory://in/d#1.jpg\nmemory://in/d?2.jpg\n"
    )
    entries = list(Source(str(tmp_path / "list.txt"), str(tmp_path / "out")))
    assert [entry.name for entry in entries] == ["a.jpg", "b \udcff.png", "host/c.jpg", "in/d#1.jpg", "in/d?2.jpg"]
    assert given(lambda row: {"records": row["batch"]}, entries) == [list(entry) for entry in entries]


@pytest.mark.parametrize(
    ("source", "chosen"),
    [("../a.jpg", None), ("a.jpg", "../a.jpg"), ("a.jpg", "/etc/a.jpg"), ("a.jpg", "x/../../a.jpg"), ("a.jpg", "..")]
    + [("..", None), ("a.jpg", "a\0.jpg"), ("a.jpg", "a.exe"), (f"{'x' * 256}.jpg", None), (None, "a.jpg"), (3, None)]
    + [("\ud800.jpg", None), ("a.jpg", "\ud83d.png"), ("a\0.jpg", "b.png")],
)
def test_no_row_writes_outside_of_the_output_and_the_rest_is_done(painter, tmp_path, source, chosen):
    noise_image(9, 9).save(tmp_path / "a.jpg")
    rows = [{"input": source, "output": chosen}, {"input": "a.jpg", "output": "good.png"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = set(tmp_path.rglob("*"))
    bad, good = given(painter(), Source(str(tmp_path / "list.jsonl"), str(tmp_path / "out")))
    assert (bad["status"], good["status"]) == ("failed", "done")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "out", tmp_path / "out" / "good.png"}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"path,output\na.jpg,\n", r"columns \['path', 'output'\]: one should be called 'input'"),
        ("a.jsonl", b'{"input": "a.jpg"}\nnothing\n', "line 2 of the manifest .* is no JSON object: 'nothing"),
        ("a.jsonl", b'{"photo": "a.jpg"}', "one should be called 'input'"),
        ("a.csv.gz", gzip.compress(b"input\n" + b"a.jpg\n" * 99, mtime=0)[:30], "manifest .* cannot be read"),
        ("a.txt", b"\n\n", "there are no images"),
        ("a.txt", b"x/a.png\nx//a.png\n", r"'.*x/a.png' and '.*x//a.png' would both be written as 'x/a.png'"),
        ("a.jpg", b"", r"neither a folder nor a manifest \(.txt, .csv"),
    ],
)
def test_what_is_no_manifest_is_named_before_any_work(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=line):
        survey(Source(str(tmp_path / name), str(tmp_path / "out")))


def test_a_damaged_table_is_named(tmp_path):
    pytest.importorskip("pyarrow", reason="comes with Ray")
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="manifest .* cannot be read"):
        survey(Source(str(tmp_path / "a.parquet"), "out"))


def test_places_that_cannot_be_reached_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no folder or manifest"):
        survey(Source(str(tmp_path / "none"), "out"))
    with pytest.raises(UserError, match="pip install ossfs"):
        survey(Source("oss://bucket/photos", "out"))
    with pytest.raises(UserError, match="cannot be reached: Protocol not known: hdf"):
        absolute("hdf://photos")


def test_a_manifest_streams(tmp_path):
    """Each row takes 8 bytes, and as much again while they are sorted: less than its line."""
    peaks = []
    for rows in (2_000, 10_000):
        path = tmp_path / f"{rows}.txt"
        path.write_text("".join(f"folder/with/a/long/name/photo{index}.jpg\n" for index in range(rows)))
        # a process of its own: tracemalloc counts what every thread of a process holds
        done = subprocess.run([sys.executable, "-c", SURVEY, path], capture_output=True, text=True, check=True)
        surveyed, peak = map(int, done.stdout.split())
        assert surveyed == rows
        peaks.append(peak)
    assert 8_000 * 8 < peaks[1] - peaks[0] < 8_000 * 40


SURVEY = """
import sys, tracemalloc
from impasto.mass.sources import Source, survey
tracemalloc.start()
rows = survey(Source(sys.argv[1], "/out"))[0]
print(rows, tracemalloc.get_traced_memory()[1])
"""


def test_late_stores_are_waited_for_absent_files_are_not(monkeypatch):
    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0))
    calls = []

    def cat_file(path, *args, **options):
        calls.append(path)
        if len(calls) < 3:
            raise TimeoutError("late")
        return b"content"

    monkeypatch.setattr(storage.locate("memory://a")[0], "cat_file", cat_file)
    assert storage.read("memory://a") == b"content"
    monkeypatch.setattr(storage, "WAITS", (0.0,))
    calls.clear()
    with pytest.raises(storage.StorageError, match="late"):
        storage.read("memory://a")
    monkeypatch.undo()
    with pytest.raises(UserError, match="there is no file 'memory://a'"):
        storage.read("memory://a")


def test_a_worker_paints_as_one_process_does(painter, photos, network_file, tmp_path, bucket):
    (photos / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 7 images failed"):
        batch.run(JOB, [network_file], str(photos), str(tmp_path / "alone"))
    for output in (str(tmp_path / "out"), "memory://out"):
        records = given(painter(output), Source(str(photos), output))
        assert [record["status"] for record in records] == ["done"] * 2 + ["failed"] + ["done"] * 4
        assert f"'{photos / 'bad.jpg'}' is not an image" in records[2]["error"]
        written = {
            record["output"]: storage.read(f"{output}/{record['output']}") for record in records if "mark" in record
        }
        alone = {path.relative_to(tmp_path / "alone").as_posix(): path for path in (tmp_path / "alone").rglob("*.*")}
        assert written == {name: path.read_bytes() for name, path in alone.items() if name != REPORT}
    assert not list(tmp_path.rglob("*tmp*"))


def test_what_a_worker_is_warned_of_is_in_its_records(painter, tmp_path, caplog):
    half = noise_image(20, 16)
    half.putalpha(128)
    half.save(tmp_path / "half.png")
    noise_image(20, 16).save(tmp_path / "whole.png")
    noise_image(20, 16).save(tmp_path / "film.gif", save_all=True, append_images=[noise_image(20, 16, 1)])
    rows = [{"input": f"{name}", "output": f"{name}.jpg"} for name in ("half.png", "whole.png", "film.gif")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records = given(painter(), Source(str(tmp_path / "list.jsonl"), str(tmp_path / "out")))
    assert [record["status"] for record in records] == ["done"] * 3
    half, film = str(tmp_path / "half.png"), str(tmp_path / "film.gif")
    assert [record.get("warnings", []) for record in records] == [
        [f"'{half}': .jpg has no transparency: it is laid over white"],
        [],
        [f"'{film}' has 2 frames, and only the first is painted: .gif, .png, .webp hold all"],
    ]
    caplog.clear()
    assert list(_watched(iter([records]))) == [records]
    assert caplog.messages == [*records[0]["warnings"], *records[2]["warnings"]]


def test_the_input_is_never_written_over(painter, photos):
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    with pytest.raises(UserError, match="its images would be written over"):
        list(Source(str(photos), f"{photos}/"))
    (photos / "list.txt").write_text("a.jpg\nlink/a.jpg\n")
    (photos / "link").symlink_to(photos)
    for record in given(painter(output=photos), Source(str(photos / "list.txt"), str(photos))):
        assert "would be written over" in record["error"]
    assert {path: path.read_bytes() for path in before} == before


def test_no_result_is_written_over_another_rows_photo(tmp_path):
    """As the second photo would be, were the first to get its name."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg", "sub/sub.jpg"):
        noise_image(9, 9).save(tmp_path / "in" / name)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for rows in ("a.jpg,sub/b.jpg\nsub/b.jpg,c.jpg\n", f"a.jpg,b.jpg\n{tmp_path}/link/sub/b.jpg,c.jpg\n"):
        (tmp_path / "in" / "list.csv").write_text(f"input,output\n{rows}")
        output = tmp_path / "in" / ("sub" if "link" in rows else ".")
        with pytest.raises(UserError, match=r"b.jpg' there is one of the inputs, and would be written over"):
            survey(Source(str(tmp_path / "in" / "list.csv"), str(output.resolve())))
    (tmp_path / "in" / "list.csv").write_text("input,output\na.jpg,c.jpg\nsub/b.jpg,d.jpg\n")
    assert survey(Source(str(tmp_path / "in" / "list.csv"), str(tmp_path / "in")))[0] == 2


def test_rows_that_lead_nowhere_do_not_end_the_survey(tmp_path):
    (tmp_path / "list.txt").write_text("foo://x/a.jpg\nsub\0/b.jpg\nfile:///c.jpg\nd.jpg\n")
    assert survey(Source(str(tmp_path / "list.txt"), str(tmp_path / "out")))[0] == 4
    rows = "input,output\nsub\0/b.jpg,b.jpg\n"
    (tmp_path / "list.csv").write_text(rows)
    assert survey(Source(str(tmp_path / "list.csv"), str(tmp_path / "out")))[0] == 1
    (tmp_path / "list.csv").write_text(f"input,output\nfile://{tmp_path}/out/a.jpg,b.jpg\nc.jpg,a.jpg\n")
    with pytest.raises(UserError, match="'a.jpg' there is one of the inputs"):
        survey(Source(str(tmp_path / "list.csv"), str(tmp_path / "out")))


def test_the_output_can_be_above_the_input(tmp_path):
    (tmp_path / "in" / "sub" / "sub").mkdir(parents=True)
    for name in ("sub/a.jpg", "sub/sub/b.jpg"):
        noise_image(9, 9).save(tmp_path / "in" / name)
    source = Source(str(tmp_path / "in" / "sub"), str(tmp_path / "in"))
    assert [entry.name for entry in source] == ["a.jpg", "sub/b.jpg"]
    assert survey(source)[0] == 2
    noise_image(9, 9).save(tmp_path / "in" / "sub" / "b.jpg")
    with pytest.raises(UserError, match=r"'sub/b.jpg' there is one of the inputs, and would be written over"):
        survey(source)


def test_what_is_done_is_left_out_what_changed_is_not(painter, photos, tmp_path):
    source, out = Source(str(photos), str(tmp_path / "out")), tmp_path / "out"

    def painted(**changes):
        report = Report(str(out))
        records = given(painter(done=done_before(str(out)), **changes), source)
        report.add(records)
        report.close()
        return {record["output"] for record in records if record["status"] == "done"}

    everything = {entry.name for entry in source}
    assert painted() == everything
    assert painted() == set()
    noise_image(50, 50, 99).save(photos / "a.jpg")
    (out / "b.PNG").unlink()
    assert painted() == {"a.jpg", "b.PNG"}
    assert painted(quality=50) == everything  # which are written over
    assert painted() == everything
    with sorted((out / REPORTS).iterdir())[-1].open("a") as report:
        report.write('{"half a li')  # of a run that was killed
    assert painted() == set()


def test_records_outlive_a_kill_in_object_stores_too(bucket, monkeypatch):
    monkeypatch.setattr("impasto.mass.report.PART_RECORDS", 2)
    report = Report("memory://out")
    for index in range(5):  # and is killed: `close` is not called
        report.add([{"status": "done", "output": f"{index}.png", "mark": index + 1, "check": 9, "id": 1, "begun": 0}])
    assert done_before("memory://out").tolist() == [1, 2, 3, 4]
    assert done_before("memory://other").tolist() == []


def test_verifying_finds_what_is_lost_which_is_then_painted_anew(painter, photos, tmp_path):
    source, out = Source(str(photos), str(tmp_path / "out")), tmp_path / "out"
    for expected in ([6, 0, 0, 0], [0, 0, 4, 2], [2, 4, 0, 0], [0, 0, 6, 0]):
        report = Report(str(out))
        verify = expected[2] > 0
        done = done_before(str(out), "check" if verify else "mark")
        records = given(Verifier(str(out), done) if verify else painter(done=done), source)
        report.add(records)
        report.close()
        counts = [[record["status"] for record in records].count(s) for s in ("done", "skipped", "verified", "lost")]
        assert counts == expected
        if expected[0] == 6:
            noise_image(9, 9).save(out / "a.jpg")
            (out / "f.jpg").write_bytes((out / "f.jpg").read_bytes()[:-100])


def test_a_picture_that_kills_its_workers_fails_alone(painter, photos, monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    entries, ledger = list(Source(str(photos), str(tmp_path / "out"))), Ledger()

    def read(place):
        if place.endswith("c.jpeg"):
            raise Killed
        return Path(place).read_bytes()

    monkeypatch.setattr(storage, "read", read)
    for _ in range(4):  # twice for the batch, twice for the picture
        with pytest.raises(Killed):
            given(painter(ledger=ledger), entries)
    records = given(painter(ledger=ledger), entries)
    assert [record["status"] for record in records] == ["done", "done", "failed", "done", "done", "done"]
    assert "2 workers died of it" in records[2]["error"]
    assert set(ledger.begun) == {entries[2].identity}  # nothing else piles up


def test_a_damaged_network_and_a_full_disk_are_told_apart_from_bad_photos(painter, photos, tmp_path, monkeypatch):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    entries = list(Source(str(photos), str(tmp_path / "out")))
    (stopped,) = given(painter(networks=[tmp_path / "bad.safetensors"]), entries)
    assert stopped["status"] == "stopped"
    assert "bad.safetensors" in stopped["error"]
    (tmp_path / "file").write_bytes(b"")
    records = given(painter(output=tmp_path / "file" / "out"), entries)
    assert all(record["storage"] and "cannot write" in record["error"] for record in records)
    monkeypatch.setattr("impasto.mass.painting.read_content", lambda *_: 1 / 0)  # a bug of ours
    (record, *_) = given(painter(), entries)
    assert record["error"] == f"'{photos / 'a.jpg'}': ZeroDivisionError: division by zero"


def test_a_store_that_does_not_answer_loses_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WAITS", ())
    late = Mock(side_effect=TimeoutError)
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", late)
    records = given(Verifier(str(photos), NOTHING), Source(str(photos), "/out"))
    assert {(record["status"], record["storage"]) for record in records} == {("failed", True)}


def test_a_file_too_large_is_not_read(painter, tmp_path, monkeypatch):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(80 << 20)  # a hole
    monkeypatch.setattr(storage, "read", lambda place: pytest.fail("it is read"))
    (record,) = given(painter(megapixels=1), [Entry(str(tmp_path / "a.png"), "a.png")])
    assert "has 0.1 GB, too many for max_megapixels=1" in record["error"]


def test_each_entry_must_have_one_record(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    source = Source(str(tmp_path / "list.txt"), "/out")
    first, second = ({"status": "done", "id": entry.identity, "worker": "w", "begun": 1.0} for entry in source)
    for records, whole in (([first, second], True), ([first], False), ([first, first], False)):
        summary = Summary(*survey(source))
        summary.add(records)
        assert summary.is_whole is whole
        assert summary.told()["workers"] == {"w": len(records)}


def test_large_results_are_verified_as_they_were_painted(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("impasto.mass.painting.MEGAPIXELS", 0.001)
    noise_image(60, 50).save(tmp_path / "a.png")
    checks = np.array([check_mark("a.png", (tmp_path / "a.png").read_bytes())], np.uint64)
    (record,) = given(Verifier(str(tmp_path), checks, 0.001), [Entry("x", "a.png")])
    assert (record["status"], record["error"]) == ("failed", "'a.png' takes a larger max_megapixels= to be verified")
    (record,) = given(Verifier(str(tmp_path), checks, 0.004), [Entry("x", "a.png")])
    assert record["status"] == "verified"


def test_verified_results_are_pictures(tmp_path):
    """A result whose bytes are those written, and which is no picture all the same."""
    written = BytesIO()
    Image.new("RGB", (9, 9)).save(written, "PNG")
    (tmp_path / "a.png").write_bytes(written.getvalue()[:-30])
    checks = np.array([check_mark("a.png", written.getvalue()[:-30])], np.uint64)
    (record,) = given(Verifier(str(tmp_path), checks), [Entry("x", "a.png")])
    assert record["status"] == "lost"


def test_json_that_is_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "list.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1 of the manifest .* is no JSON object"):
        list(Source(str(tmp_path / "list.jsonl"), "/out"))


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("memory://photos", "'memory://photos' is in the memory of one process"),
        ("zip://in::/photos.zip", "'zip://in::/photos.zip': a folder within a file cannot be listed or written"),
    ],
)
def test_places_that_workers_cannot_share_are_one_line(place, line):
    with pytest.raises(UserError, match=re.escape(line)):
        absolute(place)
