"""Impasto against a textbook implementation: same work, same weights, same machine, side by side."""
