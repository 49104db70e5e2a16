"""A CUDA graph's stand-in on a CPU: the operations of a function, recorded once and done again on the same tensors."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Notes every operation, and what the tensors held that were there before."""

    def __init__(self):
        super().__init__()
        self.calls, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.made and storage.data_ptr() not in self.before:
                self.before[storage.data_ptr()] = storage, storage.clone()
        output = func(*args, **(kwargs or {}))
        self.made |= {tensor.untyped_storage().data_ptr() for tensor in tensors(output)} - self.before.keys()
        self.calls.append((func, args, kwargs or {}, output))
        return output


class Tape:
    """A recording that knows the operations and their tensors, and nothing of the Python that called them.

    As a graph does, it keeps every number of the host as it was when it was recorded; recording changes no tensor.
    """

    made: ClassVar[list] = []

    def __init__(self):
        self.replays = 0
        Tape.made.append(self)

    def capture(self, work):
        with Recorder() as recorder:
            output = work()
        for storage, before in recorder.before.values():
            storage.copy_(before)
        self.calls = recorder.calls
        return output

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for func, args, kwargs, output in self.calls:
            for place, value in zip(tensors(output), tensors(func(*args, **kwargs)), strict=True):
                if place.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
                    place.copy_(value)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
