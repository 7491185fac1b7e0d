import os
import struct
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from impasto.errors import UserError
from impasto.image import find_images, read_image, read_images, save_image, to_array, to_image
from impasto.picture_files import read_picture

from .conftest import noise_image


def test_pixels_survive_the_way_to_an_array_and_back():
    image = noise_image(7, 5)
    array = to_array(image)
    assert array.shape == (1, 3, 5, 7)
    assert array.dtype == np.float32
    assert array[0, :, 2, 3] == pytest.approx(np.array(image.getpixel((3, 2))) / 255)
    assert to_image(array).tobytes() == image.tobytes()


def test_out_of_range_values_are_clipped():
    assert np.asarray(to_image(np.array([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1))).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("red", (0, 0, 10, 10))  # top left
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # FLIP_LEFT_RIGHT, ROTATE_180, …: Image.Transpose
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").tobytes() == upright.tobytes()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 128, (128, 128, 128)),
        ("1", 1, (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("I;16", 257 * 200, (200, 200, 200)),
        ("P", 3, None),
    ],
)
def test_modes_become_rgb(tmp_path, mode, colour, expected):
    Image.new(mode, (3, 2), colour).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.mode, image.size) == ("RGB", (3, 2))
    if expected:
        assert image.getpixel((1, 1)) == expected


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_image(tmp_path / "a.jpg").getpixel((4, 4))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_icc_profiles_are_converted_to_srgb(tmp_path):
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one, other in ((b"rXYZ", b"----"), (b"gXYZ", b"rXYZ"), (b"----", b"gXYZ"), (b"\0s\0R\0G", b"\0a\0R\0G")):
        swapped = swapped.replace(one, other)
    Image.new("RGB", (4, 4), (10, 200, 90)).save(tmp_path / "a.png", icc_profile=swapped)
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == pytest.approx((200, 10, 90), abs=3)
    Image.new("RGB", (4, 4), (10, 200, 90)).save(tmp_path / "b.png", icc_profile=b"no profile")
    assert read_image(tmp_path / "b.png").getpixel((0, 0)) == (10, 200, 90)


def test_short_side_shrinks_only(tmp_path):
    noise_image(90, 60).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", 30).size == (45, 30)
    assert read_image(tmp_path / "a.jpg", 300).size == (90, 60)


def png_bomb(side: int) -> bytes:
    """A PNG of side² pixels in a few hundred bytes: its header is all that a reader should need."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def test_bad_files_are_one_clear_line(tmp_path):
    noise_image(64, 64).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "bomb.png").write_bytes(png_bomb(20_000))
    for name, message in {
        "truncated.jpg": "cannot be read",
        "text.png": "not an image",
        "empty.png": "not an image",
        "bomb.png": "too large",
        "missing.png": "there is no image",
        ".": "is a folder",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            read_image(tmp_path / name)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)


def test_an_image_of_a_folder_that_cannot_be_read_is_passed_over(tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no image in '.*' can be read"):
        read_images(tmp_path, 20)
    noise_image(40, 30).save(tmp_path / "b.png")
    assert [image.size for image in read_images(tmp_path, 20)] == [(20, 15)]
    assert "a.jpg' is not an image" in caplog.messages[-1]
    with pytest.raises(UserError, match=r"a.jpg' is not an image"):
        read_images(tmp_path / "a.jpg", 20)


def test_a_link_to_a_name_without_a_suffix_is_written_as_its_own_says(tmp_path):
    (tmp_path / "a.png").symlink_to("other")
    save_image(noise_image(9, 5), tmp_path / "a.png")
    assert read_image(tmp_path / "other").tobytes() == noise_image(9, 5).tobytes()


def test_grey_stored_as_a_negative_comes_as_it_is(tmp_path):
    """Which Pillow passes over at 16 bits."""
    grey = np.linspace(0, 65535, 35).round().astype(np.uint16).reshape(5, 7)
    Image.fromarray(65535 - grey).save(tmp_path / "a.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").getchannel(0), (grey / 257).round())
    assert read_image(tmp_path / "a.tif").tobytes() == read_picture(tmp_path / "a.tif").to_pil().tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png", ".webp", ".bmp", ".tiff"])
def test_images_are_saved_by_suffix(tmp_path, suffix):
    save_image(noise_image(9, 4), tmp_path / "new" / f"a{suffix}")
    assert read_image(tmp_path / "new" / f"a{suffix}").size == (9, 4)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'.*a.xyz': its suffix should be one of"):
        save_image(noise_image(2, 2), tmp_path / "a.xyz")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_sides_too_long_for_a_format_are_one_clear_line(tmp_path, suffix):
    with pytest.raises(UserError, match=rf"a{suffix}': 1×70000 px do not fit into {suffix}, whose sides end at"):
        save_image(Image.new("RGB", (1, 70000)), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_images_are_found_at_any_depth_but_hidden_ones(photos):
    (photos / "notes.txt").write_text("")
    (photos / ".hidden").mkdir()
    noise_image(2, 2).save(photos / ".hidden" / "x.jpg")
    noise_image(2, 2).save(photos / ".y.jpg")
    found = [str(path.relative_to(photos)) for path in find_images(photos)]
    assert found == ["a.jpg", "b.PNG", "deeper/c.jpeg", "deeper/d.webp", "deeper/still/e.bmp", "f.jpg"]


def test_empty_and_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no images in"):
        find_images(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        find_images(tmp_path / "nowhere")


def test_photos_of_a_folder_are_brought_to_size_one_by_one(tmp_path, monkeypatch):
    """All of them at full size would not fit into memory."""
    for number in range(5):
        noise_image(400, 300).save(tmp_path / f"{number}.png")
    read, alive = list[weakref.ref[Image.Image]](), []

    def recorded(path):
        alive.append(sum(reference() is not None for reference in read))
        image = read_image(path)
        read.append(weakref.ref(image))
        return image

    monkeypatch.setattr("impasto.image.read_image", recorded)
    assert [image.size for image in read_images(tmp_path, 100)] == [(100, 75)] * 5
    assert len(alive) == 5
    assert max(alive) <= 1


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, caplog):
    """As one without the right to, or of a network's disk that fails for a while."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        noise_image(8, 8).save(tmp_path / place / "1.png")
    really = os.scandir

    def scandir(place):
        if str(place) == str(closed):
            raise PermissionError(13, "Permission denied", str(place))
        return really(place)

    monkeypatch.setattr(os, "scandir", scandir)
    closed = tmp_path / "b"
    assert find_images(tmp_path) == [tmp_path / "a" / "1.png"]
    assert caplog.messages == [f"left out: '{closed}' cannot be read: Permission denied"]
    closed = tmp_path
    with pytest.raises(UserError, match=f"'{tmp_path}' cannot be read: Permission denied"):
        find_images(tmp_path)
