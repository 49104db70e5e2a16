"""Simulated sleep for locally connected networks, after Pogodin, Mehta, Lillicrap and Latham (2021).

A sleep is a linear circuit that pulls the weights of a sharing group to their mean: simulate it exactly, and hand
the result to a network in training. The public names are in __init__.pyi, and are imported when they are used, so that
importing this package imports neither brian2 nor torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
