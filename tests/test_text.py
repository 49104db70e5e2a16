import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bioshare.text import paired_difference

ACCURACIES = st.integers(0, 1000).map(lambda tenths: tenths / 10)


def test_paired_differences_as_text():
    assert paired_difference([], []) == paired_difference([3.0], []) == ""
    assert paired_difference([50.0, 7.0], [52.5]) == "-2.5"
    assert paired_difference([3, 5, 7], [1, 2, 6]) == "+2.0 +- 0.6"


@given(st.lists(st.tuples(ACCURACIES, ACCURACIES), min_size=2, max_size=6), ACCURACIES)
def test_the_error_is_the_standard_error_of_the_paired_differences(pairs, common):
    """A value common to both sides of every pair leaves difference and error alone."""
    a, b = np.array(pairs).T
    mean, _, error = paired_difference(a + common, b + common).partition(" +- ")
    np.testing.assert_allclose(float(mean), np.mean(a - b), atol=0.0501)
    np.testing.assert_allclose(float(error), np.sqrt(np.cov(a - b) / len(a)), atol=0.0501)
