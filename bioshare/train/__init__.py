"""Experiments: networks in training, with and without sleep."""
