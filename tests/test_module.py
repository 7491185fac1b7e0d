import pytest
import pytorch_lightning as pl
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from impasto.errors import UserError
from impasto.losses.objective import Objective
from impasto.losses.perceptual import LossWeights, PerceptualLoss
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import VGG19Features
from impasto.module import StyleTransferModule
from impasto.schedule import Schedule

LAYERS = {"relu1_1": 1.0, "relu2_1": 1.0}


def small_module():
    vgg = VGG19Features(LAYERS)
    loss = PerceptualLoss(vgg, torch.rand(1, 3, 32, 32), LAYERS, {"relu2_1": 1.0})
    net = TransformerNet(width=4, depth=1)
    objective = Objective(loss, LossWeights(content=1, style=1, tv=1, grid=1))
    return StyleTransferModule(net, objective, Schedule(images=100), {"seed": 0})


@pytest.fixture
def module():
    return small_module()


def quiet_trainer(steps, **options):
    """It writes and shows nothing."""
    return pl.Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"accelerator": "cpu", **options},
    )


def fit(module, batches, **options):
    trainer = quiet_trainer(len(batches), **options)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


def photos(count: int, batch: int = 2) -> list[torch.Tensor]:
    return [torch.rand(batch, 3, 32, 32) for _ in range(count)]


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*val_dataloader"),
    pytest.mark.filterwarnings("ignore:.*validation_step"),
]


def test_learning_rate_follows_the_images_seen():
    schedule = Schedule(images=1000, learning_rate=2.0, warmup=99, final=0.1)
    assert schedule.rate(0) == pytest.approx(0.02)
    assert schedule.rate(99) == 2.0 == max(map(schedule.rate, range(1000)))
    assert schedule.rate(99 + 901 // 2) == pytest.approx(2 * (0.1 + 0.9 / 2), rel=1e-2)
    assert schedule.rate(1000) == schedule.rate(2000) == pytest.approx(0.2)
    assert Schedule(images=10, learning_rate=1e-3).rate(7) == 1e-3
    assert Schedule(images=50, learning_rate=1.0, warmup=50).rate(50) == 1  # which rises to its end


@pytest.mark.parametrize(
    "values", [{"images": 0}, {"learning_rate": 0}, {"learning_rate": float("inf")}, {"warmup": -1}, {"final": 2}]
)
def test_a_schedule_out_of_range_is_named(values):
    ((key, value),) = values.items()
    with pytest.raises(UserError, match=f"^schedule.{key}={value} should be "):
        Schedule(**{"images": 10, **values})


def test_training_lowers_the_loss_and_counts_images(module):
    batch = photos(1)[0]
    before = module._judged(batch)[1]["total"].item()
    fit(module, [batch] * 40)
    assert module.images_seen == 80
    assert module._judged(batch)[1]["total"].item() < 0.5 * before


def test_each_step_has_the_rate_that_the_images_before_it_make(module, monkeypatch):
    module.schedule, module.rate_factor = Schedule(images=8, learning_rate=0.1, warmup=3, final=0.0), 0.3
    rates, step = [], module.training_step

    def noted(content, batch_idx):
        rates.append(module.optimizers().param_groups[0]["lr"])
        return step(content, batch_idx)

    monkeypatch.setattr(module, "training_step", noted)
    fit(module, photos(4))
    assert rates == [0.3 * module.schedule.rate(seen) for seen in (0, 2, 4, 6)]
    assert len({*rates}) == 4


def test_the_interior_is_judged_by_the_photos_own(module):
    module.net, content = TransformerNet(width=4, depth=1, margin=8), torch.rand(1, 3, 48, 40)
    stylized, terms = module._judged(content, interior=True)
    assert stylized.shape == (1, 3, 32, 24)
    assert_close(terms, module.objective(stylized, content[..., 8:-8, 8:-8]))


def test_each_step_lies_elsewhere_in_the_waves_and_a_resumed_one_where_it_did(module, monkeypatch):
    places = []
    stylize = module.net.stylize_divisible
    monkeypatch.setattr(
        module.net, "stylize_divisible", lambda content, place: (places.append(place.tolist()), stylize(content))[1]
    )
    fit(module, photos(3))
    module.images_seen = 2
    fit(module, photos(1))
    assert len({tuple(place) for place in places}) == 3
    assert places[3] == places[1]


def test_a_bad_step_does_not_poison_the_weights(module, monkeypatch):
    judged, steps = module._judged, []

    def sometimes_nan(content, **options):
        stylized, terms = judged(content, **options)
        steps.append(len(steps))
        return stylized, {**terms, "total": terms["total"] * float("nan")} if len(steps) == 2 else terms

    monkeypatch.setattr(module, "_judged", sometimes_nan)
    fit(module, photos(4))
    assert all(parameter.isfinite().all() for parameter in module.net.parameters())


def test_gradients_are_clipped_by_norm(module):
    for parameter in module.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.gradient_clip = 0.5
    module.log = lambda *_: None
    module.configure_gradient_clipping()
    norm = torch.stack([parameter.grad.norm() for parameter in module.net.parameters()]).norm()
    assert_close(norm, torch.tensor(0.5))


def test_checkpoints_hold_the_network_and_plain_data_only(module):
    checkpoint: dict = {}
    module.images_seen = 60
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["impasto"] == {
        "seed": 0,
        "architecture": {"name": "TransformerNet", "width": 4, "depth": 1},
        "images_seen": 60,
    }
    assert all(name.startswith("net.") for name in module.state_dict())
    assert checkpoint["validated_at"] == -1
    module.images_seen = 0
    module.on_load_checkpoint(checkpoint)
    assert module.images_seen == 60
