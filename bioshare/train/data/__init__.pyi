from .batches import Batches as Batches
from .datasets import Dataset as Dataset
from .loading import load as load
from .loading import test_batches as test_batches
from .loading import training_batches as training_batches
from .own import own_data as own_data
