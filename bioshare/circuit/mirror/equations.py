"""The weight mirror in the language of Brian2, with the numbers of Akrout et al. (2019): data, without imports.

The unit follows the colon: 1 is none.
"""

FORWARD = """
dy/dt = (-y + z + beta) / tau : 1  # Eq. 13, z = W x
z : 1
beta : 1 (constant)
tau : second (constant)
"""

BELOW = """
dbelow/dt = (-below + x + beta) / tau_crosstalk : 1  # Eq. 6
x : 1
beta : 1 (constant)
tau_crosstalk : second (constant)
"""

ABOVE = """
dabove/dt = (-above + y) / tau_crosstalk : 1  # Eq. 6
y : 1 (linked)
beta : 1 (constant)
tau_crosstalk : second (constant)
rate : Hz (constant)
decay : 1 (constant)
"""

FORWARD_SYNAPSES = """
z_post = w*x_pre : 1 (summed)
w : 1 (constant)
"""

FEEDBACK_SYNAPSES = """
dB/dt = gate(t)*rate_pre*((above_pre - beta_pre)*(below_post - beta_post) - decay_pre*B) : 1 (clock-driven)  # Eq. 15
"""
