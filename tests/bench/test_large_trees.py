"""Memory and recall of lazy descents: bounds that hold, and a search worked out by hand."""

import pytest

from hmoe.bench.large_trees import isolated_pass, recall

MIB = 1 / 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_tokens_times_nodes() -> None:
    """One float32 of every token and node of this tree would take 328 MiB."""
    nodes = 16 + 16**2 + 16**3 + 16**3 * 4
    assert 4 * 4096 * nodes > 320 * 2**20
    found = isolated_pass([16, 16, 16, 4], ffn="hmoe_lazy", beam=4, dim=64, num_tokens=4096)
    assert found["beyond_gib"] - found["idle_gib"] < 300 * MIB


@pytest.mark.slow
@pytest.mark.timeout(600)  # gigabytes of memory to touch; minutes on a busy machine
def test_a_million_experts_train_within_two_gib() -> None:
    """2^20 one-neuron experts, d = 256, 4,096 tokens, top 16; with interpreter and libraries.

    The widest beam that is reported: narrower ones look at less.
    """
    found = isolated_pass([16] * 5, ffn="hmoe_lazy", beam=16, dim=256, num_tokens=4096)
    # 1,118,480 nodes of 257 numbers, 1,048,576 experts of 2 x 256, each with its gradient.
    held = 2 * 4 * ((16**6 - 16) // 15 * 257 + 16**5 * 512)
    assert found["params_and_grads_gib"] == pytest.approx(held / 2**30)
    assert found["beyond_gib"] < 2


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_recall_grows_with_the_beam_up_to_one(scale: float) -> None:
    values = [recall("16x16x16", beam, scale, seeds=[0])["recall_mean"] for beam in (1, 4, 256)]
    assert 1 / 256 < values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(1, abs=1e-3)
    assert recall("4096", 1, scale, seeds=[0])["recall_mean"] == 1
