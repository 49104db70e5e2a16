"""Data sets: one prepared file for each, and batches of images."""

from bioshare.train.data.batches import Batches as Batches
from bioshare.train.data.datasets import Dataset as Dataset
from bioshare.train.data.loading import load as load
from bioshare.train.data.loading import test_batches as test_batches
from bioshare.train.data.loading import training_batches as training_batches

__all__ = ["Batches", "Dataset", "load", "test_batches", "training_batches"]
