"""Images as tensors."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from impasto.image import to_array


def to_tensor(image: Image.Image) -> Float[Tensor, "1 3 height width"]:
    """An RGB image as a tensor in [0, 1]."""
    return torch.from_numpy(to_array(image))
