"""Films: what comes out has the frames, times, colours and sound of what went in."""

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from impasto import batch
from impasto.controls import Controls
from impasto.errors import UserError
from impasto.image import read_image
from impasto.job import Job
from impasto.stylizer import Stylizer
from impasto.video import encoding, film, joining
from impasto.video.clip import Pictures, open_frames, open_input, read_clip
from impasto.video.colours import EXACT, read_colours
from impasto.video.parts import Parts

from .conftest import ROOT, noise_image

BASE = Fraction(1, 12800)


def ramp(width, height, number=0):
    """Colours that change smoothly over a frame and a little from one to the next."""
    x, y = np.linspace(0, 1, width)[None], np.linspace(0, 1, height)[:, None]
    colours = np.stack([x + 0 * y, y + 0 * x, 1 - x * y], axis=2)
    return (np.roll(colours, number, axis=1) * 255 + 0.5).astype(np.uint8)


def make_clip(
    path,
    frames=12,
    size=(64, 48),
    codec="libx264",
    pix_fmt="yuv420p",
    times=None,
    sounds=(),
    pixels=ramp,
    rotation=0,
    aspect=1,
    tags=None,
    start=0,
    options=None,
    metadata=None,
    encoder=None,
    named=None,
    chapters=(),
):
    """A short film; `times` in 1/12800 s, `named` what its pictures are called, `chapters` of a second each."""
    with av.open(str(path), "w", options=options or {}) as output:
        output.metadata.update(metadata or {})
        settings = encoder or ({"crf": "10"} if codec == "libx264" else {})
        stream = output.add_stream(codec, rate=25, options=settings)
        stream.metadata.update(named or {})
        numbers = enumerate(chapters)
        output.set_chapters(
            [
                {"time_base": Fraction(1), "id": n, "start": n, "end": n + 1, "metadata": {"title": title}}
                for n, title in numbers
            ]
        )
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = stream.time_base = BASE
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        added = []
        for codec_name in sounds:
            sound = output.add_stream(codec_name, rate=48000)
            sound.layout = "mono"
            added.append(sound)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(pixels(*size, number), format="rgb24")
            if tags:
                frame = frame.reformat(
                    format=pix_fmt,
                    dst_colorspace=tags.get("colorspace", 5),
                    dst_color_range=tags.get("color_range", 1),
                    interpolation=EXACT,
                )
            frame.pts = start + (number * 512 if times is None else times[number])
            frame.time_base = BASE
            output.mux(stream.encode(frame))
        for index, sound in enumerate(added):
            wave = np.sin(np.arange(frames * 1920) * 0.05 * (index + 1)) * 0.3
            block = 1024
            for begin in range(0, len(wave) - block + 1, block):
                piece = av.AudioFrame.from_ndarray(
                    (wave[None, begin : begin + block] * 32767).astype(np.int16), "s16", "mono"
                )
                piece.sample_rate, piece.pts = 48000, begin
                piece.time_base = Fraction(1, 48000)
                output.mux(sound.encode(piece))
            output.mux(sound.encode(None))
        output.mux(stream.encode(None))
    return path


def frames_of(path):
    """Times in seconds, and pictures."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.pts * frame.time_base for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def sound_of(path, index=0):
    """Bytes and time of each packet, relative to the first frame."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        begin = first.pts * first.time_base
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.audio[index]) if packet.size]
        return [(bytes(packet), packet.pts * packet.time_base - begin) for packet in packets]


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr(film, "PART", 5)


@pytest.fixture
def stylize(network_file):
    def stylize(source, output=None, networks=None, as_json=False, **changes):
        changes = {"device": "cpu", "precision": "float32", **changes}
        batch.run(Job(**changes), networks or [network_file], str(source), output and str(output), as_json)
        return output

    return stylize


def photo(stylize, source, output, **changes):
    """As it is, without the network."""
    return stylize(source, output, controls=Controls(strength=0), **changes)


@pytest.mark.parametrize(
    ("suffix", "sounds"), [(".mp4", ["aac"]), (".mkv", ["aac", "pcm_s16le"]), (".mov", ["pcm_s16le"])]
)
def test_frames_times_and_sound_stay(stylize, tmp_path, caplog, suffix, sounds):
    source = make_clip(tmp_path / f"in{suffix}", sounds=sounds)
    out = stylize(source, tmp_path / f"out{suffix}")
    assert "damaged" not in caplog.text
    times, pictures = frames_of(out)
    assert times == frames_of(source)[0]
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    with av.open(str(source)) as before, av.open(str(out)) as after:
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate == 25
        assert after.streams.video[0].time_base == before.streams.video[0].time_base
        assert len(after.streams.audio) == len(sounds)
    for index in range(len(sounds)):
        assert sound_of(out, index) == sound_of(source, index)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_that_begins_late_is_whole(stylize, tmp_path, caplog, suffix):
    """Matroska says when it ends, MP4 how long it is from there on."""
    source = make_clip(tmp_path / f"in{suffix}", start=3 * 12800)
    assert read_clip(source, 100).frames == 12
    out = stylize(source, tmp_path / f"out{suffix}")
    assert "damaged" not in caplog.text
    assert frames_of(out)[0] == frames_of(source)[0]


def test_frames_of_an_avi_are_evenly_spaced(stylize, tmp_path):
    """It holds times of decoding alone, and what FFmpeg makes of them is not in order where frames depend on later."""
    with av.open(str(tmp_path / "in.avi"), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": "2", "b-adapt": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(24):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(ramp(64, 48, number), format="rgb24")))
        output.mux(stream.encode(None))
    times = frames_of(stylize(tmp_path / "in.avi", tmp_path / "out.mp4"))[0]
    assert len(times) == 24
    assert {later - earlier for earlier, later in pairwise(times)} == {Fraction(1, 25)}


def test_uneven_times_are_kept_over_joints(stylize, tmp_path):
    times = np.cumsum([0, 300, 900, 512, 100, 2000, 64, 64, 64, 5000, 512, 700]).tolist()
    for suffix in (".mp4", ".mkv"):
        source = make_clip(tmp_path / f"in{suffix}", times=times)
        out = stylize(source, tmp_path / f"out{suffix}")
        assert frames_of(out)[0] == frames_of(source)[0]
        assert len(set(frames_of(out)[0])) == 12
        with av.open(str(out)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        decoded = [packet.dts for packet in packets if packet.dts is not None]  # which Matroska does not keep
        assert decoded == sorted(set(decoded))
        assert all(packet.dts <= packet.pts for packet in packets if packet.dts is not None)


def recoded(path, *boxes):
    """With its last boxes of these names renamed, as of a code that FFmpeg does not know."""
    content = path.read_bytes()
    for box, name in boxes:
        before, found, after = content.rpartition(box)
        assert found
        content = before + name + after
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_ffmpeg_does_not_know_is_left_out_and_said(stylize, tmp_path, caplog, suffix):
    """As the spatial audio of an iPhone's films, beside which there is AAC."""
    source = make_clip(tmp_path / "in.mp4", sounds=["aac", "aac"])
    out = stylize(recoded(source, (b"mp4a", b"apac"), (b"esds", b"dapa")), tmp_path / f"out{suffix}")
    assert "left out: sounds in an unknown code of" in caplog.text
    with av.open(str(out)) as container:
        assert len(container.streams.audio) == 1
    kept = [content for content, _ in sound_of(out)]
    assert kept == [content for content, _ in sound_of(source)]


def test_pictures_that_ffmpeg_does_not_know_are_one_line(stylize, tmp_path):
    source = recoded(make_clip(tmp_path / "in.mp4"), (b"avc1", b"zzzz"), (b"avcC", b"zzzC"))
    with pytest.raises(UserError, match=r"in.mp4' is not a video .*: FFmpeg does not know how its pictures are coded"):
        stylize(source, tmp_path / "out.mp4")


class Recorded:
    """A film whose fourth packet of sound has the third's time, and whose sixth steps back, as recordings have them."""

    def __init__(self, container):
        self.container, self.streams, self.metadata = container, container.streams, container.metadata

    def chapters(self):
        return self.container.chapters()

    def demux(self, *streams):
        before = []
        for packet in self.container.demux(*streams):
            if packet.size:
                before.append((packet.pts, packet.dts))
                if len(before) in (4, 6):
                    packet.pts, packet.dts = before[2]
            yield packet


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "aac"), (".mov", "pcm_s16le")])
def test_sound_whose_times_do_not_rise_is_moved_on(stylize, tmp_path, monkeypatch, suffix, codec):
    source = make_clip(tmp_path / f"in{suffix}", frames=20, sounds=[codec])

    @contextmanager
    def recorded(path):
        with open_input(path) as container:
            yield Recorded(container)

    monkeypatch.setattr(joining, "open_input", recorded)
    photo(stylize, source, tmp_path / f"out{suffix}")
    ours, theirs = sound_of(tmp_path / f"out{suffix}"), sound_of(source)
    assert [content for content, _ in ours] == [content for content, _ in theirs]
    times = [time for _, time in ours]
    assert times == sorted(times)
    assert times[6:] == pytest.approx([time for _, time in theirs][6:], abs=0.002)


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
def test_camera_place_and_date_are_kept_or_not(stylize, tmp_path, suffix):
    names = {
        "make": "Camera & Co",
        "model": "Phone 9",
        "location.ISO6709": "+48.8588+002.2943+035/",
        "creationdate": "2024-05-06T07:08:09+0200",
    }
    metadata = {f"com.apple.quicktime.{name}": said for name, said in names.items()}
    options = {"movflags": "use_metadata_tags"}
    source = make_clip(tmp_path / "in.mov", frames=3, options=options, metadata=metadata)
    for keep in (True, False):
        photo(stylize, source, tmp_path / f"out{suffix}", keep_metadata=keep)
        with av.open(str(tmp_path / f"out{suffix}")) as container:
            said = {name.lower(): value for name, value in container.metadata.items()}
        for name, value in metadata.items():
            assert said.get(name.lower()) == (value if keep else None)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_was_cut_away_does_not_come_back(stylize, tmp_path, suffix):
    whole, cut = make_clip(tmp_path / "whole.mp4", frames=50, sounds=["aac"]), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as output:  # an edit list hides the first second
        streams = [output.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.size and packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                packet.pts, packet.dts = (time - int(1 / packet.time_base) for time in (packet.pts, packet.dts))
                output.mux(packet)
    out = stylize(cut, tmp_path / f"out{suffix}")
    with av.open(str(out)) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.size and not packet.is_discard]
        assert float(heard[0].pts * heard[0].time_base) == pytest.approx(0, abs=0.1)
        assert heard[-1].pts * heard[-1].time_base < 1.1
    assert float(frames_of(out)[0][0]) == pytest.approx(0, abs=0.1)
    assert len(frames_of(out)[0]) == len(frames_of(cut)[0])


def test_a_film_that_begins_late_stays_with_its_sound(stylize, tmp_path):
    source = make_clip(tmp_path / "in.mp4", start=6400, sounds=["aac"])
    out = stylize(source, tmp_path / "out.mp4")
    assert frames_of(out)[0] == frames_of(source)[0]
    assert frames_of(out)[0][0] == Fraction(1, 2)
    assert sound_of(out) == sound_of(source)


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("levels", [ColorRange.MPEG, ColorRange.JPEG])
def test_colours_come_back_and_are_named(stylize, tmp_path, matrix, levels):
    tags = {"colorspace": matrix, "color_range": int(levels), "color_primaries": 1, "color_trc": 1}
    source = make_clip(tmp_path / "in.mp4", frames=2, size=(128, 64), tags=tags)
    seen = Pictures(read_clip(source, 1))(next(iter(open_frames(read_clip(source, 1))))[1]).pixels
    out = photo(stylize, source, tmp_path / "out.mp4", quality=100)
    again = Pictures(read_clip(out, 1))(next(iter(open_frames(read_clip(out, 1))))[1]).pixels
    with av.open(str(out)) as container:
        context = container.streams.video[0].codec_context
        assert {name: getattr(context, name) for name in tags} == {**tags, "colorspace": matrix if matrix == 1 else 5}
    inside = np.s_[4:-4, 4:-4]
    for one, two in ((ramp(128, 64), seen), (seen, again)):
        difference = one[inside].astype(int) - two[inside]
        assert abs(difference.mean()) < 0.5
        assert abs(difference).mean() < 2 and abs(difference).max() < 12  # another matrix is off by 20, range by 16


def test_frames_are_turned_upright(stylize, tmp_path):
    def corner(width, height, number):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2, : width // 2] = 255
        return pixels

    for rotation, place in ((90, (1, 0)), (180, (1, 1)), (270, (0, 1))):
        source = make_clip(
            tmp_path / f"{rotation}.mp4", frames=2, rotation=rotation, pixels=corner, aspect=Fraction(4, 3)
        )
        with av.open(str(source)) as container:
            assert next(container.decode(video=0)).rotation % 360 == rotation
        out = photo(stylize, source, tmp_path / f"out{rotation}.mp4")
        with av.open(str(out)) as container:
            frame = next(container.decode(video=0))
            aspect = container.streams.video[0].sample_aspect_ratio
        assert frame.rotation == 0
        upright = np.rot90(corner(64, 48, 0), rotation // 90)
        pixels = frame.to_ndarray(format="rgb24")
        assert pixels.shape == upright.shape
        assert abs(pixels.astype(int) - upright).mean() < 3
        quarters = pixels.reshape(2, upright.shape[0] // 2, 2, upright.shape[1] // 2, 3).mean((1, 3, 4))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == place
        assert aspect == (Fraction(4, 3) if rotation == 180 else Fraction(3, 4))


def test_odd_sizes_lose_a_column_or_row_where_the_codec_must(stylize, tmp_path, caplog):
    source = make_clip(tmp_path / "in.mkv", frames=3, size=(63, 47), codec="ffv1")
    with av.open(str(stylize(source, tmp_path / "out.mp4"))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (62, 46)
    assert "63×47 px become 62×46" in caplog.text
    with av.open(str(stylize(source, tmp_path / "out.webm"))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (63, 47)
        assert container.streams.video[0].codec_context.name == "vp9" or "vpx" in container.streams.video[0].codec.name


def test_ten_bits_stay_where_the_encoder_has_them(stylize, tmp_path, caplog):
    source = make_clip(tmp_path / "in.mp4", frames=3, pix_fmt="yuv420p10le")
    with av.open(str(stylize(source, tmp_path / "out.mp4"))) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p10le"
    if "yuv420p10le" not in [each.name for each in av.Codec("libvpx-vp9", "w").video_formats]:
        with av.open(str(stylize(source, tmp_path / "out.webm"))) as container:
            assert container.streams.video[0].pix_fmt == "yuv420p"
        assert "is brought to 8 bits" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "pix_fmt", "codec", "tag", "becomes"),
    [
        (".mp4", "yuv420p10le", "hevc", "hvc1", "yuv420p10le"),
        (".mov", "yuv422p10le", "hevc", "hvc1", "yuv422p10le"),
        (".mp4", "yuv444p", "h264", "avc1", "yuv420p"),
        (".mkv", "yuv444p", "h264", None, "yuv444p"),
    ],
)
def test_films_are_coded_as_players_know_it(stylize, tmp_path, suffix, pix_fmt, codec, tag, becomes):
    if "libx265" not in av.codecs_available:
        pytest.skip("this build of PyAV lacks libx265")
    source = make_clip(tmp_path / "in.mp4", frames=7, pix_fmt=pix_fmt)
    with av.open(str(stylize(source, tmp_path / f"out{suffix}"))) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == (codec, becomes)
        assert tag is None or context.codec_tag == tag
    assert len(frames_of(tmp_path / f"out{suffix}")[0]) == 7


def test_a_film_ends_when_it_did(stylize, tmp_path):
    """MP4 has its frames' durations in the order of decoding."""
    times = [0, 12800 * 10, 12800 * 40, 12800 * 40 + 512]
    source = make_clip(tmp_path / "in.mp4", frames=4, times=times)
    seconds = []
    for path in (source, photo(stylize, source, tmp_path / "out.mp4"), photo(stylize, source, tmp_path / "out.mkv")):
        with av.open(str(path)) as container:
            seconds.append(container.duration / av.time_base)
    assert seconds[1:] == pytest.approx([seconds[0]] * 2, abs=0.05)


def test_ticks_are_no_rate_and_fields_are_told_of(stylize, tmp_path, monkeypatch, caplog):
    source = make_clip(tmp_path / "in.mp4", frames=3, encoder={"x264-params": "tff=1"})
    assert read_clip(source, 1).rate == 25
    photo(stylize, source, tmp_path / "out.mp4")
    assert "is interlaced: both fields of a frame are painted as one" in caplog.text
    monkeypatch.setattr("impasto.video.clip.FASTEST", 24)
    assert read_clip(source, 1).rate == 30


@pytest.mark.parametrize(
    ("size", "matrix"), [((1280, 536), 1), ((1920, 800), 1), ((960, 720), 1), ((1024, 576), 6), ((720, 576), 6)]
)
def test_an_unnamed_matrix_is_the_one_that_players_take(size, matrix):
    assert read_colours(av.VideoFrame(*size, "yuv420p")).matrix == matrix


def test_frames_of_one_time_delay_no_others(stylize, tmp_path):
    """As Matroska's milliseconds make them of times that are closer."""
    times = [number * 512 - (510 if number in (3, 7) else 0) for number in range(12)]
    source = make_clip(tmp_path / "a.mkv", codec="mpeg4", times=times)
    before = [float(time) for time in frames_of(source)[0]]
    assert len(set(before)) < 12
    stylize(source, tmp_path / "out.mkv")
    after = [float(time) for time in frames_of(tmp_path / "out.mkv")[0]]
    assert np.abs(np.array(after) - before).max() < 0.003


def test_frames_of_another_size_are_told_of_once(tmp_path, caplog):
    clip = read_clip(make_clip(tmp_path / "a.mp4"), 1)
    pictures = Pictures(clip)
    for size in ((64, 48), (48, 64), (48, 64)):
        assert pictures(av.VideoFrame.from_ndarray(ramp(*size), format="rgb24")).size == (64, 48)
    assert [line for line in caplog.messages if "goes on from 64×48 to 48×64 px" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_light_levels_are_left_out_and_told_of(stylize, tmp_path, caplog):
    if "libx265" not in av.codecs_available:
        pytest.skip("this build of PyAV lacks libx265")
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    parameters = f"log-level=error:hdr10=1:master-display={display}:max-cll=1000,400"
    source = make_clip(tmp_path / "a.mp4", codec="libx265", pix_fmt="yuv420p10le", encoder={"x265-params": parameters})
    stylize(source, tmp_path / "out.mp4")
    assert f"left out: HDR10's light levels of {source}" in caplog.text


def test_hdr_stays_hdr_and_is_told_of(stylize, tmp_path, caplog):
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}  # BT.2020, PQ
    source = make_clip(tmp_path / "in.mp4", frames=2, pix_fmt="yuv420p10le", tags=tags)
    with av.open(str(stylize(source, tmp_path / "out.mp4"))) as container:
        context = container.streams.video[0].codec_context
        assert {name: getattr(context, name) for name in tags} == tags
        assert context.pix_fmt == "yuv420p10le"
    assert "is HDR (PQ)" in caplog.text


@pytest.mark.parametrize("codec", ["libopus", "vorbis"])
def test_sound_of_webm_stays(stylize, tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV lacks {codec}")
    source = tmp_path / "in.webm"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("libvpx-vp9", rate=25, options={"deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream(codec, rate=48000, options={"strict": "experimental"})
        sound.layout = "stereo"
        for number in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(ramp(64, 48, number), format="rgb24")))
        for begin in range(0, 5760, 960):
            wave = (np.sin(np.arange(begin, begin + 960) * 0.05) * 0.3).astype(np.float32)
            piece = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
            piece.sample_rate, piece.pts, piece.time_base = 48000, begin, Fraction(1, 48000)
            for resampled in av.AudioResampler(sound.codec_context.format, "stereo", 48000).resample(piece):
                output.mux(sound.encode(resampled))
        output.mux(sound.encode(None))
        output.mux(stream.encode(None))
    out = stylize(source, tmp_path / "out.webm")
    assert sound_of(out) == sound_of(source) != []


def test_size_quality_and_the_pixels_aspect(stylize, tmp_path):
    source = make_clip(tmp_path / "in.mp4", aspect=Fraction(4, 3))
    small = stylize(source, tmp_path / "a.mp4", controls=Controls(size=32), quality=30)
    with av.open(str(small)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.sample_aspect_ratio) == (32, 24, Fraction(4, 3))
    assert small.stat().st_size < stylize(source, tmp_path / "b.mp4").stat().st_size


def test_default_names_and_other_containers(stylize, tmp_path, capsys):
    source = make_clip(tmp_path / "in.mp4", frames=4)
    stylize(source)
    assert len(frames_of(tmp_path / "in_test.mp4")[0]) == 4
    stylize(source, suffix=".mkv", as_json=True)
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["output"], record["frames"]) == (str(tmp_path / "in_test.mkv"), 4)
    stylize(source, f"{tmp_path}/folder/")
    assert (tmp_path / "folder" / "in.mp4").is_file()


def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(stylize, tmp_path, caplog):
    source = make_clip(tmp_path / "in.mp4", frames=40, sounds=["aac"], options={"movflags": "+faststart"})
    content = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 7 // 10])
    out = stylize(tmp_path / "cut.mp4", tmp_path / "out.mp4")
    assert re.search(r"is damaged: 0.\d s are missing at its end; \d+ frames of some 40 are stylized", caplog.text)
    times = frames_of(out)[0]
    assert 10 < len(times) < 40
    assert set(times) <= set(frames_of(source)[0])  # the last of them without those that they take after
    (tmp_path / "cut.mp4").write_bytes(make_clip(tmp_path / "b.mp4").read_bytes()[:1000])  # its index was at the end
    with pytest.raises(UserError, match="cut.mp4' is not a video that can be read"):
        stylize(tmp_path / "cut.mp4", tmp_path / "out2.mp4")


def test_wrong_input_and_output_are_named(stylize, tmp_path):
    source = make_clip(tmp_path / "in.mp4", frames=2, sounds=["aac"])
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mkv"), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=48000)
        sound.layout = "mono"
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        piece.sample_rate = 48000
        output.mux(sound.encode(piece))
    for path, output, changes, line in (
        (tmp_path / "none.mp4", None, {}, "no image, video or folder"),
        (tmp_path / "text.mp4", None, {}, "text.mp4' is not a video that can be read"),
        (tmp_path / "sound.mkv", None, {}, "sound.mkv' is not a video that can be read: it has no pictures"),
        (source, source, {}, "it would be written over"),
        (source, tmp_path / "out.gif", {}, "a video cannot go to .*out.gif'"),
        (source, None, {"suffix": ".png"}, "format=png should be one of m4v, mkv, mov"),
        (source, "-", {}, "a video goes to a file"),
        (source, tmp_path / "out.webm", {}, ".webm cannot hold the input's sound, which is aac: try output=….mkv"),
        (source, None, {"megapixels": 0.001}, "more than max_megapixels=0.001"),
        (source, None, {"tile": 512}, "tile=512 is for images: a film's frames are painted whole"),
        (source, None, {"exact": False}, "exact=false is for images: a film's frames are painted whole"),
        (source, None, {"smooth": 1.0}, "smooth=1 should be in 0…0.9"),
    ):
        with pytest.raises(UserError, match=line):
            stylize(path, output, **changes)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "text.mp4", "sound.mkv", "networks"}


def test_a_missing_package_or_encoder_is_named(stylize, tmp_path, monkeypatch, caplog):
    source = make_clip(tmp_path / "in.mp4", frames=2)
    monkeypatch.setattr(encoding.av, "codecs_available", {"libvpx-vp9"})
    with av.open(str(stylize(source, tmp_path / "a.mp4"))) as container:
        assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
    assert "lacks libx264: libvpx-vp9 encodes in its place" in caplog.text
    with pytest.raises(UserError, match="takes libx264 or libx265, which this build of PyAV lacks"):
        stylize(source, tmp_path / "b.mov")
    monkeypatch.setattr("impasto.video.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'impasto\[video\]'"):
        stylize(source, tmp_path / "c.mp4")
    monkeypatch.setattr("impasto.video.find_spec", lambda name: None if name == "cv2" else name)
    with pytest.raises(UserError, match=r"smooth=0.8 takes OpenCV: pip install 'impasto\[video\]'; smooth=0 goes"):
        stylize(source, tmp_path / "c.mp4")


@pytest.fixture
def encoded(monkeypatch):
    """Time and pixels of what goes to the encoder, where with `stop` as many frames Ctrl-C is pressed.

    Files are not compared: x264 itself may choose a few bits differently from one run to the next.
    """
    encode, calls = encoding.Encoder.encode, []

    def watched(self, picture, time):
        if len(calls) == watched.stop:
            raise KeyboardInterrupt
        calls.append((time, picture.pixels.tobytes()))
        return encode(self, picture, time)

    watched.stop = None
    monkeypatch.setattr(encoding.Encoder, "encode", watched)
    return watched, calls


def test_an_interrupted_run_goes_on_to_the_same_film(stylize, tmp_path, encoded, caplog):
    watched, calls = encoded
    source = make_clip(tmp_path / "in.mp4", frames=23, sounds=["aac"])
    whole = stylize(source, tmp_path / "whole.mp4")
    expected = calls.copy()
    calls.clear()
    watched.stop = 13
    with pytest.raises(KeyboardInterrupt):
        stylize(source, tmp_path / "out.mp4")
    assert "the same command goes on" in caplog.text
    parts = tmp_path / ".out.mp4.parts"
    assert not (tmp_path / "out.mp4").exists()
    kept = ["000000.safetensors", "000001.safetensors", "memory000001.safetensors", "record.json"]
    assert sorted(path.name for path in parts.iterdir()) == kept
    calls.clear()
    watched.stop = None
    out = stylize(source, tmp_path / "out.mp4")
    assert calls == expected[10:]  # with the memory of the frames before
    assert not parts.exists()
    assert frames_of(out)[0] == frames_of(whole)[0] == frames_of(source)[0]
    assert abs(np.subtract(frames_of(out)[1], frames_of(whole)[1], dtype=float)).mean() < 1
    assert sound_of(out) == sound_of(whole) == sound_of(source)


@pytest.mark.parametrize("left", [None, 40])  # bytes
def test_without_what_was_remembered_a_film_begins_anew(stylize, tmp_path, encoded, left):
    watched, calls = encoded
    source = make_clip(tmp_path / "in.mp4", frames=8)
    watched.stop = 7
    with pytest.raises(KeyboardInterrupt):
        stylize(source, tmp_path / "out.mp4")
    memory = tmp_path / ".out.mp4.parts" / "memory000000.safetensors"
    if left is None:
        memory.unlink()
    else:
        os.truncate(memory, left)
    calls.clear()
    watched.stop = None
    stylize(source, tmp_path / "out.mp4")
    assert len(calls) == 8


def test_a_network_that_fails_amid_a_film_ends_it(stylize, tmp_path, monkeypatch):
    """In a thread: the error comes out as it is, and no thread is left."""
    source, painted = make_clip(tmp_path / "in.mp4"), []

    def paint_all(self, pictures, controls):
        painted.extend(pictures)
        if len(painted) == 8:
            raise UserError("memory is full")
        return pictures

    monkeypatch.setattr("impasto.stylizer.Stylizer.paint_all", paint_all)
    with pytest.raises(UserError, match="memory is full"):
        stylize(source, tmp_path / "out.mp4")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    assert (tmp_path / ".out.mp4.parts" / "000000.safetensors").exists() and not (tmp_path / "out.mp4").exists()


def test_smooth_holds_strokes_down_and_0_is_each_frame_on_its_own(stylize, tmp_path, encoded, network_file):
    """Weight 0 is what the network paints, exactly; what is not painted stays the photo's, exactly."""
    _, calls = encoded
    source = make_clip(tmp_path / "in.mp4", frames=6)
    clip = read_clip(source, 1)
    upright, engine = Pictures(clip), Stylizer.load(str(network_file), "cpu", "float32")
    photos = [upright(frame) for _, frame, _ in open_frames(clip)]
    expected = [engine.paint(photo).pixels.tobytes() for photo in photos]
    stylize(source, tmp_path / "a.mp4", smooth=0)
    assert [pixels for _, pixels in calls] == expected
    calls.clear()
    stylize(source, tmp_path / "b.mp4")
    assert calls[0][1] == expected[0]
    assert all(pixels != own for (_, pixels), own in zip(calls[1:], expected[1:], strict=True))
    calls.clear()
    photo(stylize, source, tmp_path / "c.mp4")
    assert [pixels for _, pixels in calls] == [each.pixels.tobytes() for each in photos]


def test_one_process_at_a_time_makes_a_film(stylize, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    with (
        Parts(tmp_path / "out.mp4").alone(),
        pytest.raises(UserError, match="another process paints into '.*out.mp4.parts"),
    ):
        stylize(source, tmp_path / "out.mp4")
    stylize(source, tmp_path / "out.mp4")
    assert not (tmp_path / ".out.mp4.parts").exists()


def test_parts_of_another_run_are_not_taken(stylize, tmp_path, encoded, monkeypatch, caplog):
    _, calls = encoded
    source = make_clip(tmp_path / "in.mp4")

    def full(*_):
        raise UserError("disk full")

    joined = film.join
    monkeypatch.setattr(film, "join", full)
    with pytest.raises(UserError, match="disk full"):
        stylize(source, tmp_path / "out.mp4")
    with pytest.raises(UserError, match="disk full"):
        stylize(source, tmp_path / "out.mp4", keep_metadata=False, suffix=".mp4")
    assert len(calls) == 12  # once
    assert "removed" not in caplog.text
    monkeypatch.setattr(film, "join", joined)
    stylize(source, tmp_path / "out.mp4", smooth=0.5)
    assert len(calls) == 24
    assert "parts that another command, or another film, left are removed" in caplog.text
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_fills_is_one_line(network_file, tmp_path):
    """The networks' memory of the frames before is the largest part."""
    source = make_clip(tmp_path / "in.mp4", frames=100)
    command = [sys.executable, str(ROOT / "stylize.py"), f"ckpt={network_file}", f"input={source}", "device=cpu"]
    limit = 20_000  # bytes that a file can have
    process = subprocess.run(
        [*command, f"output={tmp_path / 'out.mp4'}"],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: ") and "File too large" in process.stderr
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("name", ["a{x} {0} [final].mp4", "2024-05-06T07:08:09.mp4", "b" * 250 + ".mp4"])
def test_any_name_is_a_name(stylize, tmp_path, monkeypatch, name):
    """FFmpeg takes what stands before a colon for a protocol."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    make_clip(tmp_path / "in.mp4", frames=2).rename(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path / "in")
    photo(stylize, name, tmp_path / "out" / name)
    assert len(frames_of(tmp_path / "out" / name)[0]) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.skipif(os.name != "posix", reason="pipes have names on POSIX only")
def test_a_pipe_is_no_film(tmp_path):
    os.mkfifo(tmp_path / "in.mp4")
    with pytest.raises(UserError, match=r"in.mp4' is a pipe or a device, not a file"):
        read_clip(tmp_path / "in.mp4", 178)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_chapters_and_what_pictures_are_called_stay(stylize, tmp_path, caplog, suffix):
    make_clip(tmp_path / "in.mp4", frames=50, named={"language": "deu"}, chapters=["One", "Two"])
    for keep in (True, False):
        out = photo(stylize, tmp_path / "in.mp4", tmp_path / f"out{suffix}", keep_metadata=keep)
        with av.open(str(out)) as container:
            chapters = [chapter["metadata"]["title"] for chapter in container.chapters()]
            assert chapters == ["One", "Two"]
            assert container.streams.video[0].metadata["language"] in ("deu", "ger")
    assert "left out" not in caplog.text


def test_transparency_that_ffmpegs_own_decoder_passes_over_is_told(tmp_path):
    """As of WebM, which says so in a tag."""
    opaque = make_clip(tmp_path / "opaque.webm", frames=2, codec="libvpx-vp9")
    source = make_clip(tmp_path / "in.webm", frames=2, codec="libvpx-vp9", pix_fmt="yuva420p")
    assert read_clip(opaque, 178).left_out == ()
    assert read_clip(source, 178).left_out == ("transparency",)


def test_colours_by_an_unknown_matrix_are_told(tmp_path, caplog):
    read_clip(make_clip(tmp_path / "a.mp4", frames=2), 178)
    assert not caplog.messages
    source = make_clip(tmp_path / "b.mp4", frames=2, encoder={"x264-params": "colormatrix=YCgCo"})
    read_clip(source, 178)
    assert "has colours by matrix 8, which is not known: they may be off" in caplog.text


def test_a_hole_amid_a_film_is_told(stylize, tmp_path, caplog):
    """FFmpeg goes on at the next cluster."""
    source = make_clip(tmp_path / "in.mkv", frames=60, options={"cluster_time_limit": "800"})
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    source.write_bytes(content)
    out = photo(stylize, source, tmp_path / "out.mkv")
    read = len(frames_of(out)[0])
    assert read < 55
    assert f"1 packet could not be read; {read} frames of some 60 are stylized" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_asked_to_end_says_how_to_go_on(stylize, tmp_path, monkeypatch, caplog, number):
    def stopped(*_):
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    monkeypatch.setattr(film, "_paint_parts", stopped)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        stylize(make_clip(tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4")
    assert "stopped: the same command goes on" in caplog.text


def test_ctrl_c_leaves_no_half_film(network_file, tmp_path):
    source = make_clip(tmp_path / "in.mp4", frames=300, size=(320, 240))
    command = [sys.executable, str(ROOT / "stylize.py"), f"ckpt={network_file}", f"input={source}", "device=cpu"]
    process = subprocess.Popen(
        [*command, f"output={tmp_path / 'out.mp4'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    parts = tmp_path / ".out.mp4.parts"
    while not (parts / "000000.safetensors").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr and b"the same command goes on" in stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "networks", ".out.mp4.parts"}
    kept = {path.name.removeprefix("memory") for path in parts.iterdir()}
    assert kept <= {"record.json", "000000.safetensors", "000001.safetensors"}


def test_films_in_a_folder_are_told_of(stylize, tmp_path, caplog):
    caplog.set_level(logging.INFO, "impasto")
    (tmp_path / "in").mkdir()
    noise_image(9, 9).save(tmp_path / "in" / "a.png")
    make_clip(tmp_path / "in" / "b.mp4", frames=1)
    stylize(tmp_path / "in", tmp_path / "out")
    assert "left out: 1 videos (b.mp4)" in caplog.text
    assert read_image(tmp_path / "out" / "a.png").size == (9, 9)
