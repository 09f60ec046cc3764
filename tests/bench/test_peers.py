"""Layers of others do the work they are said to do, and any factory may be added.

Tests of packages that are not installed are skipped.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hmoe.bench import peers
from hmoe.bench.entries import Point, own_entries
from hmoe.bench.peers import NOT_INSTALLED, added_entry, known_peers, load_factory, peer_entries
from hmoe.bench.work import work_of
from hmoe.errors import ConfigError

POINT = Point(
    tokens=64,
    sequence=32,
    dim=16,
    hidden_dim=32,
    experts=16,
    k=2,
    dtype=torch.float32,
    device="cpu",
)
WIDTHS = {"dim": 16, "hidden_dim": 32}
FACTORIES = """
import torch
from torch import nn
NUMBER = 3
def linear(dim, hidden_dim, num_experts, k): return nn.Linear(dim, dim)
class Two(nn.Module):
    def __init__(self, *, dim, hidden_dim, num_experts, k):
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden_dim), nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)
    def forward(self, x_TD): return self.down(self.gate(x_TD) * self.up(x_TD)), "and more"
def wide(dim, hidden_dim, num_experts, k): return nn.Linear(dim, dim + 1)
def fussy(dim): return nn.Linear(dim, dim)
def cut_off(dim, hidden_dim, num_experts, k): return CutOff()
class CutOff(nn.Module):
    def forward(self, x_TD): return x_TD.detach()
"""


def test_transformers_blocks_do_our_work() -> None:
    pytest.importorskip("transformers")
    for k in (1, 2):
        point = replace(POINT, k=k)
        (ours,) = [e for e in own_entries(point) if e.name == "hmoe, swiglu"]
        entries, _ = peer_entries(point)
        theirs = [e for e in entries if e.name.startswith("transformers")]
        assert len(theirs) == 3
        expected = work_of(ours.layer, ours.x, **WIDTHS)
        assert (expected.rows, expected.served) == (64 * k, 64 * k)
        for entry in theirs:
            assert work_of(entry.layer, entry.x, **WIDTHS) == expected, entry.name
            assert entry.without_gradient() == [], entry.name
            assert entry.twin == "hmoe, swiglu"


def test_capacities_drop_what_they_are_known_to_drop() -> None:
    """Slots: 1.25 of 32 tokens over 16 experts are 2.5, raised to 4; so 16 x 4 by sequence."""
    pytest.importorskip("mixture_of_experts")
    pytest.importorskip("st_moe_pytorch")
    entries = {e.name: e for e in peer_entries(POINT)[0]}
    for name, matrices in (("lucidrains", 2), ("st-moe", 3)):
        found = work_of(entries[name].layer, entries[name].x, **WIDTHS)
        assert found.rows == 2 * 16 * 4
        assert found.flops == 6 * found.rows * matrices * 16 * 32
        assert 0.5 * POINT.rows < found.served < POINT.rows
        assert entries[name].without_gradient() == []
    assert entries["lucidrains 4x4"].twin == "hmoe 4x4, gelu"
    assert work_of(entries["lucidrains 4x4"].layer, entries["lucidrains 4x4"].x, **WIDTHS).served


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(peers, "import_module", missing)
    entries, absent = peer_entries(POINT)
    assert entries == []
    assert absent == {peer.name: NOT_INSTALLED for peer in known_peers(POINT)}
    assert {"transformers Mixtral", "st-moe", "lucidrains", "lucidrains 4x4"} <= absent.keys()


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the working directory, and one that cannot be imported."""
    (tmp_path / "my_moe.py").write_text(FACTORIES)
    (tmp_path / "my_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("my_moe", "my_broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_moe", "module:factory is expected"),
        ("my_moe:", "module:factory is expected"),
        ("my_moe:a.b", "module:factory is expected"),
        ("no_such_moe:make", "cannot import no_such_moe"),
        ("my_broken:make", "cannot import my_broken: ZeroDivisionError"),
        ("my_moe:linaer", "my_moe has no function 'linaer'. Did you mean 'linear'?"),
        ("my_moe:NUMBER", "my_moe has no function 'NUMBER'"),
    ],
)
def test_a_wrong_factory_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_factory(spec)
    assert f"add = {spec}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fussy", "fails: TypeError"),
        ("wide", r"makes (32, 17), gradient: True of (32, 16)"),
        ("cut_off", r"makes (32, 16), gradient: False of (32, 16)"),
    ],
)
def test_a_layer_that_is_none_is_refused(name: str, message: str) -> None:
    spec = f"my_moe:{name}"
    with pytest.raises(ConfigError) as error:
        added_entry(POINT, spec, load_factory(spec))
    assert f"add = {spec}: at E=16, k=2" in str(error.value)
    assert message in str(error.value)


@pytest.mark.usefixtures("factories")
def test_an_added_layer_is_compared_with_its_kind() -> None:
    gated = added_entry(POINT, "my_moe:Two", load_factory("my_moe:Two"))
    assert (gated.kind, gated.twin, gated.role) == ("swiglu", "hmoe, swiglu", "peer")
    assert work_of(gated.layer, gated.x, **WIDTHS).served == 64
    unseen = added_entry(POINT, "my_moe:linear", load_factory("my_moe:linear"))
    assert (unseen.kind, work_of(unseen.layer, unseen.x, **WIDTHS).rows) == ("gelu", 0)
