"""Pictures larger than memory, stylized tile by tile as if at once: without seams.

Three things tell a tile from the whole. Its border: so it is computed with a halo as wide as the layers reach, which
ends at the picture's own border, where they reflect as ever. And instance norm, whose statistics are the whole
picture's: `exact` finds them layer by layer, in one pass over all tiles for each norm; else a thumbnail gives them.
And its place and the whole's size, which waves and sized norms are told.

Source, of the thumbnail: Chen et al. 2022, "Towards Ultra-Resolution Neural Style Transfer via Thumbnail Instance
Normalization" (arXiv:2103.11784).
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt
from torch import Tensor, nn

from impasto.errors import UserError
from impasto.models.layers import ReflectConv2d, UpsampleConv2d
from impasto.models.moments import Moments
from impasto.models.transformer_net import ConvNorm, ResidualBlock, TransformerNet
from impasto.tiling.canvas import Canvas, Region, cropped
from impasto.tiling.norm import PictureNorm, with_picture_norms
from impasto.tiling.spool import Spool, open_spools

SMALLEST = 128  # px, of a tile: below, halos would be most of the work
THUMBNAIL = 1024  # px, long side


def check_tile(tile: int) -> None:
    """Raises `UserError` for a tile's side, px, that the network does not take."""
    if tile < SMALLEST or tile % TransformerNet.multiple:
        raise UserError(f"tile={tile} should be a multiple of {TransformerNet.multiple} px, from {SMALLEST} on")


def stylize_tiled(
    net: TransformerNet,
    pixels: UInt[np.ndarray, "height width 3"],
    tile: int,
    exact: bool = True,
    bfloat16: bool = False,
    progress: Callable[[float], object] = lambda done: None,
) -> UInt[np.ndarray, "height width 3"]:
    """The stylized picture, in the type of `pixels` (uint8 or uint16), in memory that `tile` alone decides.

    `tile` is the tiles' longest side in px, a multiple of 4 from 128 on. Where `exact`, the result is that of one pass
    over the whole but for rounding, for half as much work again, and for temporary files: at width 32, 96 bytes a
    pixel, in bfloat16 48. Else it costs one pass, has no seams either, but colours and contrast may differ.
    Rounding is below 1/255 in float32; in bfloat16 single pixels differ by some levels, the mean by a fraction of one.
    `progress` hears the fraction done. Raises `UserError` for another `tile` and where temporary files lack room.
    """
    check_tile(tile)
    canvas = Canvas(net, pixels, tile, progress)
    with torch.inference_mode(), torch.autocast(canvas.device.type, torch.bfloat16, enabled=bfloat16):
        if exact:
            _stylize_exactly(with_picture_norms(net), canvas, torch.bfloat16 if bfloat16 else torch.float32)
        else:
            _stylize_fast(with_picture_norms(net), canvas)
    return canvas.stylized


def _stylize_fast(net: TransformerNet, canvas: Canvas) -> None:
    """The whole network on each tile, with the statistics of a thumbnail."""
    thumbnail = canvas.thumbnail(THUMBNAIL)
    net(thumbnail)  # which sets them
    larger = canvas.pixels[..., 0].size / thumbnail[0, 0].numel()
    for norm in net.modules():
        if isinstance(norm, PictureNorm):
            norm.pixels = round(norm.pixels * larger)  # its size is not the picture's
    (tiles,) = canvas.passes(1)
    _paint(canvas, canvas, lambda content, region: net.stylize_divisible(content, _place(region)), _reach(net), tiles)


def _stylize_exactly(net: TransformerNet, canvas: Canvas, dtype: torch.dtype) -> None:
    """Layer by layer: what follows a norm waits until all tiles have been through what precedes it.

    Features at quarter resolution are kept, in files. Those at higher resolutions would take 2 and 4 times as much:
    their layers, which are few, are computed again for each norm after them.
    """
    encoder, decoder, depth = net.encoder, net.decoder, len(net.residual)
    last = encoder[-1]
    assert isinstance(last, ConvNorm)
    shape = last.conv.out_channels, canvas.height, canvas.width
    passes = canvas.passes(len(encoder) + (net.waves is not None) + 3 * depth + len(decoder))
    with open_spools(3 if depth else 1, *shape, dtype, canvas.device) as (stream, *branch):
        for end in range(1, len(encoder)):
            _measure(encoder[:end], canvas, canvas, next(passes))
        _measure(encoder, canvas, canvas, next(passes), stream)
        if net.waves is not None:
            for tile in next(passes):
                stream.write(tile, net.waves(stream.read(tile), _place(tile)))
            stream.norm = None
        for block in net.residual:
            assert isinstance(block, ResidualBlock)
            first, second = branch
            _measure([block.conv1], canvas, stream, next(passes), first)
            _measure([block.conv2], canvas, first, next(passes), second)
            for tile in next(passes):
                stream.write(tile, stream.read(tile) + second.read(tile))
            stream.norm = None
        for end in range(1, len(decoder)):
            _measure(decoder[:end], canvas, stream, next(passes))
        _paint(canvas, stream, lambda features, _: net.to_rgb(decoder(features)), _reach(decoder), next(passes))


def _measure(
    layers: Iterable[nn.Module],
    canvas: Canvas,
    source: Canvas | Spool,
    tiles: Iterator[Region],
    spool: Spool | None = None,
) -> None:
    """Give the last layer's norm its statistics; with a spool, keep there what it gives."""
    *known, unknown = layers
    assert isinstance(unknown, ConvNorm)
    assert isinstance(unknown.norm, PictureNorm)
    halo, moments = _reach(nn.Sequential(*known, unknown)), Moments()
    for tile in tiles:
        region = canvas.with_halo(tile, halo / source.unit)
        features = source.read(region)
        for layer in known:
            features = layer(features)
        features = cropped(unknown.conv(features), region, tile)
        moments.add(features)
        if spool is not None:
            spool.write(tile, features)
    unknown.norm.measure(moments)
    if spool is not None:
        spool.norm = unknown.normed


def _paint(
    canvas: Canvas,
    source: Canvas | Spool,
    network: Callable[[Tensor, Region], Tensor],
    halo: int,
    tiles: Iterator[Region],
) -> None:
    """Write the tiles of the stylized picture."""
    for tile in tiles:
        region = canvas.with_halo(tile, halo / source.unit)
        canvas.write(tile, cropped(network(source.read(region), region), region, tile))


def _place(region: Region) -> Int[Tensor, "2"]:
    return torch.tensor([span.start for span in region])


def _reach(layers: nn.Module) -> int:
    """How far from a pixel, in pixels of their input, the convolutions see, one after another."""
    reach = 0
    for conv in reversed([layer for layer in layers.modules() if isinstance(layer, ReflectConv2d)]):
        if isinstance(conv, UpsampleConv2d):
            reach = math.ceil((reach + conv.border) / 2)
        else:
            reach = reach * conv.stride[0] + conv.border
    return reach
