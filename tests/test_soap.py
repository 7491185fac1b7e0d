import io

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from impasto.models.transformer_net import TransformerNet
from impasto.soap import REFRESH, SOAP


def orthogonal(size: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def trained(loss, start: torch.Tensor, steps: int, **options) -> torch.Tensor:
    weight = nn.Parameter(start.clone())
    optimizer = SOAP([weight], **options)
    for step in range(steps):
        optimizer.zero_grad()
        loss(weight, step).backward()
        optimizer.step()
    return weight.detach()


def test_its_way_is_the_same_in_any_basis():
    """Adam's is not: its step sizes belong to the axes."""
    filters, channels, start = orthogonal(6), orthogonal(5), torch.randn(6, 5, 3, 3, dtype=torch.float64)
    targets = torch.randn(40, 6, 5, 3, 3, dtype=torch.float64)
    scales = torch.rand(6, 5, 3, 3, dtype=torch.float64)

    def loss(weight, step):
        return ((weight - targets[step]).square() * scales).sum()

    def turned(weight):
        return torch.einsum("fg,gcij,dc->fdij", filters, weight, channels)

    def turned_loss(weight, step):
        return loss(torch.einsum("gf,gcij,cd->fdij", filters, weight, channels), step)

    options = {"steps": 40, "lr": 0.05, "eps": 0}
    assert_close(trained(turned_loss, turned(start), **options), turned(trained(loss, start, **options)))
    assert (trained(loss, start, **options) - start).abs().mean() > 0.1


def test_the_first_step_follows_a_gradient_of_rank_one_by_the_learning_rate():
    first, second, third = (torch.randn(size, dtype=torch.float64) for size in (7, 4, 9))
    gradient = torch.einsum("f,c,p->fcp", first, second, third).unflatten(2, (3, 3))
    weight = nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient
    SOAP([weight], lr=0.25).step()
    assert_close(weight.detach(), -0.25 * gradient / gradient.norm(), atol=1e-6, rtol=1e-6)


def test_what_is_no_kernel_takes_adam():
    ours, theirs = nn.Parameter(torch.randn(5)), nn.Parameter(torch.zeros(5))
    theirs.data.copy_(ours)
    options = {"lr": 0.01, "betas": (0.8, 0.95)}
    optimizers = SOAP([ours], **options), torch.optim.Adam([theirs], **options)
    for _ in range(2 * REFRESH):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert_close(ours, theirs)


def test_correlated_gradients_take_fewer_steps_than_adams():
    """Least squares with inputs of which neighbours are nearly alike."""
    mixing = torch.randn(24, 24) * torch.logspace(0, -2, 24)
    answer = torch.randn(8, 24, 1, 1)

    def error(optimizer, lr: float) -> float:
        torch.manual_seed(1)
        weight = nn.Parameter(torch.zeros_like(answer))
        method = optimizer([weight], lr=lr)
        for _ in range(300):
            inputs = torch.einsum("bd,cd->bc", torch.randn(16, 24), mixing)
            loss = torch.einsum("fcij,bc->bf", weight - answer, inputs).square().mean()
            method.zero_grad()
            loss.backward()
            method.step()
        return loss.item()

    rates = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    assert min(error(SOAP, lr) for lr in rates) < 0.5 * min(error(torch.optim.Adam, lr) for lr in rates)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_saved_state_goes_on_to_the_bit(memory_format):
    def steps(net, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            net(torch.rand(1, 3, 32, 32)).square().mean().backward()
            optimizer.step()

    net = TransformerNet(width=4, depth=1).to(memory_format=memory_format)
    optimizer = SOAP(net.parameters())
    steps(net, optimizer, REFRESH + 3)
    saved = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    twin = TransformerNet(width=4, depth=1).to(memory_format=memory_format)
    twin.load_state_dict(loaded["net"])
    again = SOAP(twin.parameters())
    again.load_state_dict(loaded["optimizer"])
    for each in ((net, optimizer), (twin, again)):
        torch.manual_seed(3)
        steps(*each, 2 * REFRESH)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_a_gradient_nothing_moves():
    weights = [nn.Parameter(torch.ones(2, 2, 3, 3)), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))]
    for weight in weights[:2]:
        weight.grad = torch.zeros_like(weight)
    optimizer = SOAP(weights)
    for _ in range(REFRESH + 1):
        optimizer.step()
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in weights)
