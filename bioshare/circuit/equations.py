"""Eq. 4, 8 and 9 in the language of Brian2: data, without imports.

`NEURONS`, `INHIBITION` and `PLASTICITY` describe the rate circuit and can be replaced, as in ``Brian2(neurons=...)``;
with ``RateCircuit(inhibitory_bias=True)``, `BIASED_NEURONS` and `BIASED_INHIBITION` stand for the first two. The unit
follows the colon: 1 is none.
"""

NEURONS = """
dr/dt = (-r + z - alpha*r_inh + b) / tau : 1  # Eq. 8a
"""

BIASED_NEURONS = """
dr/dt = (-r + z - alpha*(r_inh - b) + b) / tau : 1  # r_inh of BIASED_INHIBITION
"""

NEURON = """
z : 1  # w_i . x
r_inh : 1 (linked)
alpha : 1 (constant)
tau : second (constant)
b : 1 (constant)
gamma : 1 (constant)
beta : 1 (constant)
"""

INHIBITION = """
dr_inh/dt = (-r_inh + r_mean - b) / tau : 1  # Eq. 8b
"""

BIASED_INHIBITION = """
dr_inh/dt = (-r_inh + r_mean) / tau : 1  # r_inh rests at b, not at 0 as in Eq. 8b
"""

INHIBITORY = """
r_mean : 1
tau : second (constant)
b : 1 (constant)
"""

PLASTICITY = """
m = beta_post*m + eta(t)*(-(r_post - b_post)*x_pre - gamma_post*(w - w_init))
w += m
"""  # Eq. 4 with momentum

SYNAPSES = """
z_post = w*x_pre : 1 (summed)
w : 1
w_init : 1 (constant)
m : 1
"""

STEADY_NEURON = """
r : 1
z : 1  # w_i . x
z_mean : 1 (linked)
r_inh : 1 (linked)
b : 1 (constant)
gamma : 1 (constant)
beta : 1 (constant)
"""
STEADY_RESPONSE = "r = b + z - z_mean + r_inh"  # Eq. 9

STEADY_INHIBITORY = """
r_inh : 1
z_mean : 1
alpha : 1 (constant)
"""
STEADY_FEEDBACK = "r_inh = z_mean / (1 + alpha)"
