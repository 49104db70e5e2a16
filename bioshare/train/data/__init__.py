"""Data sets: one prepared file for each, and batches of images. Importing this package alone does not import torch.

The processes that decode images import no more than they need.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
