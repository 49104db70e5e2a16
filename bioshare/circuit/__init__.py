"""The neuroscience: a sharing group, the lateral circuit and the plasticity. Knows nothing of networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
