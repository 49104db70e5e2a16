import importlib
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # also of processes that tests start: tensors are small, and two tests run at once

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels run on the CPU then

hypothesis.settings.register_profile("bioshare", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("bioshare")


@pytest.fixture(scope="module")
def figure_script():
    """A function that imports a script of figures/ by name; the style of the scripts ends with the module's tests."""
    import matplotlib.pyplot as plt

    with plt.rc_context(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "figures")
        yield importlib.import_module
        plt.close("all")
