import pytest
import torch

from impasto.evaluation.artefacts import Finding
from impasto.evaluation.contest import _count, _summary, sentence
from impasto.evaluation.scores import _typical
from impasto.evaluation.worth import Worth, worth
from impasto.optimization import FIRST_STEP, optimize, white_noise

from .test_optimization import Quadratic


@pytest.fixture
def objective():
    return Quadratic(torch.logspace(-1, 1, 3 * 4 * 4).view(1, 3, 4, 4))


def test_worth_is_the_first_iteration_as_good():
    assert Worth(2.0, [9.0, 4.0, 2.0, 1.0]).iterations == 2
    assert Worth(9.0, [9.0]).iterations == 0  # no better than where the optimiser starts
    assert Worth(0.5, [9.0, 4.0]).iterations is None


@pytest.mark.parametrize("start", ["noise", "content"])
def test_the_trace_is_the_optimisers_and_ends_at_the_network(objective, start):
    content = torch.full((1, 3, 4, 4), 0.9)
    begin = white_noise(content) if start == "noise" else content
    first_step = None if start == "noise" else FIRST_STEP  # the paper's
    steps = list(optimize(objective, content, begin, 21, first_step=first_step))
    expected = [step.terms["total"] for step in steps]
    network = expected[6] * 1.0001
    found = list(worth(objective, content, network, start, limit=20))[-1]
    assert found.iterations == next(i for i, value in enumerate(expected) if value <= network)
    assert found.trace == expected[: found.iterations + 1]
    whole = list(worth(objective, content, network, start, limit=20, to_the_end=True))[-1]
    assert whole.trace == expected
    assert whole.end["total"] == min(expected)
    assert torch.equal(whole.picture, steps[-1].image)
    assert torch.equal(found.picture, steps[found.iterations].image)


def line(*iterations):
    return [{"photo": "a.jpg", "objective": 1.0, "iterations": i, "trace": []} for i in iterations]


def test_medians_count_a_network_never_reached_as_more_than_any():
    summary = _summary(256, "noise", line(30, None, 40), 100)
    assert (summary["least"], summary["median"], summary["most"]) == (30, 40, None)
    assert sentence(summary) == "256 px, from noise: worth 40 iterations (30 to more than 100), 3 photos"
    assert sentence(_summary(512, "content", line(7), 100)) == "512 px, from the photo: worth 7 iterations, 1 photo"
    assert _summary(256, "noise", line(None, None, 1), 100)["median"] is None
    assert _summary(256, "noise", line(None, 1), 100)["median"] == 1  # the mean of 1 and more than 100 nobody knows
    assert sentence(_summary(256, "noise", line(8, 3, 4, None), 100)).startswith("256 px, from noise: worth 6 iter")
    assert _count(2.5, 100) == "2.5"


def test_a_measure_is_the_median_of_the_photos_unless_one_is_no_number():
    def finding(value):
        return Finding("x", value, 2.0, "")

    assert _typical([finding(1.0), finding(9.0), finding(1.5)])["value"] == 1.5
    none = _typical([finding(1.0), finding(float("nan")), finding(1.0)])
    assert not none["passed"]
    assert none["value"] is None  # JSON has no other word for it
