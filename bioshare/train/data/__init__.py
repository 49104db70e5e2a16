"""Data sets: from their published form to one file (`prepare`), and from that to batches."""

from bioshare.train.data.batches import Batches as Batches
from bioshare.train.data.batches import test_batches as test_batches
from bioshare.train.data.batches import training_batches as training_batches
from bioshare.train.data.datasets import Dataset as Dataset
from bioshare.train.data.datasets import load as load

__all__ = ["Batches", "Dataset", "load", "test_batches", "training_batches"]
