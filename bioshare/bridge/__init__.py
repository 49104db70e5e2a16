"""From a network to its sharing groups and back: `Sleep` and its kin change a model's weights in place.

Layers fall into `modules`, modules into sharing groups; a *change* says what becomes of the groups, and `report`
measures it. Changes: the mean of every group (`InstantSharing`), the linear map of a simulated sleep (`Sleep`,
`HebbianSharing`), or the simulation of every neuron (`Sleep` with noise or another engine).
"""

from bioshare.bridge.geometry import Border, SharingModule, modules
from bioshare.bridge.hebbian import HebbianSharing
from bioshare.bridge.phase import Phase, PhaseReport
from bioshare.bridge.report import LayerReport, SleepReport, neg_log_snr
from bioshare.bridge.sharing import InstantSharing
from bioshare.bridge.sleep import Sleep

__all__ = [
    "Border",
    "HebbianSharing",
    "InstantSharing",
    "LayerReport",
    "Phase",
    "PhaseReport",
    "SharingModule",
    "Sleep",
    "SleepReport",
    "modules",
    "neg_log_snr",
]
