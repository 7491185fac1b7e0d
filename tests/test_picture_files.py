import io
import os
import struct
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, PngImagePlugin

from impasto.animation import read_animation
from impasto.errors import PictureError, UserError
from impasto.levels import as_type, unit
from impasto.picture import SRGB, Picture, from_pil
from impasto.picture_files import LONGEST, PAGE_KIND, check_sides, count_pages, read_picture, write_picture

from .conftest import noise_image


def deep(width=13, height=9, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def smooth(width=64, height=48):
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([rows, columns, 1 - rows], axis=2).astype(np.float32) * 0.8 + 0.1


def write_tiff(path, levels, planar=False, extra=()):
    """Uncompressed, of 16 bits: (height, width, channels), in planes of their own or not."""
    height, width, channels = levels.shape
    planes = np.moveaxis(levels, 2, 0) if planar else levels[None]
    data = [plane.astype("<u2").tobytes() for plane in planes]
    tags = {256: [width], 257: [height], 258: [16] * channels, 259: [1], 262: [2], 277: [channels], 278: [height]}
    tags |= {273: [8 + index * len(data[0]) for index in range(len(data))], 279: [len(plane) for plane in data]}
    tags |= {284: [2 if planar else 1]} | ({338: list(extra)} if extra else {})
    place = 8 + sum(map(len, data))
    entries, more, end = b"", b"", place + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHI", tag, 4, len(values))
        entries += packed if len(packed) == 4 else struct.pack("<I", end + len(more))
        more += packed if len(packed) > 4 else b""
    directory = struct.pack("<H", len(tags)) + entries + bytes(4) + more
    path.write_bytes(struct.pack("<2sHI", b"II", 42, place) + b"".join(data) + directory)


def test_tiff_in_planes_is_read_with_all_its_bits(tmp_path):
    write_tiff(tmp_path / "a.tif", deep(), planar=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, deep())


def test_a_fourth_channel_that_says_nothing_is_no_transparency(tmp_path):
    """As the infrared of scanners."""
    levels = deep(channels=4)
    for extra, alpha in ((0, None), (2, levels[..., 3])):
        write_tiff(tmp_path / "a.tif", levels, extra=[extra])
        picture = read_picture(tmp_path / "a.tif")
        np.testing.assert_array_equal(picture.pixels, levels[..., :3])
        assert picture.alpha is None if alpha is None else np.array_equal(picture.alpha, alpha)


def test_grey_that_is_stored_as_a_negative_is_read_as_it_was(tmp_path):
    levels = deep(channels=1)
    pyvips.Image.new_from_array(levels).tiffsave(str(tmp_path / "a.tif"), miniswhite=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels[..., :1], levels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_goes_into_a_pipe(dtype):
    picture = Picture(deep().astype(dtype))
    read, write = os.pipe()
    with open(write, "wb") as pipe:
        write_picture(picture, pipe, ".tif")
    with open(read, "rb") as pipe:
        assert np.array_equal(read_picture(io.BytesIO(pipe.read())).pixels, picture.pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_survive(tmp_path, suffix, alpha):
    levels = deep(channels=4)
    picture = Picture(levels[..., :3], levels[..., 3] if alpha else None)
    write_picture(picture, tmp_path / f"a{suffix}")
    again = read_picture(tmp_path / f"a{suffix}")
    assert again.pixels.dtype == np.uint16
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    if alpha:
        np.testing.assert_array_equal(again.alpha, picture.alpha)
    else:
        assert again.alpha is None


def test_sixteen_bits_of_grey_and_from_a_stream(tmp_path):
    levels = deep()[..., 0]
    Image.fromarray(levels).save(tmp_path / "grey.png")
    grey = read_picture(tmp_path / "grey.png")
    np.testing.assert_array_equal(grey.pixels, np.repeat(levels[..., None], 3, axis=2))
    stream = io.BytesIO()
    write_picture(Picture(deep()), stream, ".png")
    stream.seek(0)
    np.testing.assert_array_equal(read_picture(stream).pixels, deep())


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".avif", ".gif"])
def test_formats_of_eight_bits_get_eight(tmp_path, suffix):
    picture = Picture(as_type(smooth(), "uint16"))
    write_picture(picture, tmp_path / f"a{suffix}")
    again = read_picture(tmp_path / f"a{suffix}")
    assert again.pixels.dtype == np.uint8
    assert np.abs(unit(again.pixels) - smooth()).mean() < 0.02


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_of_another_profile_become_srgb(tmp_path, bits):
    dtype = "uint8" if bits == 8 else "uint16"
    image = pyvips.Image.new_from_array(as_type(smooth() * 0.5 + 0.25, dtype))
    wide = image.copy(interpretation="srgb" if bits == 8 else "rgb16").icc_transform("p3", depth=bits)
    wide.write_to_file(str(tmp_path / "wide.png"))
    with Image.open(tmp_path / "wide.png") as image:
        untouched = np.asarray(image) / 255
    picture = read_picture(tmp_path / "wide.png")
    assert picture.pixels.dtype == dtype
    assert np.abs(unit(picture.pixels) - (smooth() * 0.5 + 0.25)).max() < 2.5 / 255
    assert np.abs(untouched - (smooth() * 0.5 + 0.25)).max() > 5 / 255  # it was another


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_results_are_tagged_as_srgb(tmp_path, suffix, dtype):
    write_picture(Picture(as_type(smooth(), dtype)), tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        profile = image.info["icc_profile"]
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))


COPYRIGHT = "© somebody".encode()


def photo_with_exif(path, orientation=6, **options):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = orientation, "Camera & Co", COPYRIGHT
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[0x0001] = "N"
    Image.fromarray(as_type(smooth(40, 20), "uint8")).save(path, exif=exif, **options)


@pytest.mark.parametrize(
    ("suffix", "bits"), [(".jpg", 8), (".png", 8), (".webp", 8), (".tif", 8), (".png", 16), (".tif", 16)]
)
def test_exif_is_kept_but_for_the_orientation(tmp_path, suffix, bits):
    photo_with_exif(tmp_path / "photo.jpg")
    picture = read_picture(tmp_path / "photo.jpg")
    assert picture.size == (20, 40)  # upright
    if bits == 16:
        picture = replace(picture, pixels=deep(300, 200))  # of many strips
    write_picture(picture, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        exif = image.getexif()
        assert exif[0x010F] == "Camera & Co"
        assert exif.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
        assert exif.get_ifd(0x8825)[0x0001] == "N"
        assert exif[0x8298].encode("latin-1") == COPYRIGHT
        assert exif.get(0x0112, 1) == 1
    assert b"Camera & Co" in read_picture(tmp_path / f"a{suffix}").exif
    again = read_picture(tmp_path / f"a{suffix}")
    assert again.size == picture.size
    if bits == 16:
        np.testing.assert_array_equal(again.pixels, picture.pixels)
        assert again.exif == picture.exif


@pytest.mark.parametrize("exif", [bytes(20), b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_picture_with_damaged_exif_is_read_without(tmp_path, exif):
    image = Image.fromarray(as_type(smooth(), "uint8"))
    image.save(tmp_path / "a.png", exif=exif)
    for picture in (read_picture(tmp_path / "a.png"), from_pil(Image.open(tmp_path / "a.png"))):
        assert (picture.pixels == np.asarray(image)).all()
        assert picture.exif == b""


def test_a_file_that_has_changed_is_read_anew(tmp_path):
    for levels in (deep(30, 20), 65535 - deep(30, 20)):
        write_picture(Picture(levels), tmp_path / "a.png")
        assert (read_picture(tmp_path / "a.png").pixels == levels).all()


def test_sixteen_bits_are_turned_upright_too(tmp_path):
    image = pyvips.Image.new_from_array(deep(13, 9), interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.write_to_file(str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, np.rot90(deep(13, 9), -1))


def test_sixteen_bits_are_turned_upright_where_exif_follows_the_pixels(tmp_path):
    """As PNG permits, and libvips does not read."""
    write_picture(Picture(deep(13, 9)), tmp_path / "a.png")
    exif, chunk = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[:-12] + chunk.getvalue() + content[-12:])
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels, np.rot90(deep(13, 9), -1))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif"])
def test_transparency_is_kept(tmp_path, suffix):
    alpha = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    write_picture(Picture(as_type(smooth(), "uint8"), alpha), tmp_path / f"a{suffix}", quality=100)
    np.testing.assert_allclose(read_picture(tmp_path / f"a{suffix}").alpha.astype(int), alpha, atol=2)


def test_a_format_without_transparency_lays_it_over_white_and_says_so(tmp_path, caplog):
    picture = Picture(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    write_picture(picture, tmp_path / "a.jpg")
    assert (read_picture(tmp_path / "a.jpg").pixels == 255).all()
    assert "has no transparency" in caplog.text


@pytest.mark.parametrize(
    ("mode", "colour", "pixel", "alpha"),
    [
        ("L", 128, (128, 128, 128), None),
        ("1", 1, (255, 255, 255), None),
        ("LA", (40, 99), (40, 40, 40), 99),
        ("RGBA", (9, 8, 7, 255), (9, 8, 7), None),
        ("RGBA", (9, 8, 7, 0), (9, 8, 7), 0),
        ("I;16", 51400, (51400, 51400, 51400), None),
    ],
)
def test_modes(tmp_path, mode, colour, pixel, alpha):
    Image.new(mode, (3, 2), colour).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert tuple(picture.pixels[1, 1]) == pixel
    assert (None if picture.alpha is None else picture.alpha[1, 1]) == alpha


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_png_of_few_bits_stays_clear(tmp_path, bits):
    """As optimisers write line art."""

    def chunk(kind, content):
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    rows = bytes([0, 0b01_00_01_00]), bytes([0, 0b00_01_00_01])  # of 8 pixels of one bit, or fewer of more
    width = 8 // bits
    header = (width).to_bytes(4) + (2).to_bytes(4) + bytes([bits, 0, 0, 0, 0])
    clear = 0b01_00_01_00 >> 8 - bits  # the first pixel
    parts = chunk(b"IHDR", header), chunk(b"tRNS", clear.to_bytes(2)), chunk(b"IDAT", zlib.compress(b"".join(rows)))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    levels = [[row[1] >> 8 - bits - bits * column & (1 << bits) - 1 for column in range(width)] for row in rows]
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.alpha, np.where(np.array(levels) == clear, 0, 255))
    assert np.array_equal(picture.pixels[..., 0], np.array(levels) * (255 // ((1 << bits) - 1)))


def test_palette_with_transparency(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 4))
    image.quantize(8).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.alpha[0].tolist() == [0, 0, 255, 255]
    assert tuple(picture.pixels[0, 3]) == (255, 0, 0)


def test_heic_is_read(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="comes with [heic]")
    heif.from_pillow(Image.fromarray(as_type(smooth(), "uint8"))).save(tmp_path / "a.heic", quality=95)
    assert np.abs(unit(read_picture(tmp_path / "a.heic").pixels) - smooth()).mean() < 0.01


def test_a_png_in_another_coding_is_told(tmp_path, caplog):
    for name, gamma, chunk in (("usual", 45455, b""), ("named", 100000, b"\0"), ("linear", 100000, b"")):
        more = PngImagePlugin.PngInfo()
        more.add(b"gAMA", struct.pack(">I", gamma))
        if chunk:
            more.add(b"sRGB", chunk)
        noise_image(4, 4).save(tmp_path / f"{name}.png", pnginfo=more)
        read_picture(tmp_path / f"{name}.png")
    assert [line.partition("linear.png' ")[2] for line in caplog.messages] == [
        "has gamma 1: its levels are read as sRGB, too dark or pale"
    ]


def test_more_megapixels_than_allowed_are_refused_before_decoding(tmp_path):
    noise_image(100, 100).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png' has 0.01 megapixels, more than max_megapixels=0.005"):
        read_picture(tmp_path / "a.png", 0.005)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x01\xda\x01\x01\x00\x03", b""]
)
def test_formats_that_nobody_photographs_in_are_not_opened(tmp_path, content):
    """EPS, for one, would start Ghostscript."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="not an image that can be read"):
        read_picture(tmp_path / "a.png")


def test_a_damaged_sixteen_bit_file_is_one_line(tmp_path):
    write_picture(Picture(deep(90, 80)), tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a.png' cannot be read: ") as error:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(error.value)


def test_exif_that_no_segment_holds_goes_without_the_makers_note(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x927C: bytes(70_000)})
    noise_image(9, 9).save(tmp_path / "a.png", exif=exif)
    write_picture(read_picture(tmp_path / "a.png"), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif()[0x010F] == "Camera"
        assert image.getexif().get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
    exif[0x010E] = "long" * 20_000
    noise_image(9, 9).save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png").exif == b""


@pytest.mark.parametrize(
    "error", [KeyError("x"), ZeroDivisionError(), RecursionError("deep\nand deeper"), MemoryError()]
)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def failing(*_, **__):
        raise error

    noise_image(9, 9).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", failing)
    with pytest.raises(UserError, match=r"a.png' cannot be read: \S+") as raised:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(raised.value)


def test_pillows_remarks_are_not_shown(run, tmp_path):
    """Metadata that ends too early, of which Pillow warns: a picture all the same."""
    photo_with_exif(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    start = content.index(b"Exif\0\0") + 6
    (tmp_path / "photo.jpg").write_bytes(content[: start + 8] + b"\xff\x7f" + content[start + 10 :])
    code = f"from impasto.picture_files import read_picture; read_picture({str(tmp_path / 'photo.jpg')!r})"
    (tmp_path / "read.py").write_text(code)
    result = run(tmp_path / "read.py")
    assert (result.returncode, result.stderr) == (0, "")


def test_floats_that_are_no_numbers_are_black(tmp_path):
    levels = np.array([[0.5, 1.0, np.inf, -np.inf, np.nan]], np.float32)
    levels.view(np.uint32)[0, 4] = 0x7FA00000  # a NaN that signals
    Image.fromarray(levels[:, [0, 1, 3, 4]]).save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").pixels[0, :, 0].tolist() == [32768, 65535, 0, 0]
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").pixels[0, 2, 0] == 65535


@pytest.mark.parametrize("space", ["lab", "scrgb"])
def test_tiff_in_floats_is_read_as_sixteen_bits(tmp_path, space):
    """Lab, and linear light: of which Pillow knows neither."""
    photo = pyvips.Image.new_from_array(as_type(smooth(), "uint16"), interpretation="rgb16")
    photo.colourspace(space).tiffsave(str(tmp_path / "a.tif"))
    read = read_picture(tmp_path / "a.tif").pixels
    assert read.dtype == np.uint16
    assert np.abs(unit(read) - smooth()).max() < 0.01
    with (tmp_path / "a.tif").open("rb") as stream:
        np.testing.assert_array_equal(read_picture(stream).pixels, read)


def test_floats_with_a_profile_are_in_its_coding(tmp_path):
    image = pyvips.Image.new_from_array(smooth())
    image = image.copy(interpretation="rgb")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", SRGB)
    image.tiffsave(str(tmp_path / "a.tif"))
    assert np.abs(unit(read_picture(tmp_path / "a.tif").pixels) - smooth()).max() < 1e-4


@pytest.mark.parametrize("suffix", LONGEST)
def test_the_longest_side_of_a_format_is_written_and_read_and_one_px_more_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for size in ((LONGEST[suffix], 1), (1, LONGEST[suffix])):
        check_sides("it", *size, suffix)
        write_picture(Picture(np.zeros((size[1], size[0], 3), np.uint8)), path)
        assert read_picture(path).size == size
        path.unlink()
        with pytest.raises(PictureError, match=rf"it: \d+×\d+ px do not fit into {suffix}, whose sides end at"):
            check_sides("it", *(side + (side > 1) for side in size), suffix)
    with pytest.raises(PictureError):
        write_picture(Picture(np.zeros((65537, 1, 3), np.uint8)), path)
    assert not path.exists()
    check_sides("it", 100_000, 1, ".png")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_gif_is_clear_where_a_picture_is_less_than_half_opaque(tmp_path, caplog, dtype):
    """Whatever its palette: with soft edges, Pillow's would be all opaque."""
    picture = Picture(
        as_type(smooth(), dtype), as_type(np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(48, 0), dtype)
    )
    write_picture(picture, tmp_path / "a.gif")
    assert caplog.messages == [
        ".gif knows no half transparency: what is less than half opaque is clear, the rest opaque"
    ]
    again = read_picture(tmp_path / "a.gif")
    assert np.array_equal(again.alpha == 255, unit(picture.alpha) >= 0.5)
    assert np.isin(again.alpha, (0, 255)).all()
    opaque = again.alpha == 255
    assert np.abs(unit(again.pixels)[opaque] - unit(picture.pixels)[opaque]).mean() < 0.03
    for level in (0, 1):
        sharp = replace(picture, alpha=np.full_like(picture.alpha, level * (65535 if dtype == "uint16" else 255)))
        sharp.alpha[0, 0] = 0
        write_picture(sharp, tmp_path / "b.gif")
        assert np.array_equal(read_picture(tmp_path / "b.gif").alpha > 0, sharp.alpha > 0)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("kind", "pages"), [(0, 2), (2, 2), (1, 1), (4, 1)])  # a picture, a page, a preview, a mask
def test_pages_are_counted_without_previews_and_masks(kind, pages, tmp_path):
    noise_image(20, 16).save(
        tmp_path / "a.tif", save_all=True, append_images=[noise_image(10, 8, 1)], tiffinfo={PAGE_KIND: 0}
    )
    content = bytearray((tmp_path / "a.tif").read_bytes())
    entry = content.rindex(struct.pack("<HHI", PAGE_KIND, 4, 1))  # the second picture's
    content[entry + 8 : entry + 12] = struct.pack("<I", kind)
    assert count_pages(io.BytesIO(content)) == pages


def test_what_is_no_tiff_or_damaged_has_one_page(tmp_path):
    noise_image(20, 16).save(tmp_path / "a.png")
    assert count_pages(tmp_path / "a.png") == count_pages(io.BytesIO(b"II*\0damaged")) == 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "keyword",
    ["gamma", "bit_depth", "nclx_profile", "icc_profile", "transparency", "default_image", "loop", "duration"],
)
def test_a_pngs_text_is_not_taken_for_what_pillow_says_of_its_pixels(tmp_path, keyword, after):
    """Which it puts into one mapping, under any keyword."""
    photo, text = noise_image(20, 16), PngImagePlugin.PngInfo()
    text.add_text(keyword, "hello")
    photo.save(tmp_path / "a.png", pnginfo=None if after else text)
    if after:  # behind the pixels
        content, chunk = (tmp_path / "a.png").read_bytes(), io.BytesIO()
        PngImagePlugin.putchunk(chunk, b"tEXt", keyword.encode() + b"\0hello")
        (tmp_path / "a.png").write_bytes(content[:-12] + chunk.getvalue() + content[-12:])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, np.asarray(photo))
    assert read_animation(tmp_path / "a.png") is None
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(from_pil(image).pixels, np.asarray(photo))
        assert image.text == {keyword: "hello"}  # which is its owner's
    if keyword == "default_image":  # Pillow itself counts frames by it
        return
    frames = [photo, noise_image(20, 16, 1)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:], duration=200, pnginfo=text)
    animation = read_animation(tmp_path / "film.png")
    assert animation is not None
    assert len(animation.frames) == 2


def test_the_same_picture_is_the_same_file_in_every_process(tmp_path):
    """Of an sRGB profile that says when it was made, too."""
    write_picture(Picture(np.asarray(noise_image(9, 7))), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        profile = image.info["icc_profile"]
    assert struct.unpack(">6H", profile[24:36]) == (2000, 1, 1, 0, 0, 0)
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).startswith("sRGB")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_pictures_are_read_from_any_path(tmp_path, suffix):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    write_picture(Picture(deep()), folder / f"a{suffix}")
    np.testing.assert_array_equal(read_picture(folder / f"a{suffix}").pixels, deep())
