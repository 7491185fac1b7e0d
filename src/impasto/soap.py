"""SOAP: Adam in the eigenbasis of the gradient's correlations."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

REMEMBERED = 0.99  # share of the correlations that a step keeps
REFRESH = 10  # steps between two refreshes of the eigenbases

Kernels = Float[Tensor, "out_channels places in_channels"]


class SOAP(torch.optim.Optimizer):
    """Adam, with the moments of a convolution's kernels in the basis where the gradient's entries do not correlate.

    With G (out_channels, height * width, in_channels) and, for each of its three dimensions d, the running mean C_d of
    its correlations, whose eigenvectors are Q_d: G' = G rotated by all Q_d^T, an update U' by Adam from G', and
    W -= lr * U' rotated back by all Q_d. The Q_d follow C_d by a step of orthogonal iteration, Q = qr(C Q), every
    `REFRESH` steps. What is not a convolution's kernel takes plain Adam.

    So filters and channels that always change together, as neighbouring pixels of a kernel do, do not share one step
    size. Differs: the first step has a basis, that of its own gradient, and moves the weights; the first moment is kept
    in the basis, and goes with it to the next, where the paper rotates it at each step.

    Directions with next to no gradient take whole steps, too, and are worth it: a floor of a hundredth of the
    gradient's root mean square was tried, and lost half of the gain. But they make more of rounding than Adam does: a
    machine repeats its bits; runs that add in another order, as over more ranks, part by per cents in a few steps.

    Source: Vyas et al. 2024 (arXiv:2409.11321), algorithm 3; for tensors, Gupta et al. 2018 (arXiv:1802.09568).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients that are there; returns the `closure`'s loss, which sets them."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, self.state[parameter], **group)
        return loss

    @staticmethod
    def _step(
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        **_: Any,
    ) -> None:
        kernels = parameter.dim() == 4
        if kernels:  # no copy where channels are last
            gradient = gradient.permute(0, 2, 3, 1).flatten(1, 2)
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
            if kernels:
                state["correlations"] = _correlations(gradient)
                state["bases"] = [torch.linalg.eigh(each)[1] for each in state["correlations"]]
        elif kernels:
            for remembered, new in zip(state["correlations"], _correlations(gradient), strict=True):
                remembered.lerp_(new, 1 - REMEMBERED)
        if kernels:
            gradient = _rotated(gradient, state["bases"])
        state["step"] += 1
        mean, square = state["mean"], state["square"]
        mean.lerp_(gradient, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        # Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1
        spread = (square / (1 - betas[1] ** state["step"])).sqrt_().add_(eps)
        update = mean / spread.mul_(1 - betas[0] ** state["step"])
        if kernels:
            update = _rotated_back(update, state["bases"])
            out_channels, in_channels, height, width = parameter.shape
            update = update.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)
        parameter.sub_(update, alpha=lr)
        if kernels and state["step"] % REFRESH == 0:
            mean = _rotated_back(mean, state["bases"])
            pairs = zip(state["correlations"], state["bases"], strict=True)
            state["bases"] = [torch.linalg.qr(correlation @ basis)[0] for correlation, basis in pairs]
            state["mean"] = _rotated(mean, state["bases"])


def _correlations(gradient: Kernels) -> list[Tensor]:
    """Of the entries along each dimension, summed over the two others."""
    filters, places, channels = gradient.flatten(1), gradient.transpose(0, 1).flatten(1), gradient.flatten(0, 1)
    return [filters @ filters.mT, places @ places.mT, channels.mT @ channels]


def _rotated(kernels: Kernels, bases: list[Tensor]) -> Kernels:
    """The coordinates of `kernels` in the `bases`, whose columns are the axes."""
    return _rotated_back(kernels, [basis.mT for basis in bases])


def _rotated_back(coordinates: Kernels, bases: list[Tensor]) -> Kernels:
    """The kernels that have these `coordinates`."""
    first, second, third = bases
    return second @ ((first @ coordinates.flatten(1)).view_as(coordinates) @ third.mT)
