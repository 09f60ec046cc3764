"""Peak memory, by hand: a record of what is taken and given back, and a pass of known sizes."""

import torch
from torch import Tensor, nn

from hmoe.bench.memory import Change, peak_beyond, peak_of


def test_a_peak_is_the_highest_sum_in_time() -> None:
    changes = [Change(4, 1, -10), Change(1, 1, 10), Change(3, 2, 5), Change(5, 3, 8)]
    assert peak_of(changes, set()) == 15


def test_a_block_that_is_left_out_does_not_count_but_its_address_may() -> None:
    """Address 1 first holds 10 bytes that come and go, then 100 that stay: a gradient."""
    changes = [Change(1, 1, 10), Change(2, 1, -10), Change(3, 1, 100), Change(4, 2, 7)]
    assert peak_of(changes, set()) == 107
    assert peak_of(changes, {1}) == 10


class Squares(nn.Module):
    """y = (x w)^2 with a temporary of 1 MiB that is gone at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(256, 256))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            torch.empty(2**18)
        return (x @ self.weight).square()


def test_the_peak_of_a_pass_is_what_one_adds_up() -> None:
    """Tokens 64 x 256 float32: 64 KiB an array; the weight and its gradient: 256 KiB each.

    Forward: z = x w stays (64 KiB) for the backward, y = z^2 (64 KiB), and before them 1 MiB for a
    moment: the peak.
    """
    layer, x = Squares(), torch.randn(64, 256, requires_grad=True)
    grad = torch.ones(64, 256)
    small = 64 * 256 * 4
    assert peak_beyond(lambda: layer(x).backward(grad), layer, "cpu") == 2**20
    assert layer.weight.grad is None
    # Without the temporary: z and y, then in the backward z's gradient and a factor beside them.
    net = nn.Linear(256, 256, bias=False)

    def run() -> None:
        x.grad = None
        net(x).square().backward(grad)

    beyond = peak_beyond(run, net, "cpu")
    assert 3 * small <= beyond <= 5 * small
    assert beyond < net.weight.numel() * 4 + 3 * small  # its gradient is not in it
