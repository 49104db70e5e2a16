"""The weight mirror of Akrout et al. (2019) as neural dynamics: feedback weights B learn forward weights W from noise.

A mirror is linear in W: B_T = kept B_0 + W S, with a K x K matrix S of the inputs and the circuit alone. Numbers of
equations and sections in this package are of Akrout et al. (2019).
"""
