import os

os.environ["OMP_NUM_THREADS"] = "1"  # also of processes that tests start: tensors are small, and two tests run at once

import hypothesis
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels run on the CPU then

hypothesis.settings.register_profile("bioshare", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("bioshare")
