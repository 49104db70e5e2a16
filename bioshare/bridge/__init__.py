"""Phases: changes of a model's weights between steps of learning, and the measurement of these changes.

The layers of a model consist of `modules`, and modules of sharing groups. A `Phase` changes a model in place and
returns a report: `InstantSharing` sets every group to the mean, `LearnedGroups` finds the groups by correlations of the
inputs first, `HebbianSharing` and `Sleep` apply the linear map of a simulated sleep, and `Sleep` with noise or another
engine simulates every neuron.
"""

from bioshare.bridge.connectivity import LearnedGroups
from bioshare.bridge.conversion import to_periodic
from bioshare.bridge.feedback import FixedNorms, FixedSigns, KolenPollack, SignSymmetry
from bioshare.bridge.geometry import Border, SharingModule, modules
from bioshare.bridge.hebbian import HebbianSharing
from bioshare.bridge.hooks import PhaseHook
from bioshare.bridge.mirror import Mirror, MirrorReport
from bioshare.bridge.phase import Phase, PhaseReport
from bioshare.bridge.report import LayerReport, SleepReport, neg_log_snr
from bioshare.bridge.sharing import InstantSharing
from bioshare.bridge.sleep import Sleep
from bioshare.bridge.statistics import renew_statistics

__all__ = [
    "Border",
    "FixedNorms",
    "FixedSigns",
    "HebbianSharing",
    "InstantSharing",
    "KolenPollack",
    "LayerReport",
    "LearnedGroups",
    "Mirror",
    "MirrorReport",
    "Phase",
    "PhaseHook",
    "PhaseReport",
    "SharingModule",
    "SignSymmetry",
    "Sleep",
    "SleepReport",
    "modules",
    "neg_log_snr",
    "renew_statistics",
    "to_periodic",
]
