"""A loss that blows up costs a few steps, not the run."""

import logging
from copy import deepcopy
from math import inf, isfinite
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from impasto.errors import TrainingError, UserError

log = logging.getLogger("impasto")

POLICIES = ("lower", "stop")
WINDOW = 10  # steps between two looks at the losses, which stay on the device until then
LEAST = 3  # steps by which what comes after the last window is judged: no single spike decides
BLOWN_UP = 3.0  # times the lowest level so far; see the class
LOWERED = 0.3  # times the learning rate, after each return
RETURNS = 3  # at most, until training stops


class Divergence(pl.Callback):
    """Goes back to the last good weights and optimizer, at a lower learning rate, where the loss has blown up.

    A window of `WINDOW` steps is bad where the median of its losses is above `BLOWN_UP` times the lowest median so far,
    or not finite, as a loss counts whose gradient is not. So single spikes and single NaNs pass: the module leaves out
    a step without a finite gradient. Measured, one image at a time: from random weights medians are at most 1.2 times
    the lowest before, single losses 2.1 times; at a learning rate of 0.1 medians rise to 4 times, at 1 to 25 times.
    Photos go on: none is shown again. `policy` is `lower`, or `stop` at the first bad window. Where a run's last steps,
    which make no whole window, are bad, the weights before them are the result.

    All ranks decide alike, by the losses' mean over them. A checkpoint holds its window's losses (the first rank's), so
    that a resumed run judges where an uninterrupted one does, but no weights to go back to other than its own. Where a
    checkpoint is at a window's end, the run that goes on forgets others, too, and both stay the same.
    Raises `UserError` for another policy, `TrainingError` where the loss has blown up for good: back to the last
    good weights; and where a whole run has none but those that it began with.
    """

    def __init__(self, policy: str) -> None:
        if policy not in POLICIES:
            raise UserError(f"guards.on_divergence is {' or '.join(POLICIES)}, not {policy!r}")
        self.policy = policy
        self.lowest, self.returns = inf, 0
        self.losses: list[Tensor] = []
        self.good: _State | None = None  # a window after it was good, too
        self.newest: _State | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take the weights for good."""
        self.good, self.newest = None, _State(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Look at the losses where a window ends."""
        loss = outputs["loss"].detach()
        self.losses.append(torch.where(loss.isfinite() & pl_module.gradient_norm.isfinite(), loss, inf))
        if len(self.losses) < WINDOW:
            return
        level = self._level(trainer)
        if self._is_bad(level):
            self._return(trainer, pl_module, level)
        else:
            self.lowest = min(self.lowest, level)
            self.good, self.newest = self.newest, _State(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at what comes after the last window."""
        left = self.losses
        level = self._level(trainer) if len(left) >= LEAST else 0.0
        if not all(weights.isfinite().all() for weights in pl_module.net.parameters()):
            level = inf
        elif not self._is_bad(level):
            self.losses = left  # for a run that goes on to more images
            return
        good, what = self._restored(trainer, pl_module, level)
        if not good.images:
            raise TrainingError(f"{what}, which have learned nothing; lower {_rate(pl_module)}, and begin anew")
        pl_module.validated_at = good.images
        log.warning("%s: they are the result", what)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Forget what a run that is resumed from here will not know, amid a window excepted."""
        if not self.losses:
            self.on_train_start(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"lowest": self.lowest, "returns": self.returns, "losses": [float(loss) for loss in self.losses]}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep to the lowered rate, unless the user has chosen another loss or rate since."""
        then, now = checkpoint["impasto"], pl_module.record
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        rates = [record.get("schedule", {}).get("learning_rate") for record in (then, now)]
        if state and rates[0] == rates[1] and all(then.get(key) == now.get(key) for key in ("loss", "strength", "vgg")):
            self.lowest = state["lowest"]
            self.losses = [torch.tensor(loss) for loss in state.get("losses", ())]
            self._lower(pl_module, state["returns"])

    def _level(self, trainer: pl.Trainer) -> float:
        """The median of the losses since the last window."""
        device = trainer.strategy.root_device
        window = torch.stack([each.to(device) for each in self.losses])  # a checkpoint's are on the CPU
        losses = trainer.strategy.reduce(window, reduce_op="mean").tolist()
        self.losses = []
        if self.lowest == inf:
            self.lowest = losses[0]  # before the first step
        return median(losses)

    def _is_bad(self, level: float) -> bool:
        return not isfinite(level) or level > BLOWN_UP * self.lowest

    def _lower(self, pl_module: Any, returns: int) -> None:
        self.returns = returns
        pl_module.rate_factor = LOWERED**returns
        if returns:
            pl_module.record["learning_rate_factor"] = pl_module.rate_factor

    def _restored(self, trainer: pl.Trainer, pl_module: Any, level: float) -> tuple["_State", str]:
        """The last good weights, which are put back, and why, in words."""
        good = self.good or self.newest
        assert good is not None  # set where the window started
        good.restore(trainer, pl_module)
        self.newest = good
        what = f"has risen to {level:.3g}, from {self.lowest:.3g}" if isfinite(level) else "is not finite"
        return good, f"the loss {what} at {pl_module.images_seen} images: back to the weights of {good.images} images"

    def _return(self, trainer: pl.Trainer, pl_module: Any, level: float) -> None:
        _, what = self._restored(trainer, pl_module, level)
        rate = _rate(pl_module)
        if self.policy == "stop" or self.returns == RETURNS:
            tried = f", having lowered it {self.returns} times" if self.returns else ""
            raise TrainingError(f"{what}, and stopped{tried}; lower {rate} or strength=, then resume=true")
        self._lower(pl_module, self.returns + 1)
        log.warning("%s, and on with %.2g times %s", what, pl_module.rate_factor, rate)


def _rate(pl_module: Any) -> str:
    return f"schedule.learning_rate={pl_module.schedule.learning_rate:g}"


class _State:
    """Copies, on the device, of all that a step changes."""

    def __init__(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.images: int = pl_module.images_seen
        self.weights = deepcopy(pl_module.net.state_dict())
        self.optimizer = deepcopy(trainer.optimizers[0].state_dict())

    def restore(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Put copies back: this one may be needed again."""
        pl_module.net.load_state_dict(self.weights)
        trainer.optimizers[0].load_state_dict(deepcopy(self.optimizer))
