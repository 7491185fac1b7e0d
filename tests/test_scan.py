import json
import os

import numpy as np
import pytest
from PIL import Image

from impasto.data import scan as module
from impasto.data.scan import KINDS, Photo, Reject, fingerprint, look, remember, report, scan, unfit, write_rejects
from impasto.errors import UserError
from impasto.image import find_images

from .conftest import noise_image


@pytest.fixture
def mixed(photos):
    """Six good photos and one of each other kind."""
    (photos / "corrupt.jpg").write_bytes((photos / "a.jpg").read_bytes()[:700])
    (photos / "deeper" / "duplicate.jpg").write_bytes((photos / "a.jpg").read_bytes())
    noise_image(200, 31).save(photos / "tiny.png")
    noise_image(80, 80).convert("L").save(photos / "grey.jpg")
    return photos


def rejects(folder, size=64, keep=()):
    return unfit(scan(find_images(folder), folder, folder / "records"), size, keep)


def test_each_kind_is_found_and_named(mixed):
    assert {(reject.photo, reject.kind) for reject in rejects(mixed)} == {
        ("corrupt.jpg", "corrupt"),
        ("deeper/duplicate.jpg", "duplicate"),
        ("grey.jpg", "grey"),
        ("tiny.png", "tiny"),
    }
    reasons = {reject.kind: reject.reason for reject in rejects(mixed)}
    assert str(mixed / "corrupt.jpg") in reasons["corrupt"]
    assert reasons["duplicate"] == "the same file as 'a.jpg'"
    assert reasons["tiny"] == "200×31 px, less than the crop's 64"


@pytest.mark.parametrize("sigma", [0, 5, 60])
def test_what_is_grey_does_not_depend_on_the_size_asked_for(tmp_path, sigma):
    """As in scans of black and white, whose noise is not."""
    generator = np.random.default_rng(0)
    pixels = generator.normal(120, sigma, (400, 400, 3)) + np.linspace(-80, 80, 400)[:, None]
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    found = {look("a.jpg", tmp_path / "a.jpg", side)[0].grey for side in (32, 128, 320)}
    assert found == {sigma < 60}
    content = (tmp_path / "a.jpg").read_bytes()
    assert look("a.jpg", lambda: content, 128)[0] == look("a.jpg", tmp_path / "a.jpg", 128)[0]


def test_kinds_may_be_kept_but_for_corrupt_ones(mixed):
    assert [reject.kind for reject in rejects(mixed, keep=KINDS)] == ["corrupt"]
    assert {reject.kind for reject in rejects(mixed, keep=("grey",))} == {"corrupt", "tiny", "duplicate"}


@pytest.mark.parametrize("size", [72, 73])
def test_tiny_means_less_than_the_crop(photos, size):
    assert len(rejects(photos, size)) == (6 if size == 73 else 0)  # all are 72 px high


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_is_found_in_any_mode(tmp_path, mode):
    pixels = (np.arange(64 * 64).reshape(64, 64) * (16 if mode == "I;16" else 1 / 16)).astype(
        np.uint16 if mode == "I;16" else np.uint8
    )
    image = Image.fromarray(pixels)
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "a.png")
    assert look("a.png", tmp_path / "a.png", 32)[0].grey


def test_grey_stored_in_colour_is_grey_and_one_patch_of_colour_is_not(tmp_path):
    grey = noise_image(256, 256).convert("L").convert("RGB")
    grey.save(tmp_path / "grey.jpg")
    grey.paste((200, 30, 30), (41, 41, 47, 47))
    grey.save(tmp_path / "patch.png")
    for short_side in (32, 256):  # as scanned, as packed
        assert look("grey.jpg", tmp_path / "grey.jpg", short_side)[0].grey
        assert not look("patch.png", tmp_path / "patch.png", short_side)[0].grey


def test_a_photo_in_memory_is_looked_at_as_a_file_is(photos):
    content = (photos / "a.jpg").read_bytes()
    (one, pixels), (other, same) = look("a", photos / "a.jpg", 50), look("a", lambda: content, 50)
    assert one == other
    assert (pixels == same).all()
    assert "'bad.jpg' is not an image" in look("bad.jpg", lambda: b"text", 50)[0].problem


def test_pipes_and_links_to_nowhere_are_corrupt(photos):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "nowhere.png").symlink_to("gone.png")
    assert [(reject.photo, reject.kind) for reject in rejects(photos)] == [
        ("nowhere.png", "corrupt"),
        ("pipe.jpg", "corrupt"),
    ]


def many(kind, count):
    return [module.Reject(f"{kind}{n}.jpg", kind, "a reason") for n in range(count)]


def test_a_few_of_each_kind_are_named_and_all_are_counted(tmp_path, caplog):
    report(many("corrupt", 9) + many("grey", 2), 300, tmp_path, 0.05)
    assert [line.split()[1] for line in caplog.messages[:-1]] == [
        *(f"corrupt{n}.jpg" for n in range(3)),
        "grey0.jpg",
        "grey1.jpg",
    ]
    assert caplog.messages[-1] == f"skipped 11 of 300 images in {str(tmp_path)!r}: 9 corrupt, 2 grey"


def test_more_than_the_share_is_an_error_that_says_how_to_go_on(tmp_path):
    report(many("grey", 5), 100, tmp_path, 0.05)
    with pytest.raises(UserError) as error:
        report(many("grey", 5) + many("corrupt", 1), 100, tmp_path, 0.05)
    assert str(error.value) == (
        f"6 of 100 images in {str(tmp_path)!r} will not do (1 corrupt, 5 grey), more than data.max_rejects=0.05 of "
        "them: mend or remove them, or data.keep=grey learns from them, too, or data.max_rejects=0.06 leaves them out"
    )
    report(many("grey", 5) + many("corrupt", 1), 100, tmp_path, 0.06)
    report([], 100, tmp_path, 0)


@pytest.mark.parametrize("number", [29, 57, 58])
def test_the_share_that_is_said_is_enough(tmp_path, number):
    rejects = [Reject(f"{index}.jpg", "grey", "it is") for index in range(number)]
    with pytest.raises(UserError, match="leaves them out") as error:
        report(rejects, 100, tmp_path, 0.05)
    report(rejects, 100, tmp_path, float(str(error.value).split("data.max_rejects=")[-1].split()[0]))


def test_tiny_photos_may_do_for_smaller_crops(tmp_path):
    with pytest.raises(UserError, match=r"or data.keep=tiny or a smaller data.image_size= learns from them, too$"):
        report(many("tiny", 2), 2, tmp_path, 1)


def test_none_that_will_do_is_an_error_whatever_the_share(tmp_path):
    with pytest.raises(UserError, match=r"none of the 2 images in .* will do \(2 corrupt\)"):
        report(many("corrupt", 2), 2, tmp_path, 1)


def test_a_scan_of_many_is_remembered_until_a_photo_changes(mixed, monkeypatch):
    records = mixed.parent / "records"

    def found():
        return scan(find_images(mixed), mixed, records)

    first = found()
    assert not records.exists()  # few photos
    monkeypatch.setattr(module, "MANY", 5)
    assert found() == first
    with monkeypatch.context() as patched:
        again = []
        patched.setattr(module, "look", lambda name, *rest: again.append(name) or look(name, *rest))
        assert found() == first
        assert again == ["corrupt.jpg"]  # which may be mended without being changed, as by a package
    os.utime(mixed / "a.jpg", (1, 1))
    (mixed / "grey.jpg").unlink()
    assert len(found()) == len(first) - 1
    for record in records.glob("*.jsonl"):
        record.write_text("damaged")
    assert len(found()) == len(first) - 1


def test_a_scan_that_cannot_be_remembered_is_made_all_the_same(mixed, monkeypatch, caplog):
    monkeypatch.setattr(module, "MANY", 5)
    (mixed.parent / "file").touch()
    assert len(scan(find_images(mixed), mixed, mixed.parent / "file" / "records")) == 10
    assert "will not be remembered" in caplog.text


def test_a_folder_may_bring_its_own_record(photos):
    known = [Photo("a.jpg", 80, 72, grey=True, sha256="of a.jpg"), Photo("b.PNG", problem="no right to read")]
    remember(photos / module.RECORD, fingerprint(find_images(photos), photos), known)
    found = scan(find_images(photos), photos, photos)
    assert found == [known[0], look("b.PNG", photos / "b.PNG", module.GLANCE)[0]]
    assert not found[1].problem


def test_a_folder_of_photos_is_known_by_names_order_and_sizes(photos):
    paths = sorted(photos.rglob("*.*"))
    digest = fingerprint(paths, photos, times=False)
    moved = photos.rename(photos.with_name("moved"))
    paths = [moved / path.relative_to(photos) for path in paths]
    assert fingerprint(paths, moved, times=False) == digest
    assert fingerprint(paths[1:], moved, times=False) != digest
    assert fingerprint(paths[::-1], moved, times=False) != digest
    paths[0].write_bytes(b"another")
    assert fingerprint(paths, moved, times=False) != digest


def test_rejects_are_written_as_json_lines(mixed):
    write_rejects(mixed / "rejected.jsonl", rejects(mixed))
    lines = [json.loads(line) for line in (mixed / "rejected.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["corrupt", "duplicate", "grey", "tiny"]
    assert all(line.keys() == {"photo", "kind", "reason"} for line in lines)
