import torch
from torch.testing import assert_close

from impasto.models.moments import Moments


def test_moments_of_parts_are_those_of_the_whole():
    features = 3 * torch.randn(2, 5, 40, 30) + 100
    moments = Moments(features.split([7, 1, 32], dim=2))
    variance, mean = torch.var_mean(features.double(), dim=(0, 2, 3), correction=0)
    assert_close(moments.mean_and_variance(), (mean.float(), variance.float()))
