"""Losses of Gatys et al. 2015 and Johnson et al. 2016."""
