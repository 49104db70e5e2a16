import os

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels run on the CPU then

hypothesis.settings.register_profile("bioshare", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("bioshare")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The tensors of the tests are small: threads would only wait for each other."""
    torch.set_num_threads(1)
