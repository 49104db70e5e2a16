"""The neuroscience: a sharing group, the lateral circuit and the plasticity. Knows nothing of networks."""
