"""The record of an inspection: what is written is what is read."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from hmoe.errors import DataError
from hmoe.metrics import History, Inspection, Knowledge, LayerInspection


def a_record(history: History | None) -> Inspection:
    level_L = np.array([0.25, 0.5])
    knowledge = Knowledge(
        label="package",
        values=("web", "log/in"),
        counts_CE=np.arange(6).reshape(2, 3),
        entropy=0.6,
        information_L=level_L,
        null_L=level_L / 10,
        p_L=level_L / 5,
        nmi_L=level_L,
        ami_L=level_L,
        clusters_ami_L=np.array([0.1, np.nan]),
    )
    layer = LayerInspection(
        name="blocks.0.ffn",
        load_N=np.array([0.5, 0.5, 0.25, 0.25]),
        dropped=0.0,
        load={"cv": level_L, "gini": level_L + 1},
        decomposition={"kl": level_L},
        entropy_L=level_L,
        margin_L=level_L,
        knowledge=(knowledge,),
        coactivation={"level_0": np.eye(2)},
        locality=0.5,
        locality_random=0.25,
        masked_N=np.array([0.1, np.nan, np.nan, np.nan]),
        recall={"beam 1": 0.75},
        policy_loss={"beam 1": 1.5},
        choice_T=np.array([0, 2, -1]),
        history=history,
    )
    return Inspection(
        run="runs/a",
        arm="two_level",
        seed=3,
        step=100,
        split="val",
        asked=4,
        num_tokens=3,
        tokens="abc",
        loss=1.25,
        num_tried=2,
        tried_loss=1.5,
        tree_spec={"sales": {"emea": 1, "us": 1}, "legal": 1},
        layers=(layer,),
        seconds=2.5,
    )


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if is_dataclass(a):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a == b


HISTORY = History(
    step_S=np.array([50, 100]),
    load_SN=np.full((2, 4), 0.25),
    saturation_SL=np.array([[0.5, 0.25], [1.0, 1.0]]),
    churn_SL=np.array([[np.nan, np.nan], [0.5, 0.75]]),
    entropy_SL=np.ones((2, 2)),
)


@pytest.mark.parametrize("history", [None, HISTORY])
def test_what_is_written_is_what_is_read(tmp_path, history):
    record = a_record(history)
    record.save(tmp_path / "inspection")
    read = Inspection.load(tmp_path / "inspection")
    assert_same(read, record)
    assert read.tree.path_N == ("sales", "legal", "sales.emea", "sales.us")


def test_half_a_record_is_none(tmp_path):
    with pytest.raises(DataError, match="hmoe inspect RUN"):
        Inspection.load(tmp_path)
    a_record(None).save(tmp_path)
    arrays = (tmp_path / "arrays.npz").read_bytes()
    (tmp_path / "arrays.npz").write_bytes(arrays[: len(arrays) // 2])
    with pytest.raises(DataError, match=str(tmp_path)):
        Inspection.load(tmp_path)


@pytest.mark.parametrize("name", ["arrays.npz", "inspection.json"])
def test_an_emptied_file_is_no_record(tmp_path, name):
    a_record(None).save(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="inspect="):
        Inspection.load(tmp_path)


def test_a_record_that_is_cut_off_while_written_again_is_none(tmp_path, monkeypatch):
    """Not the old numbers with the new arrays."""
    a_record(None).save(tmp_path)

    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("hmoe.metrics.inspection.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        a_record(HISTORY).save(tmp_path)
    with pytest.raises(DataError):
        Inspection.load(tmp_path)
