"""Sound files of every kind that is read, small, from which damaged ones are made."""

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, PngImagePlugin

from impasto.models.transformer_net import TransformerNet
from impasto.picture import Picture
from impasto.picture_files import write_picture

WIDTH, DEPTH = 2, 0  # of the networks


def images() -> dict[str, bytes]:
    """File name → content, of the formats that this installation writes; at most 64 px."""
    rgb = _noise(40, 28)
    grey, rgba, palette = rgb.convert("L"), rgb.copy(), rgb.quantize(16)
    rgba.putalpha(Image.linear_gradient("L").resize(rgb.size))
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a picture")
    text.add_text("Long", "a" * 300, zip=True)
    text.add_itxt("Comment", "ein Bild", "de", "Kommentar", zip=True)
    film = {"save_all": True, "append_images": [_noise(40, 28, seed) for seed in (1, 2)], "duration": [50, 0, 90]}
    profile = _profile()
    files = {
        "baseline.jpg": _saved(rgb, "JPEG"),
        "grey.jpg": _saved(grey, "JPEG"),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "profile.jpg": _saved(rgb, "JPEG", icc_profile=profile),
        "pair.jpg": _saved(rgb, "MPO", save_all=True, append_images=[rgb]),
        "one_bit.png": _saved(grey.convert("1"), "PNG"),
        **{f"palette{bits}.png": _saved(rgb.quantize(2**bits), "PNG", bits=bits) for bits in (1, 2, 4, 8)},
        "transparent_palette.png": _saved(palette, "PNG", transparency=3),
        "grey.png": _saved(grey, "PNG", transparency=7),
        "grey_alpha.png": _saved(rgba.convert("LA"), "PNG"),
        "rgb.png": _saved(rgb, "PNG", icc_profile=profile, exif=_exif(3)),
        "rgba.png": _saved(rgba, "PNG"),
        "text.png": _saved(rgb, "PNG", pnginfo=text),
        "grey16.png": _saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "film.png": _saved(rgb, "PNG", **film),
        "film.gif": _saved(rgb, "GIF", **film),
        "disposed.gif": _saved(palette, "GIF", **film, disposal=2, transparency=1),
        "still.gif": _saved(palette, "GIF"),
        "lossy.webp": _saved(rgb, "WEBP", exif=_exif(8), icc_profile=profile),
        "lossless.webp": _saved(rgba, "WEBP", lossless=True),
        "film.webp": _saved(rgb, "WEBP", **film),
        "rgb.avif": _saved(rgb, "AVIF", speed=10, exif=_exif(6)),
        "rgba.avif": _saved(rgba, "AVIF", speed=10),
        "rgb.tif": _saved(rgb, "TIFF", icc_profile=profile),
        "deflate.tif": _saved(rgba, "TIFF", compression="tiff_deflate"),
        "lzw.tif": _saved(palette, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": _saved(rgb, "TIFF", compression="jpeg"),
        "fax.tif": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "cmyk.tif": _saved(rgb.convert("CMYK"), "TIFF"),
        "float.tif": _saved(grey.convert("F"), "TIFF"),
        "grey16.tif": _saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"),
        "pages.tif": _saved(rgb, "TIFF", save_all=True, append_images=[grey]),
        "rgb.bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(palette, "BMP"),
        "rgb.ppm": _saved(rgb, "PPM"),
        "grey.pgm": _saved(grey, "PPM"),
        "deep.ppm": b"P6\n5 4\n65535\n" + bytes(range(120)),
    }
    files |= {f"orientation{value}.jpg": _saved(rgb, "JPEG", exif=_exif(value)) for value in (1, 2, 5, 6)}
    return files | _of_libvips() | _of_heif(rgb)


def _of_libvips() -> dict[str, bytes]:
    """16 bits in colour, and layouts that Pillow does not write."""
    import pyvips

    levels = np.random.default_rng(3).integers(0, 65536, (28, 40, 4), dtype=np.uint16)
    files = {}
    for name, picture in {
        "deep": Picture(levels[..., :3]),
        "deep_alpha": Picture(levels[..., :3], levels[..., 3]),
        "deep_exif": Picture(levels[..., :3], None, _exif(1)),
    }.items():
        for suffix in (".png", ".tif"):
            stream = io.BytesIO()
            write_picture(picture, stream, suffix)
            files[f"{name}{suffix}"] = stream.getvalue()
    image = pyvips.Image.new_from_array(levels[..., :3], interpretation="rgb16")
    wide = image.icc_transform("p3", depth=16)
    files["deep_profile.png"] = wide.pngsave_buffer(interlace=True)
    files["deep_tiles.tif"] = wide.tiffsave_buffer(tile=True, tile_width=16, tile_height=16, compression="deflate")
    eight = image.cast("uchar").copy(interpretation="srgb")
    files["floats.tif"] = image.colourspace("scrgb").tiffsave_buffer()
    files["lab.tif"] = wide.colourspace("lab").tiffsave_buffer(tile=True, tile_width=16, tile_height=16)
    files["tiles.tif"] = eight.tiffsave_buffer(tile=True, tile_width=16, tile_height=16)
    files["big.tif"] = eight.tiffsave_buffer(bigtiff=True, compression="lzw", predictor="horizontal")
    files["interlaced.png"] = eight.pngsave_buffer(interlace=True)
    return files


def _of_heif(rgb: Image.Image) -> dict[str, bytes]:
    try:
        import pillow_heif
    except ImportError:
        return {}
    pillow_heif.register_heif_opener()
    return {"rgb.heic": _saved(rgb, "HEIF"), "exif.heic": _saved(rgb, "HEIF", exif=_exif(6))}


def record() -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "format": 1,
        "architecture": {"name": "TransformerNet", "width": WIDTH, "depth": DEPTH, "margin": 8},
        "style": {"name": "fuzz", "painting": "Fuzz, 2026"},
        "images_seen": 7,
        # of a compiled package, for another machine: the code in one is never reached
        "target": {"torch": "0.0", "system": "none", "processor": "none", "device": "cpu"},
        "instructions": [],
        "precision": "float32",
    }


def weights() -> dict[str, torch.Tensor]:
    """A tiny network's."""
    torch.manual_seed(0)
    return TransformerNet(WIDTH, DEPTH).state_dict()


def peer_weights() -> dict[str, torch.Tensor]:
    """The same, under the names of pytorch/examples."""
    state = weights()
    names = {f"encoder.{index}": (f"conv{index + 1}.conv2d", f"in{index + 1}") for index in range(3)}
    names |= {f"decoder.{index}": (f"deconv{index + 1}.conv2d", f"in{index + 4}") for index in range(2)}
    renamed = {
        f"{theirs}.{kind}": state[f"{ours}.{half}.{kind}"]
        for ours, halves in names.items()
        for half, theirs in zip(("conv", "norm"), halves, strict=True)
        for kind in ("weight", "bias")
    }
    return renamed | {f"deconv3.conv2d.{kind}": state[f"decoder.2.{kind}"] for kind in ("weight", "bias")}


def checkpoint(name: str, said: Any) -> bytes:
    """A checkpoint of the kind that the name says, with the record `said`, sound but for what that makes of it."""
    stream = io.BytesIO()
    if name.endswith(".safetensors"):
        return _safetensors(said)
    if name.endswith(".onnx"):
        return _onnx(said)
    if name.endswith(".pt2"):
        with zipfile.ZipFile(stream, "w") as archive:
            entry = zipfile.ZipInfo("a/model_metadata.json")  # of 1980, so always the same
            archive.writestr(entry, json.dumps({"impasto": json.dumps(said)}))
    elif name.endswith(".ckpt"):
        state = {f"net.{key}": value for key, value in weights().items()}
        torch.save({"impasto": said, "state_dict": state, "global_step": 3}, stream)
    else:
        torch.save(peer_weights(), stream, _use_new_zipfile_serialization="old" not in name)
    return stream.getvalue()


CHECKPOINTS = ("ours.safetensors", "ours.safetensors", "ours.ckpt", "peer.pth", "old.pth", "graph.onnx", "code.pt2")


def _safetensors(said: Any) -> bytes:
    from safetensors.torch import save

    return save(weights(), metadata={"impasto": json.dumps(said)})


def _onnx(said: Any) -> bytes:
    """A graph that gives back what it takes; nothing where the package is not there."""
    try:
        from onnx import TensorProto, helper
    except ImportError:
        return b""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height", "width"])
        for name in ("content", "stylized")
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["content"], ["stylized"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"impasto": json.dumps(said)})
    content: bytes = model.SerializeToString()
    return content


def with_header(content: bytes, header: bytes) -> bytes:
    """A safetensors file with another header."""
    (length,) = struct.unpack("<Q", content[:8])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).filter(ImageFilter.GaussianBlur(2))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)  # a copy, as encoders leave their settings on it
    return stream.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = orientation, "Camera & Co", "© somebody"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x829A: 0.01, 0x927C: b"maker's note"})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif.tobytes()


def _profile() -> bytes:
    """A wide one, that is not sRGB."""
    import pyvips

    profile: bytes = (
        pyvips.Image.black(8, 8, bands=3).copy(interpretation="srgb").icc_transform("p3").get("icc-profile-data")
    )
    return profile
