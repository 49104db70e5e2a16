"""The neuroscience: a sharing group, its lateral circuit and its plasticity. Knows nothing of networks."""
