"""Phases: changes of a model's weights between steps of learning, and the measurement of these changes.

The layers of a model consist of `modules`, and modules of sharing groups. A `Phase` changes a model in place and
returns a report: `InstantSharing` sets every group to the mean, `LearnedGroups` finds the groups by correlations of the
inputs first, `HebbianSharing` and `Sleep` apply the linear map of a simulated sleep, and `Sleep` with noise or another
engine simulates every neuron.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
