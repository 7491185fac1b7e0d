import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impasto import batch, picture_files
from impasto.checkpoint import save_network
from impasto.commands.stylize import stylize
from impasto.controls import Controls
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.folder import REPORT, REPORTS
from impasto.image import find_images, read_image, to_array
from impasto.job import Job, default_output
from impasto.models.transformer_net import TransformerNet
from impasto.picture_files import read_picture

from .conftest import ROOT, noise_image

JOB = Job(device="cpu", precision="float32")


@pytest.fixture
def paint(network_file):
    def paint(source, output=None, networks=None, as_json=False, **changes):
        job = Job(**{"device": "cpu", "precision": "float32", **changes})
        batch.run(job, networks or [network_file], str(source), None if output is None else str(output), as_json)

    return paint


def records(folder):
    return [json.loads(line) for line in (folder / REPORT).read_text().splitlines()]


SIZES = [(1, 1), (2, 3), (17, 1), (16, 16), (61, 33), (321, 179)]


def test_a_folder_keeps_places_names_and_sizes(paint, tmp_path):
    for index, size in enumerate(SIZES):
        folder = tmp_path / "in" / ("deeper" if index % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        noise_image(*size).save(folder / f"{index}.png")
    paint(tmp_path / "in", tmp_path / "out")
    written = {
        path.relative_to(tmp_path / "out").as_posix(): read_image(path).size
        for path in (tmp_path / "out").rglob("*.png")
    }
    assert written == {f"deeper/{i}.png" if i % 2 else f"{i}.png": size for i, size in enumerate(SIZES)}
    assert [record["status"] for record in records(tmp_path / "out")] == ["done"] * 6


def test_what_another_style_painted_inside_the_folder_is_no_photo(paint, photos, tmp_path, caplog):
    caplog.set_level("INFO")
    (photos / "deeper").mkdir(exist_ok=True)
    (photos / "deeper" / REPORT).write_text("of another program")
    count = len(find_images(photos))
    paint(photos, photos / "night")
    paint(photos, photos / "wave")
    assert len(find_images(photos / "wave")) == count
    assert f"left out: {count} pictures painted before" in caplog.messages
    noise_image(20, 16).save(photos / "night" / "own.png")  # a photo beside them
    paint(photos, tmp_path / "all")
    assert len(find_images(tmp_path / "all")) == count + 1
    (photos / "night" / "deeper" / "again").mkdir()
    noise_image(20, 16).save(photos / "night" / "deeper" / "again" / "c.jpeg")  # of another folder's name
    paint(photos, tmp_path / "more")
    assert len(find_images(tmp_path / "more")) == count + 2
    shutil.rmtree(photos / "night" / "deeper" / "again")
    (photos / "night" / "own.png").unlink()
    paint(photos / "night", tmp_path / "twice")  # as it is asked for
    assert len(find_images(tmp_path / "twice")) == count


def test_what_stylize_many_painted_inside_the_folder_is_no_photo(paint, photos, tmp_path):
    count = len(find_images(photos))
    (photos / "wave" / "deeper").mkdir(parents=True)
    (photos / "wave" / REPORTS).mkdir()
    for name in ("a.png", "deeper/b.png"):
        noise_image(20, 16).save(photos / "wave" / name)
    (tmp_path / "elsewhere").mkdir()
    (photos / "wave").rename(tmp_path / "elsewhere" / "wave")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    paint(photos, tmp_path / "out")
    assert len(find_images(tmp_path / "out")) == count
    paint(photos / "linked" / "wave", tmp_path / "twice")  # as it is asked for
    assert len(find_images(tmp_path / "twice")) == 2


def test_several_styles_go_to_a_folder(paint, photos, network_file, tmp_path):
    with pytest.raises(UserError, match="y.png: 2 styles go to a folder"):
        paint(photos / "a.jpg", tmp_path / "y.png", [network_file, network_file])


def test_what_is_done_is_left_out_what_changed_is_not(paint, photos, tmp_path):
    out = tmp_path / "out"

    def written():
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
        time.sleep(0.02)
        paint(photos, out, **changes)
        return {p.name for p in out.rglob("*.*") if p.name != REPORT and p.stat().st_mtime_ns != before.get(p)}

    changes = {}
    names = {"a.jpg", "b.PNG", "c.jpeg", "d.webp", "e.bmp", "f.jpg"}
    assert written() == names
    assert written() == set()
    noise_image(50, 50, 99).save(photos / "a.jpg")
    (out / "b.PNG").unlink()
    assert written() == {"a.jpg", "b.PNG"}
    changes = {"controls": Controls(strength=0.5)}  # another picture
    assert written() == names
    with (out / REPORT).open("a") as report:
        report.write('{"half a li')  # of a run that was killed
    (out / "b.PNG").unlink()
    assert written() == {"b.PNG"}
    assert written() == set()
    changes |= {"megapixels": 2.0, "tile": 128}  # as messages advise, which changes no picture
    assert written() == set()
    changes |= {"exact": False}
    assert written() == names


def test_damaged_files_are_reported_and_fail_the_run_in_the_end(paint, photos, tmp_path, caplog):
    (photos / "bad one.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"1 of 7 images failed; '.*report.jsonl' says why"):
        paint(photos, tmp_path / "out")
    assert "bad one.jpg' is not an image" in caplog.text
    failed = [record for record in records(tmp_path / "out") if record["status"] == "failed"]
    assert [record["input"] for record in failed] == [str(photos / "bad one.jpg")]
    assert len(list((tmp_path / "out").rglob("*.*"))) == 6 + 1
    noise_image(9, 9).save(photos / "bad one.jpg")
    paint(photos, tmp_path / "out")  # the mended one alone
    assert len(records(tmp_path / "out")) == 8


def test_a_damaged_file_costs_no_style_its_turn(paint, photos, two, tmp_path):
    (photos / "bad.jpg").write_text("no image")
    names = [Path(network).stem for network in two]
    lines = "; ".join(f"1 of 7 images failed; '.*{name}/report.jsonl' says why" for name in names)
    with pytest.raises(UserError, match=f"^{lines}$"):
        paint(photos, tmp_path / "out", networks=two)
    assert [len(list((tmp_path / "out" / name).rglob("*.*"))) for name in names] == [6 + 1] * 2


def test_a_full_disk_ends_a_folder(paint, photos, tmp_path, monkeypatch, caplog):
    def mkstemp(prefix, suffix, dir):
        if suffix == ".PNG":
            raise OSError(errno.ENOSPC, "No space left on device")
        return made(prefix=prefix, suffix=suffix, dir=dir)

    made = tempfile.mkstemp
    monkeypatch.setattr("tempfile.mkstemp", mkstemp)
    with pytest.raises(UserError, match=r"cannot write .*b.PNG': No space left on device"):
        paint(photos, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", REPORT]
    assert "skipped" not in caplog.text


def test_a_batch_that_fails_is_painted_one_by_one(paint, tmp_path, monkeypatch, caplog):
    (tmp_path / "in").mkdir()
    for index in range(5):
        noise_image(40, 30, index).save(tmp_path / "in" / f"{index}.png")
    sizes, engine = [], EagerEngine.__call__

    def failing(self, content):
        sizes.append(len(content))
        if len(content) > 1 or np.array_equal(content, bad):
            raise MemoryError
        return engine(self, content)

    bad = to_array(read_image(tmp_path / "in" / "3.png"))
    monkeypatch.setattr(EagerEngine, "__call__", failing)
    with pytest.raises(UserError, match="1 of 5 images failed"):
        paint(tmp_path / "in", tmp_path / "out")
    assert sizes == [5, 1, 1, 1, 1, 1]
    assert [record["status"] for record in records(tmp_path / "out")] == ["done"] * 3 + ["failed", "done"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_photos_as_windows_saves_them_are_photos(paint, tmp_path):
    for name in ("a.jfif", "b.jpe"):
        noise_image(24, 20).save(tmp_path / name, "JPEG")
    paint(tmp_path, tmp_path / "out")
    for name in ("a.jfif", "b.jpe"):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.format, image.size) == ("JPEG", (24, 20))


def test_names_that_would_meet_stay_apart(paint, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "b.ppm"):
        noise_image(9, 9).save(tmp_path / "in" / name)
    paint(tmp_path / "in", tmp_path / "out", suffix=".webp")
    assert {path.name for path in (tmp_path / "out").glob("*.webp")} == {"a.jpg.webp", "a.png.webp", "b.webp"}
    paint(tmp_path / "in", tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").glob("*.*g")} == {"a.jpg", "a.png", "b.ppm.png"}


def test_links_in_a_loop_end_and_each_folder_is_entered_once(paint, photos, tmp_path):
    for index in range(3):
        (photos / "deeper" / f"up{index}").symlink_to(photos)
        (photos / f"again{index}").symlink_to(photos / "deeper")
    outside = tmp_path / "outside"
    outside.mkdir()
    noise_image(9, 9).save(outside / "g.png")
    (photos / "z").symlink_to(outside)
    paint(photos, tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "a.jpg", "b.PNG", "deeper/c.jpeg", "deeper/d.webp", "deeper/still/e.bmp", "f.jpg", REPORT, "z/g.png",
    ]  # fmt: skip


def test_what_would_never_end_is_skipped(paint, photos, tmp_path, caplog):
    os.mkfifo(photos / "pipe.png")
    (photos / "zero.png").symlink_to("/dev/zero")
    (photos / "gone.png").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="3 of 9 images failed"):
        paint(photos, tmp_path / "out")
    assert caplog.text.count("is a pipe or a device") == 2
    with pytest.raises(UserError, match="is a pipe or a device"):
        paint(photos / "pipe.png", tmp_path / "out.png")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_names_can_be_any_bytes(network_file, tmp_path):
    (tmp_path / "in").mkdir()
    names = [b"\xff\xfe.png", b"new\nline.png", b"-o.png", b"\x1b[31m.png", b"a.png", b"A.png", b" .png", b"$(x).png"]
    for name in names:
        noise_image(9, 9).save(tmp_path / "in" / os.fsdecode(name))
    long = [f"{'x' * 250}.png", f"{'y' * 251}.ppm"]  # whose results' names are 254 and 259 bytes long
    for name in long:
        noise_image(9, 9).save(tmp_path / "in" / name)
    (tmp_path / "in" / os.fsdecode(b"bad\xff\n.png")).write_bytes(b"no image")

    def stylize(*words):
        command = [sys.executable, str(ROOT / "stylize.py"), f"ckpt={network_file}", "device=cpu", *words]
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    result = stylize("input=in", "output=out", "json=true")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("error: 2 of 11 images failed")
    assert all(line.startswith(("Style: ", "warning: skipped: ", "Wrote ", "error: ")) for line in lines)
    assert len(result.stdout.splitlines()) == 11
    written = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()}
    assert written == {*names, long[0].encode(), REPORT.encode()}
    assert {json.loads(line)["input"] for line in result.stdout.splitlines()} == {
        os.path.join("in", name) for name in os.listdir(tmp_path / "in")
    }
    again = stylize("input=in", "output=out")
    assert "9 were there already" in again.stdout


def test_a_picture_that_its_format_cannot_hold_does_not_end_a_folder(paint, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    Image.new("L", (66000, 1)).save(tmp_path / "in" / "a.png")
    noise_image(9, 9).save(tmp_path / "in" / "b.png")
    with pytest.raises(UserError, match="1 of 2 images failed"):
        paint(tmp_path / "in", tmp_path / "out", suffix=".jpg")
    assert "a.png': 66000×1 px do not fit into .jpg, whose sides end at 65500 px: take .png or .tif" in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.jpg", REPORT}


def test_what_is_in_the_place_of_one_picture_does_not_end_a_folder(paint, tmp_path, caplog):
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        noise_image(9, 9).save(tmp_path / "in" / f"{name}.png")
    with pytest.raises(UserError, match="1 of 3 images failed"):
        paint(tmp_path / "in", tmp_path / "out")
    assert "out/b.png': Is a directory" in caplog.text
    assert (tmp_path / "out" / "c.png").is_file()
    assert len((tmp_path / "out" / REPORT).read_text().splitlines()) == 3


def test_a_picture_and_a_folder_of_one_name_are_told(paint, tmp_path):
    (tmp_path / "in" / "a.jpg").mkdir(parents=True)
    for name in ("a.png", "a.jpg/b.png", "c.png"):
        noise_image(9, 9).save(tmp_path / "in" / name)
    with pytest.raises(UserError, match=r"in/a.png' would get the name of a folder, .*out/a.jpg': rename one"):
        paint(tmp_path / "in", tmp_path / "out", suffix=".jpg")
    assert not (tmp_path / "out").exists()


def test_an_output_that_links_to_what_is_not_there_yet_is_made(paint, photos, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new" / "place")
    paint(photos, tmp_path / "link")
    assert (tmp_path / "new" / "place" / "a.jpg").is_file()


def test_a_checkpoints_name_leads_nowhere_else(paint, tmp_path, small_net):
    noise_image(9, 9).save(tmp_path / "photo.png")
    hostile = tmp_path / "hostile.safetensors"
    save_network(hostile, small_net, {"style": {"name": "/../../up\n"}})
    before = set(tmp_path.rglob("*"))
    paint(tmp_path / "photo.png", networks=[hostile])
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"photo__.._.._up_.png"}


def test_default_names_lie_beside_the_input(tmp_path):
    assert default_output(tmp_path / "a b.heic", "night") == tmp_path / "a b_night.png"
    assert default_output(tmp_path / "a.JPG", "night") == tmp_path / "a_night.JPG"
    assert default_output(tmp_path, "night") == tmp_path.parent / f"{tmp_path.name}_night"
    with pytest.raises(UserError, match=f"input={tmp_path.anchor} has no name to call the results by: say output="):
        default_output(Path(tmp_path.anchor), "night")
    (tmp_path / "album" / "holiday").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "album" / "holiday")
    assert default_output(tmp_path / "link", "night") == tmp_path / "link_night"


def test_a_slash_makes_the_output_a_folder(paint, photos, tmp_path):
    paint(photos / "a.jpg", f"{tmp_path}/new/")
    assert read_image(tmp_path / "new" / "a.jpg").size == (80, 72)


def test_the_input_is_never_written_over(paint, photos):
    before = (photos / "a.jpg").read_bytes()
    for source, output in ((photos / "a.jpg", photos / "a.jpg"), (photos / "a.jpg", photos), (photos, photos)):
        with pytest.raises(UserError, match="written over"):
            paint(source, output)
    (photos / "a_test.jpg").symlink_to(photos / "a.jpg")
    with pytest.raises(UserError, match="a_test.jpg' is the input: it would be written over"):
        paint(photos / "a.jpg")
    assert (photos / "a.jpg").read_bytes() == before


def test_a_folder_is_known_by_any_name(paint, photos, monkeypatch):
    """As on disks to which letters of either case are one."""
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: stat(Path(str(path).replace("/PHOTOS", "/photos")), **how))
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    assert photos.name == "photos"
    shouted = photos.with_name("PHOTOS")
    (photos / "deeper" / "deeper").mkdir()
    noise_image(9, 9).save(photos / "deeper" / "deeper" / "c.jpeg")
    for source, output in ((photos, shouted), (photos / "deeper", shouted)):
        with pytest.raises(UserError, match="would be written over"):
            paint(source, output)
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_within_the_output_is_not_written_over(paint, tmp_path):
    for name in ("sub/x.jpg", "sub/sub/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise_image(9, 9).save(tmp_path / name)
    before = (tmp_path / "sub" / "x.jpg").read_bytes()
    with pytest.raises(UserError, match="/sub/x.jpg' is one of the inputs, and would be written over"):
        paint(tmp_path / "sub", tmp_path)
    assert (tmp_path / "sub" / "x.jpg").read_bytes() == before


def test_styles_do_not_paint_each_others_pictures(paint, two, photos):
    for _ in range(2):
        paint(photos, photos / "painted", networks=two)
    assert len([path for path in (photos / "painted").rglob("*.*") if path.name != REPORT]) == 2 * 6


def test_styles_beside_the_photos_do_not_paint_each_others_pictures(paint, two, photos):
    for _ in range(2):
        paint(photos, photos, networks=two)
    painted = {path.relative_to(photos).parts[:1] for path in photos.rglob("*.*") if path.parent != photos}
    assert len([path for path in photos.rglob("*.*") if path.name != REPORT]) == 3 * 6, painted


def test_a_folder_with_nothing_but_results_is_said(paint, tmp_path):
    noise_image(9, 9).save(tmp_path / "a.png")
    paint(tmp_path / "a.png", f"{tmp_path}/in/out/")
    with pytest.raises(UserError, match="there are no images in '.*in' but those of output='.*out'"):
        paint(tmp_path / "in", tmp_path / "in" / "out")


def test_a_picture_from_a_pipe_can_be_painted_again(paint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise_image(9, 9).save(tmp_path / "a.png")
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.png").read_bytes())))
        paint("-", "./")
    assert read_image(tmp_path / "stdin.png").size == (9, 9)


def test_several_styles_paint_the_picture_of_one_pipe(paint, two, tmp_path, monkeypatch):
    content = io.BytesIO()
    noise_image(9, 9).save(content, "png")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.getvalue())))
    paint("-", f"{tmp_path}/many/", networks=two)
    assert [path.name for path in find_images(tmp_path / "many")] == ["stdin.png"] * 2


def test_a_folders_mask_is_not_written_over(paint, photos, tmp_path):
    (tmp_path / "out").mkdir()
    mask = tmp_path / "out" / "a.jpg"
    noise_image(20, 20).save(mask)
    before = mask.read_bytes()
    with pytest.raises(UserError, match="a.jpg' is one of the inputs, and would be written over"):
        paint(photos, tmp_path / "out", mask=mask)
    assert mask.read_bytes() == before


def test_names_that_meet_all_the_same_are_told(paint, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.ppm", "a.ppm.png"):
        noise_image(9, 9).save(tmp_path / "in" / name)
    with pytest.raises(UserError, match="a.ppm' and '.*a.ppm.png' would get the same name"):
        paint(tmp_path / "in", tmp_path / "out")


def test_a_format_names_an_output_without_a_suffix(paint, photos, tmp_path):
    paint(photos / "a.jpg", tmp_path / "painted", suffix=".webp")
    assert (tmp_path / "painted.webp").is_file()


def test_a_second_run_into_a_subfolder_does_not_stylize_its_own_output(paint, photos):
    paint(photos, photos / "painted")
    paint(photos, photos / "painted")
    assert not (photos / "painted" / "painted").exists()


def test_wrong_input_and_output_are_named(paint, photos, tmp_path):
    for source, output, changes, line in (
        (tmp_path / "nowhere.jpg", None, {}, "no image, video or folder"),
        (photos, photos / "a.jpg", {}, "a folder's pictures go to a folder, not a file"),
        (photos / "a.jpg", photos / "f.jpg" / "x.jpg", {}, "cannot write"),
        (photos / "a.jpg", tmp_path / "a.xyz", {}, "its suffix should be one of .*.webp$"),
        (photos / "a.jpg", tmp_path / "new", {}, "its suffix should be one of .*; for a folder, say '.*/new/'$"),
        (photos / "a.jpg", None, {"smooth": 0.5}, "smooth=0.5 is of videos: of pictures there are none before"),
        (photos, None, {"smooth": 7.0}, "smooth=7 is of videos"),
        (photos, tmp_path / "out", {"suffix": ".xyz"}, "format=xyz should be one of avif, bmp,"),
        (photos, "-", {}, "output=- takes one image and one style"),
        ("-", None, {}, "input=- takes output=-, or a file"),
        (photos / "a.jpg", None, {"mask": tmp_path / "none.png"}, "there is no image '.*none.png'"),
        (photos / "a.jpg", photos / "b.PNG", {"mask": photos / "b.PNG"}, "b.PNG' is the input: it would be written"),
        (
            photos / "a.jpg",
            None,
            {"mask": photos / "b.PNG", "feather": float("inf")},
            "feather=inf should be in 0…1000000",
        ),
        (
            photos / "a.jpg",
            None,
            {"mask": photos / "b.PNG", "feather": 1e30},
            r"feather=1e\+30 should be in 0…1000000",
        ),
        (photos, None, {"feather": 3.0}, "feather=3 softens the edges of a mask: say mask=, too"),
        (photos, tmp_path / "night.jpg", {}, "output=.*night.jpg: a folder's pictures go to a folder, not a file"),
        (
            photos / "a.jpg",
            None,
            {"controls": Controls(size=200_000)},
            "200000×180000 px are 36000 megapixels, more than max_megapixels=178: try a smaller size=",
        ),
        (photos / "a.jpg", None, {"megapixels": 0.001}, "more than max_megapixels=0.001"),
    ):
        with pytest.raises(UserError, match=line):
            paint(source, output, **changes)
    assert not (tmp_path / "out").exists()


def test_larger_images_than_pillow_takes_are_read_where_they_are_allowed(network_file, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(picture_files, "MEGAPIXELS", 0.002)
    noise_image(60, 50).save(tmp_path / "a.png")
    words = [f"ckpt={network_file}", f"input={tmp_path / 'a.png'}", "device=cpu"]
    with pytest.raises(UserError, match="too large"):
        stylize([*words, "max_megapixels=0.002"])
    stylize([*words, "max_megapixels=0.004"])
    assert (tmp_path / "a_test.png").is_file()


@pytest.fixture
def two(network_file, tmp_path):
    other = tmp_path / "networks" / "other.safetensors"
    save_network(other, TransformerNet(width=4, depth=1), {"style": {"name": "other"}})
    return [network_file, other]


def test_two_styles_split_a_picture(paint, two, tmp_path):
    noise_image(60, 40).save(tmp_path / "a.png")
    mask = Image.new("L", (60, 40), 0)
    mask.paste(255, (0, 0, 30, 40))
    mask.save(tmp_path / "mask.png")
    paint(tmp_path / "a.png", networks=two, mask=tmp_path / "mask.png", feather=0.0)
    split = read_picture(tmp_path / "a_test_other.png").pixels
    paint(tmp_path / "a.png", networks=two)
    first, second = (read_picture(tmp_path / f"a_{name}.png").pixels for name in ("test", "other"))
    np.testing.assert_array_equal(split, np.concatenate([first[:, :30], second[:, 30:]], axis=1))
    with pytest.raises(UserError, match="mask= takes one style, or two, not 3"):
        paint(tmp_path / "a.png", networks=[*two, two[0]], mask=tmp_path / "mask.png")


def test_two_networks_of_one_name_do_not_write_over_each_other(paint, network_file, tmp_path):
    noise_image(9, 9).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="two networks called 'test': their pictures would meet"):
        paint(tmp_path / "a.png", networks=[network_file, network_file])
    assert not list(tmp_path.glob("a_*"))


def test_metadata_is_kept_or_not(paint, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    noise_image(9, 9).save(tmp_path / "a.jpg", exif=exif)
    for keep, expected in ((True, "Camera"), (False, None)):
        paint(tmp_path / "a.jpg", tmp_path / "b.jpg", keep_metadata=keep)
        with Image.open(tmp_path / "b.jpg") as image:
            assert image.getexif().get(0x010F) == expected


def test_metadata_of_animations_is_kept_or_not(paint, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    frames = [noise_image(20, 16, seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], exif=exif)
    for suffix in (".webp", ".png"):
        for keep, expected in ((True, "Camera"), (False, None)):
            paint(tmp_path / "a.webp", tmp_path / f"b{suffix}", keep_metadata=keep)
            with Image.open(tmp_path / f"b{suffix}") as image:
                assert (image.n_frames, image.getexif().get(0x010F)) == (3, expected)


def test_all_frames_of_a_result_count_against_the_limit(paint, tmp_path):
    """They are held at once, as those of the input are."""
    frames = [noise_image(20, 10, number) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="3 frames of 2000×1000 px are 6 megapixels, more than max_megapixels=5"):
        paint(tmp_path / "a.gif", controls=Controls(size=2000), megapixels=5)


def test_animations_stay_animated(paint, tmp_path, caplog):
    frames = [noise_image(20, 16, seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 60, 70], loop=0)
    paint(tmp_path / "a.gif", tmp_path / "b.webp")
    with Image.open(tmp_path / "b.webp") as image:
        assert image.n_frames == 3
    assert "WARNING" not in {record.levelname for record in caplog.records}
    paint(tmp_path / "a.gif", tmp_path / "b.jpg")  # which has no frames: the first
    assert read_image(tmp_path / "b.jpg").size == (20, 16)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.endswith("a.gif' has 3 frames, and only the first is painted: .gif, .png, .webp hold all")


def test_a_document_of_several_pages_is_said_to_be_one(paint, tmp_path, caplog):
    pages = [noise_image(20, 16, seed) for seed in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    paint(tmp_path / "a.tif", tmp_path / "b.png")
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.endswith("a.tif' has 3 pages, and only the first is painted")


def test_what_is_done_is_known_however_the_folders_are_called(paint, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/a.png"):
        noise_image(20, 16).save(tmp_path / "in" / name)
    for source, output in (("in", "out"), (tmp_path / "in", tmp_path / "out"), ("in/", "in/../out")):
        paint(source, output)
    (tmp_path / "out").rename(tmp_path / "moved")
    paint("in", "moved")
    wrote = [message for message in caplog.messages if message.startswith("Wrote")]
    assert [line.partition(" to ")[0] for line in wrote] == ["Wrote 2 images", *["Wrote 0 images"] * 3]


def test_closed_streams_and_contradictions_are_told(paint, tmp_path, monkeypatch):
    noise_image(20, 16).save(tmp_path / "a.png")
    for suffix, line in ((".xyz", "format=xyz should be one of avif, bmp,"), (".mp4", "format=mp4 should be one of")):
        with pytest.raises(UserError, match=line):
            paint(tmp_path / "a.png", "b", suffix=suffix)
    with pytest.raises(UserError, match=r"output=.*b\.jpg with format=png: say one of them"):
        paint(tmp_path / "a.png", tmp_path / "b.jpg", suffix=".png")
    paint(tmp_path / "a.png", tmp_path / "b.jpeg", suffix=".jpg")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="input=-: the standard input is closed"):
        paint("-", tmp_path / "b.png")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UserError, match="output=-: the standard output is closed"):
        paint(tmp_path / "a.png", "-")


def test_a_folder_of_films_says_that_they_go_one_by_one(paint, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    with pytest.raises(UserError, match="there are no images in"):
        paint(tmp_path / "in", tmp_path / "out")
    assert "left out: 1 videos (a.mp4): input= takes them one by one" in caplog.text


def test_a_pipe_and_machines(network_file, tmp_path):
    """Standard input to standard output, where nothing but the picture goes; and a line of JSON per image."""
    noise_image(50, 30).save(tmp_path / "a.png")

    noise_image(300, 200).save(tmp_path / "large.png")

    def stylize(*words, **options):
        command = [sys.executable, str(ROOT / "stylize.py"), f"ckpt={network_file}", "device=cpu", *words]
        return subprocess.run(command, capture_output=True, check=True, **options)

    piped = stylize("input=-", "output=-", "format=webp", input=(tmp_path / "a.png").read_bytes())
    with Image.open(io.BytesIO(piped.stdout)) as image:
        assert (image.format, image.size) == ("WEBP", (50, 30))
    tiled = stylize(f"input={tmp_path / 'large.png'}", "output=-", "tile=128")
    with Image.open(io.BytesIO(tiled.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (300, 200))
    told = stylize(f"input={tmp_path / 'large.png'}", f"output={tmp_path / 'b.png'}", "json=true", "tile=128")
    (line,) = told.stdout.decode().splitlines()
    assert json.loads(line)["output"] == str(tmp_path / "b.png")


def test_a_folder_killed_and_then_interrupted_is_done_by_the_next_run(network_file, tmp_path):
    """Whole files only, whenever it ends; what is done is not done again; Ctrl-C leaves nothing else behind."""
    (tmp_path / "in").mkdir()
    for index in range(60):
        noise_image(400, 300, index).save(tmp_path / "in" / f"{index:02d}.png")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "stylize.py"), f"ckpt={network_file}", f"input={tmp_path / 'in'}"]
    command += [f"output={out}", "device=cpu"]

    def written():
        return {path.name for path in out.glob("[0-9]*.png")}

    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = len(written())
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while len(written()) < before + 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == status
        assert b"Traceback" not in stderr
        assert before + 3 <= len(written()) < 60
        for name in written():
            assert read_image(out / name).size == (400, 300)
        if number == signal.SIGKILL:
            for half in out.glob(".*"):  # at most the one that was being written
                half.unlink()
    assert {path.name for path in out.iterdir()} == {REPORT, *written()}
    done = [record["input"] for record in records(out) if record["status"] == "done"]
    assert len(done) <= len(set(done)) + 4  # written, but not yet in the report when it was killed
    again = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    assert f"Wrote {60 - len(set(done))} images" in again.stdout
    assert len(written()) == 60
