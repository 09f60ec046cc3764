"""Peak memory of one forward and backward pass, beyond parameters and gradients.

On the CPU the profiler records what the allocator of torch gives and takes back, and the record is
replayed: every temporary of every kernel that torch allocates is in it, at the byte; scratch space
that libraries such as oneDNN take for themselves is not. Memory that ends as the gradient of a
parameter is left out at all times, so that the peak is that of activations and temporaries also
where gradients are far larger. On CUDA the allocator keeps the peak itself; there the gradients are
taken off as if all were there at the peak, which is the most that they can be.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler writes its own comings and goings


class Change(NamedTuple):
    """Bytes taken (or, below zero, given back) at an address."""

    time_ns: int
    address: int
    num_bytes: int


def peak_beyond(run: Callable[[], object], layer: nn.Module, device: str) -> int:
    """Bytes that a pass holds at its peak beyond what was there before, gradients aside.

    Args:
        run: forward and backward; before it no parameter has a gradient, after it all may.
        layer: whose parameters get gradients; they are released at the end.
        device: "cpu" or "cuda".
    """
    layer.zero_grad()
    measure = _peak_on_cuda if device.startswith("cuda") else _peak_on_cpu
    peak = measure(run, layer)
    layer.zero_grad()
    return peak


def peak_of(changes: Sequence[Change], left_out: set[int]) -> int:
    """The highest sum of changes in time, without blocks that end at addresses in `left_out`.

    An address may have served others before: what ends there is what was last taken there.
    """
    ordered = sorted(changes)
    last = {change.address: i for i, change in enumerate(ordered) if change.num_bytes > 0}
    skipped = {last[address] for address in left_out if address in last}
    held = peak = 0
    for i, change in enumerate(ordered):
        if i not in skipped:
            held += change.num_bytes
        peak = max(peak, held)
    return peak


def _peak_on_cpu(run: Callable[[], object], layer: nn.Module) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events: Any = record.profiler
    tree = events.kineto_results.experimental_event_tree()
    changes = [
        Change(event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
        for event in _walk(tree)
        if type(event.extra_fields).__name__ == "_ExtraFields_Allocation"
    ]
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    return peak_of(changes, {grad.untyped_storage().data_ptr() for grad in grads})


def _peak_on_cuda(run: Callable[[], object], layer: nn.Module) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    held = sum(grad.numel() * grad.element_size() for grad in grads)
    return torch.cuda.max_memory_allocated() - before - held


def _walk(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _walk(event.children)
