from .config import TrainConfig as TrainConfig
from .evaluation import evaluate as evaluate
from .fitting import fit as fit
from .fitting import trained_network as trained_network
