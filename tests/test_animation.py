import struct
import zlib

import numpy as np
import pytest
import pyvips
from PIL import Image, UnidentifiedImageError

from impasto.animation import Animation, count_frames, read_animation, write_animation
from impasto.errors import UserError
from impasto.picture import Picture
from impasto.picture_files import read_picture

from .conftest import noise_image

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def film(path, **options):
    frames = [Image.new("RGB", (24, 18), colour) for colour in COLOURS]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[70, 250, 130], loop=3, **options)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_frames_and_their_timing_survive(tmp_path, suffix):
    film(tmp_path / f"film{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    animation = read_animation(tmp_path / f"film{suffix}")
    inverted = animation.painted(lambda picture: Picture(255 - picture.pixels, picture.alpha))
    write_animation(inverted, tmp_path / f"out{suffix}", suffix, 95)
    again = read_animation(tmp_path / f"out{suffix}")
    assert again.durations == animation.durations == (70, 250, 130)
    assert again.plays == animation.plays == (4 if suffix == ".gif" else 3)  # as GIF counts repetitions
    for frame, colour in zip(again.frames, COLOURS, strict=True):
        assert np.abs(frame.pixels.astype(int) - (255 - np.array(colour))).max() <= 8


@pytest.mark.parametrize("milliseconds", [23, 33, 70])
def test_a_gif_takes_as_long_as_what_it_was_made_of(tmp_path, milliseconds):
    """It holds hundredths of a second."""
    frames = tuple(Picture(np.full((4, 4, 3), 20 * number, np.uint8)) for number in range(10))
    write_animation(Animation(frames, (milliseconds,) * 10), tmp_path / "a.gif", ".gif", 95)
    durations = read_animation(tmp_path / "a.gif").durations
    assert sum(durations) == 10 * milliseconds
    assert max(abs(duration - milliseconds) for duration in durations) < 10


@pytest.mark.parametrize(("milliseconds", "left"), [(1000 / 60, 50), (11, 33), (19, 57)])
def test_a_gif_leaves_out_what_players_would_slow_down(tmp_path, caplog, milliseconds, left):
    """60 frames: of a GIF, what is to be shown for less than 20 ms is shown for 100."""
    ends = [round(number * milliseconds) for number in range(61)]
    frames = tuple(Picture(np.full((4, 4, 3), 4 * number, np.uint8)) for number in range(60))
    durations = tuple(np.diff(ends).tolist())
    write_animation(Animation(frames, durations), tmp_path / "a.gif", ".gif", 95)
    again = read_animation(tmp_path / "a.gif")
    assert abs(sum(again.durations) - ends[-1]) <= 20
    assert {*again.durations} == {20}
    assert abs(len(again.frames) - left) <= 1
    assert "frames are left out: players show none of a GIF for less than 20 ms" in caplog.text
    write_animation(Animation(frames[:2], (11, 11)), tmp_path / "b.gif", ".gif", 95)
    assert read_picture(tmp_path / "b.gif").size == (4, 4)


def test_frames_without_a_time_are_shown_as_players_show_them(tmp_path):
    for suffix in (".gif", ".webp", ".png"):
        frames = [Image.new("RGB", (24, 18), colour) for colour in COLOURS]
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=[0, 10, 40])
        assert read_animation(tmp_path / f"a{suffix}").durations == (100, 100, 40)


def test_a_png_of_60_frames_a_second_takes_a_second(tmp_path):
    frames = [Image.new("RGB", (4, 4), (4 * number, 0, 0)) for number in range(60)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=17)
    content, chunk = (tmp_path / "a.png").read_bytes(), b"fcTL"
    pieces = content.split(chunk)
    for number, piece in enumerate(pieces[1:], 1):
        data = bytearray(chunk + piece)
        data[24:28] = struct.pack(">HH", 1, 60)
        data[30:34] = struct.pack(">I", zlib.crc32(data[:30]))
        pieces[number] = bytes(data)
    (tmp_path / "a.png").write_bytes(b"".join(pieces))
    durations = read_animation(tmp_path / "a.png").durations
    assert (sum(durations), {*durations}) == (1000, {16, 17})


@pytest.mark.parametrize("suffix", [".gif", ".png"])  # not .webp, whose encoder leaves out halves that are clear
def test_what_is_transparent_stays_so_and_what_plays_once_does(tmp_path, suffix):
    pixels = np.full((18, 24, 3), 90, np.uint8)
    left = np.repeat(np.repeat(np.array([[255, 0]], np.uint8), 12, 1), 18, 0)
    frames = (Picture(pixels, left), Picture(pixels, 255 - left))
    write_animation(Animation(frames, (70, 70), 1), tmp_path / f"a{suffix}", suffix, 95)
    again = read_animation(tmp_path / f"a{suffix}")
    assert again.plays == 1
    for frame, alpha in zip(again.frames, (left, 255 - left), strict=True):
        assert np.array_equal(frame.alpha, alpha)


@pytest.mark.parametrize("opaque", [{0}, {1}, {2}, {0, 2}])
def test_opaque_frames_beside_those_that_are_clear_leave_them_so(tmp_path, opaque):
    alphas = [None if number in opaque else np.zeros((18, 24), np.uint8) for number in range(3)]
    for alpha in (each for each in alphas if each is not None):
        alpha[:, :8] = 255
    frames = tuple(
        Picture(np.full((18, 24, 3), 60 + 60 * number, np.uint8), alpha) for number, alpha in enumerate(alphas)
    )
    write_animation(Animation(frames, (70, 70, 70)), tmp_path / "a.gif", ".gif", 95)
    for number, again in enumerate(read_animation(tmp_path / "a.gif").frames):
        assert again.alpha is None if number in opaque else np.array_equal(again.alpha, alphas[number])
        assert np.abs(again.pixels[:, :8].astype(int) - (60 + 60 * number)).max() <= 8


def test_soft_edges_of_a_gifs_frames_are_cut_at_half(tmp_path):
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 24).astype(np.uint8)[None].repeat(18, 0)
    frames = tuple(
        Picture(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8), alpha) for alpha in (ramp, ramp[:, ::-1], ramp)
    )
    write_animation(Animation(frames, (70, 70, 70), 0), tmp_path / "a.gif", ".gif", 95)
    for frame, again in zip(frames, read_animation(tmp_path / "a.gif").frames, strict=True):
        assert np.array_equal(again.alpha, np.where(frame.alpha >= 128, 255, 0))


@pytest.mark.parametrize("plays", [0, 1, 2, 5])
def test_how_often_it_plays_survives_every_format(tmp_path, plays):
    """GIF says how often to repeat, or nothing for once; WebP and PNG, how often to play."""
    frames = tuple(Picture(np.full((4, 4, 3), level, np.uint8)) for level in (0, 255))
    animation = Animation(frames, (70, 70), plays)
    for suffix in (".gif", ".webp", ".gif", ".png", ".gif"):
        write_animation(animation, tmp_path / f"a{suffix}", suffix, 95)
        animation = read_animation(tmp_path / f"a{suffix}")
        assert animation.plays == plays
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info.get("loop") == {0: 0, 1: None}.get(plays, plays - 1)


def test_a_tiff_that_only_libvips_reads_is_no_animation(tmp_path):
    pyvips.Image.black(9, 9, bands=3).cast("float").write_to_file(str(tmp_path / "f.tif"))
    with pytest.raises(UnidentifiedImageError):
        Image.open(tmp_path / "f.tif")
    assert read_animation(tmp_path / "f.tif") is None


def test_a_still_image_is_none(tmp_path):
    noise_image(9, 9).save(tmp_path / "a.gif")
    noise_image(9, 9).save(tmp_path / "a.jpg")
    assert read_animation(tmp_path / "a.gif") is None
    assert read_animation(tmp_path / "a.jpg") is None


def test_frames_are_counted_of_what_is_whole(tmp_path):
    film(tmp_path / "film.avif")
    film(tmp_path / "film.gif")
    noise_image(9, 9).save(tmp_path / "a.png")
    (tmp_path / "b.gif").write_bytes((tmp_path / "film.gif").read_bytes()[:40])
    counts = {name: count_frames(tmp_path / name) for name in ("film.avif", "film.gif", "a.png", "b.gif")}
    assert counts == {"film.avif": 3, "film.gif": 3, "a.png": 1, "b.gif": 1}


def test_all_frames_count_against_the_limit(tmp_path):
    film(tmp_path / "film.gif")
    with pytest.raises(UserError, match=r"film.gif' has 3 frames of 24×18 px, more than max_megapixels=0.001"):
        read_animation(tmp_path / "film.gif", 0.001)


def test_timing_fits_every_format(tmp_path, caplog):
    """A frame of WebP can take 16,777 s, of GIF 655, of PNG 65."""
    frames = (Picture(np.zeros((4, 4, 3), np.uint8)), Picture(np.full((4, 4, 3), 255, np.uint8)))
    write_animation(Animation(frames, (65535, 70), 65535), tmp_path / "a.webp", ".webp", 95)
    content = (tmp_path / "a.webp").read_bytes()
    place = content.index(b"ANMF") + 8 + 12  # its duration, of 3 bytes
    (tmp_path / "b.webp").write_bytes(content[:place] + b"\xff\xff\xff" + content[place + 3 :])
    animation = read_animation(tmp_path / "b.webp")
    assert animation.durations == (16777215, 70)
    for suffix, longest in ((".gif", 655350), (".png", 65535), (".webp", 16777215)):
        write_animation(animation, tmp_path / f"c{suffix}", suffix, 95)
        assert read_animation(tmp_path / f"c{suffix}").durations == (longest, 70)
    assert caplog.messages == [
        ".gif shows a frame for 655.4 s at most, not 16777.2",
        ".png shows a frame for 65.5 s at most, not 16777.2",
    ]


def test_the_picture_for_programs_that_know_no_frames_is_no_frame(tmp_path):
    film(tmp_path / "a.png", default_image=True)
    animation = read_animation(tmp_path / "a.png")
    assert [tuple(frame.pixels[0, 0]) for frame in animation.frames] == COLOURS[1:]
    first = Image.new("RGB", (24, 18), COLOURS[0])
    first.save(tmp_path / "b.png", save_all=True, append_images=[noise_image(24, 18)], default_image=True)
    assert read_animation(tmp_path / "b.png") is None


def test_a_gif_that_grows_is_refused(tmp_path):
    film(tmp_path / "film.gif")
    content = bytearray((tmp_path / "film.gif").read_bytes())
    last = content.rindex(b"\x2c\0\0\0\0\x18\0\x12\0")  # a frame's place and size
    content[last + 5 : last + 9] = b"\xff\x7f\xff\x7f"
    (tmp_path / "film.gif").write_bytes(content)
    with pytest.raises(UserError, match="film.gif'"):
        read_animation(tmp_path / "film.gif", 1)
