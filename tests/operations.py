"""What operations a piece of code makes torch do, whatever the device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that a GPU is waited for: they look for entries, read a number, copy a Python list.
WAITING = {"nonzero", "_local_scalar_dense", "item", "lift_fresh"}


class Seen(TorchDispatchMode):
    """Names of the operations, and entries of the largest tensor that they made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        made = [t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.largest = max(self.largest, *made, 0)
        return result
