"""Training steps outside of a run: what they take in time and memory on this machine."""

from collections.abc import Mapping
from typing import Any

import torch

from impasto.losses.objective import build_objective, read_painting
from impasto.models.transformer_net import TransformerNet


class Rehearsal:
    """Real training steps of a configuration on noise, with weights of its own.

    `config` is train.py's, resolved. Raises `UserError` as building the run would.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device, bfloat16: bool) -> None:
        painting = read_painting(config["style"]["image"], config["stroke"])
        objective = build_objective(painting, config["loss"], config["vgg"], config["strength"])
        if bfloat16:
            objective.loss.vgg.round_kernels(torch.bfloat16)
        self.objective, self.device, self.bfloat16 = objective.to(device), device, bfloat16
        self.net = TransformerNet(**config["model"]).to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-6)

    def step(self, batch_size: int, image_size: int) -> None:
        """One step: forward, backward, Adam; done when this returns. Raises what torch raises without memory."""
        content = torch.rand(batch_size, 3, image_size, image_size, device=self.device)
        content = content.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            stylized = self.net(content, interior=True).to(memory_format=torch.channels_last)
            total = self.objective(stylized, self.net.inside(content))["total"]
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        total.item()  # a GPU works on by itself until it is asked for a number
