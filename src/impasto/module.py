"""`StyleTransferModule`: a network, its loss and its schedule, as Lightning trains them."""

from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from impasto.losses.objective import Objective
from impasto.models.layers import Waves
from impasto.models.transformer_net import TransformerNet
from impasto.schedule import Schedule


class StyleTransferModule(pl.LightningModule):
    """Trains `net` so that its pictures keep the photo's content and take the painting's style.

    `record` is plain data that goes into every checkpoint: it describes what is being trained.
    Batches are RGB in [0, 1], shape (batch, 3, height, width).
    """

    def __init__(
        self,
        net: TransformerNet,
        objective: Objective,
        schedule: Schedule,
        record: dict[str, Any],
        gradient_clip: float = float("inf"),
    ) -> None:
        super().__init__()
        self.net, self.objective, self.schedule = net, objective, schedule
        self.record, self.gradient_clip = record, gradient_clip
        self.images, self.images_seen = schedule.images, 0
        self.rate_factor = 1.0  # times the schedule's rate: below 1 once the loss has blown up
        self.gradient_norm = torch.tensor(0.0)  # of the newest step
        self.validated_at = -1  # images seen

    @property
    def architecture(self) -> dict[str, Any]:
        """The network's name and arguments."""
        return {"name": type(self.net).__name__, **self.net.arguments}

    def forward(
        self,
        content: Float[Tensor, "batch 3 height width"],
        interior: bool = False,
        place: Int[Tensor, "2"] | None = None,
    ) -> Float[Tensor, "batch 3 new_height new_width"]:
        """The stylized batch, or its `interior`, at a `place` of the network's waves."""
        stylized: Tensor = self.net(content, interior, place)
        return stylized

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Set the learning rate from the images seen: a resumed run needs no scheduler state."""
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]  # there is one optimizer
            group["lr"] = self.rate_factor * self.schedule.rate(self.images_seen)

    def training_step(self, content: Tensor, batch_idx: int) -> Float[Tensor, ""]:
        """The weighted total; every term goes to the log."""
        place = Waves.place(self.images_seen)
        stylized, terms = self._judged(content, interior=True, place=place.to(content.device, non_blocking=True))
        self.images_seen += len(content) * self.trainer.world_size
        self._log("train", self._over_ranks(terms), batch_size=len(content))
        detached = stylized.detach()
        self._log(
            "train/output", {"min": detached.amin(), "mean": detached.mean(), "max": detached.amax()}, len(content)
        )
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]  # one optimizer
        self.log("step", float(self.images_seen))  # TensorBoard's horizontal axis: images
        shown = {name: terms[name].detach() for name in ("total", "content", "style")}
        self.log_dict(shown, prog_bar=True, logger=False)
        return terms["total"]

    def validation_step(self, content: Tensor, batch_idx: int) -> Float[Tensor, "batch 3 height width"]:
        """Terms over the held-out photos; returns the pictures."""
        stylized, terms = self._judged(content)
        self._log("val", terms, batch_size=len(content), sync_dist=True)
        self.log("step", float(self.images_seen), sync_dist=True)
        return stylized

    def on_validation_end(self) -> None:
        """All is judged and logged."""
        self.validated_at = self.images_seen

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as in the paper."""
        return torch.optim.Adam(self.net.parameters(), self.schedule.learning_rate)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip by norm, and make a step without a finite gradient do nothing to the weights but momentum.

        Stays on the device. All ranks decide alike, as gradients are averaged by now.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.gradient_clip)
        finite = norm.isfinite()
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.where(finite, parameter.grad, 0.0)
        self.gradient_norm = norm
        self.log("train/gradient_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming and exporting need, as plain data."""
        checkpoint["impasto"] = {**self.record, "architecture": self.architecture, "images_seen": self.images_seen}
        checkpoint["validated_at"] = self.validated_at
        if "loops" in checkpoint:
            _set_after_step(checkpoint["loops"]["fit_loop"], checkpoint["global_step"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stands."""
        self.images_seen = checkpoint["impasto"]["images_seen"]
        self.validated_at = checkpoint.get("validated_at", self.images_seen)

    def _judged(
        self, content: Tensor, interior: bool = False, place: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        stylized = self(content, interior, place)
        seen = self.net.inside(content) if interior else content
        return stylized, self.objective(stylized.to(memory_format=torch.channels_last), seen)

    def _over_ranks(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over all ranks, in one message that nothing waits for: Lightning's would wait for each term."""
        if self.trainer.world_size == 1:
            return terms
        values = torch.stack([term.detach() for term in terms.values()])
        torch.distributed.all_reduce(values)
        return dict(zip(terms, values / self.trainer.world_size, strict=True))

    def _log(self, stage: str, values: dict[str, Tensor], batch_size: int, sync_dist: bool = False) -> None:
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in values.items()},
            batch_size=batch_size,
            sync_dist=sync_dist,
        )


def _set_after_step(progress: dict[str, Any], step: int) -> None:
    """Make Lightning's counters those of the moment after a step, amid the one epoch: there it resumes exactly.

    Saved between two steps, in a validation or at the end, they would have it skip or repeat a count.
    """
    none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    steps = {"ready": step, "started": step, "processed": step, "completed": step - 1}
    epoch = {**none, "ready": 1, "started": 1}
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1
    progress["epoch_loop.batch_progress"] = {"total": {**steps}, "current": {**steps}, "is_last_batch": False}
    progress["epoch_loop.val_loop.batch_progress"] = {"total": {**none}, "current": {**none}, "is_last_batch": False}
    progress["epoch_progress"] = {"total": {**epoch}, "current": {**epoch}}
