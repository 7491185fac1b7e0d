"""Networks: `transformer_net` is trained and shipped, `vgg` only judges."""
