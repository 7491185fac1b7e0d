import io

import numpy as np
from PIL import Image

from impasto.deep import deep_bytes
from impasto.exif import _Text, kept_exif, with_exif
from impasto.picture import Picture

from .conftest import noise_image


def photo_with(exif):
    content = io.BytesIO()
    noise_image(9, 9).save(content, "PNG", exif=exif)
    return Image.open(content)


def packed_exif():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "Camera", 6, "© somebody".encode()
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x829A: 0.01, 0x9286: b"ASCII\0\0\0words"})
    exif.get_ifd(0x8825).update({0x0001: "N", 0x0002: (48.0, 8.0, 9.5)})
    return exif.tobytes()


def tiff_with(exif):
    """A TIFF with what is kept of a photo's EXIF."""
    content = deep_bytes(Picture(np.zeros((9, 9, 3), np.uint16)), ".tif")
    return Image.open(io.BytesIO(with_exif(content, ".tif", kept_exif(photo_with(exif)))))


def test_text_of_any_letters_stays_and_pointers_into_the_old_file_go():
    exif = Image.Exif()
    said = {0x013B: "Jörg ©", 0xA430: "Jörg Müller", 0xA434: "Rückkamera"}
    texts = {tag: _Text(text.encode().decode("latin-1")) for tag, text in said.items()}  # in UTF-8, as cameras do
    exif[0x013B] = texts.pop(0x013B)
    exif.get_ifd(0x8769).update({**texts, 0xA005: 144})
    content = io.BytesIO()
    noise_image(9, 9).save(content, "PNG", exif=kept_exif(photo_with(exif.tobytes())))
    for image in (Image.open(content), tiff_with(exif.tobytes())):
        found = {**image.getexif(), **image.getexif().get_ifd(0x8769)}
        assert {tag: found[tag].encode("latin-1").decode() for tag in said} == said
        assert 0xA005 not in found


def test_text_that_no_file_has_takes_nothing_else_with_it():
    """As a program may put into an image in memory."""
    image = noise_image(9, 9)
    image.getexif()[0x010F] = "Camera"
    image.getexif().get_ifd(0x8769)[0xA430] = "Łódź"
    kept = Image.Exif()
    kept.load(kept_exif(image))
    assert (kept[0x010F], kept.get_ifd(0x8769)[0xA430]) == ("Camera", "?ód?")


def test_damaged_exif_is_carried_on_or_left_out():
    rng = np.random.default_rng(0)
    intact = packed_exif()
    for _ in range(300):
        damaged = bytearray(intact)
        for place in rng.integers(6, len(intact), rng.integers(1, 7)):
            damaged[place] = rng.integers(256)
        tiff_with(bytes(damaged)).load()


def test_what_is_true_of_the_photos_pixels_alone_is_left_out():
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 1, 0xA002: 60, 0xA003: 40, 0x829A: 0.01})
    assert tiff_with(exif.tobytes()).getexif().get_ifd(0x8769).keys() == {0x829A}


def test_text_and_numbers_stay_as_they_were():
    exif = tiff_with(packed_exif()).getexif()
    assert exif[0x8298].encode("latin-1") == "© somebody".encode()
    assert exif.get_ifd(0x8769)[0x829A] == 0.01
    assert exif.get_ifd(0x8825)[0x0002] == (48.0, 8.0, 9.5)
