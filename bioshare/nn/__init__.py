"""Networks: plain PyTorch. Knows nothing of sleep."""

from bioshare.nn.convert import to_locally_connected as to_locally_connected
from bioshare.nn.locally_connected import LocallyConnected2d as LocallyConnected2d

__all__ = ["LocallyConnected2d", "to_locally_connected"]
