"""Entry points: words of the command line → work. Only `train` knows Hydra."""
