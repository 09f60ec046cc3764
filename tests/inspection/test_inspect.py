"""Inspection: truths that were planted, numbers that training and an oracle know, and mistakes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.errors import ConfigError, DataError
from hmoe.inspection import TrainedRun, inspect_run, load_run
from hmoe.inspection.inspect import nodes_to_mask
from hmoe.inspection.knowing import knowledge
from hmoe.inspection.observe import Seen, fitting, observe
from hmoe.inspection.over_time import overlap_by_level
from hmoe.inspection.run import digest_of
from hmoe.layer import Tree
from hmoe.metrics import Inspection, Knowledge
from tests.tiny import train_in

VAL = 359  # rows of validation that the digits have
Run = tuple[Path, dict[str, Any]]


def inspected(folder: Path, **changes: Any) -> Inspection:
    plain: dict[str, Any] = {"split": "val", "tokens": 65536, "name": "tiny", "arm": ""}
    return inspect_run(folder, **(plain | changes))


# ------------------------------------------------------------------ what was planted


@torch.no_grad()
def with_gate_by_hand(folder: Path, levels: int) -> TrainedRun:
    """The planted run with a model whose gate knows the truth on its first levels.

    The data become the layer's input as they are, and nodes score by the direction of their centre
    from their parent's; departments are so far apart that teams see them as a constant, which the
    bias takes away.
    """
    run = load_run(folder)
    model, (layer,) = run.model, run.layers.values()
    model.embed.weight.copy_(torch.eye(16))
    model.embed.bias.zero_()
    model.norms[0].weight.fill_(1.0)
    rows = [
        torch.cat([batch[key] for batch in run.pass_over("val", 600)]) for key in ("x", "domain")
    ]
    x_TD, domain_TL = model.norms[0](rows[0]), rows[1]
    scorer = layer.gate.scorers[0]
    scorer.weight_MD.zero_()
    scorer.bias_M.zero_()
    for node in range(layer.tree.num_nodes):
        level = layer.tree.level_N[node]
        if level < levels:
            place = layer.tree.cut(level).index(node)
            mean_D = x_TD[domain_TL[:, level] == place].mean(0)
            scorer.weight_MD[node] = mean_D
            scorer.bias_M[node] = -mean_D.square().sum() / 2
    return run


def known(run: TrainedRun) -> dict[str, Knowledge]:
    seen = observe(run, run.pass_over("val", 600))
    (found,) = knowledge(
        seen.layers, seen.labels, run.data.label_names, tokens_per_row=run.tokens_per_row
    ).values()
    return {k.label: k for k in found}


def test_a_planted_truth_is_found(planted: Path) -> None:
    found = known(with_gate_by_hand(planted, levels=2))
    assert set(found) == {"department", "expert"}
    department, expert = found["department"], found["expert"]
    assert department.ami_L[0] > 0.9
    assert expert.ami_L[1] > 0.9
    assert expert.values == ("0.0", "0.1", "1.0", "1.1")
    # Two of two departments, then two of two experts: ln 2 each, near enough.
    np.testing.assert_allclose(expert.information_L, [np.log(2)] * 2, atol=0.1)
    np.testing.assert_allclose(expert.information_L.sum(), expert.entropy, atol=0.1)
    # The department tells all there is to know of itself.
    assert department.information_L[1] < 0.01
    assert (expert.p_L <= 1 / 1000 + 1e-9).all()
    # Clouds that are far apart are what k-means finds.
    assert department.clusters_ami_L[0] > 0.9


def test_it_is_found_at_the_level_where_the_gate_knows_it(planted: Path) -> None:
    expert = known(with_gate_by_hand(planted, levels=1))["expert"]
    assert expert.information_L[0] > 0.6
    assert expert.information_L[1] == pytest.approx(0, abs=1e-9)


def test_what_has_nothing_to_do_with_the_gate_is_not_found(planted: Path) -> None:
    run = with_gate_by_hand(planted, levels=2)
    layers = observe(run, run.pass_over("val", 600)).layers
    coin = {"coin": torch.randint(3, (600,))}
    ((found,),) = knowledge(layers, coin, {"coin": ("a", "b", "c")}, tokens_per_row=1).values()
    assert abs(found.ami_L).max() < 0.02
    assert abs(found.information_L - found.null_L).max() < 0.01
    assert found.p_L.min() > 0.01


# ------------------------------------------------------------------ what else is known


def test_an_inspection_of_a_run(digits: Run) -> None:
    folder, result = digits
    record = inspected(folder)
    assert (record.step, record.num_tokens, record.seed) == (20, VAL, 0)
    assert record.loss == pytest.approx(result["metrics"]["val/loss"], rel=1e-5)
    assert record.tree.path_N == Tree.from_spec([2, 2]).path_N
    means = {
        f"{name}/level_{level}": np.mean([layer.load[name][level] for layer in record.layers])
        for name in ("cv", "max_violation", "entropy")
        for level in range(2)
    }
    for key, mean in means.items():
        assert mean == pytest.approx(result["metrics"][f"val/load/{key}"], abs=1e-6)
    for layer in record.layers:
        assert layer.load_N[:2].sum() == pytest.approx(1)
        assert len(layer.choice_T) == VAL
        (label,) = layer.knowledge
        assert (label.label, len(label.values)) == ("class", 10)
        assert label.counts_CE.sum() == VAL * result["cost"]["experts_per_token"]
        assert not np.isnan(layer.masked_N).any()
        assert layer.recall["exact"] == 1
        assert layer.history is not None
        assert layer.history.step_S.tolist() == [8, 16, 20]
        np.testing.assert_array_equal(layer.history.saturation_SL[-1], 1)
        np.testing.assert_array_equal(layer.history.load_SN[-1], layer.load_N)
        assert np.isnan(layer.history.churn_SL[0]).all()
        np.testing.assert_allclose(layer.history.churn_SL[2], 1 - layer.history.saturation_SL[1])
        np.testing.assert_allclose(layer.history.entropy_SL[-1], layer.entropy_L, rtol=1e-6)
    again = replace(inspected(folder), seconds=record.seconds)
    for one, other in zip(record.layers, again.layers, strict=True):
        np.testing.assert_array_equal(one.masked_N, other.masked_N)
        np.testing.assert_array_equal(one.knowledge[0].ami_L, other.knowledge[0].ami_L)
        np.testing.assert_array_equal(
            one.knowledge[0].clusters_ami_L, other.knowledge[0].clusters_ami_L
        )
    assert again.tokens == record.tokens
    record.save(folder / "inspection")
    assert Inspection.load(folder / "inspection").loss == record.loss


def test_checkpoints_of_a_folder_are_asked_again(digits: Run) -> None:
    """What a run kept of a step, and what its checkpoint of that step says, is one."""
    kept, asked = (
        inspected(digits[0], checkpoints=folder) for folder in (None, digits[0] / "checkpoints")
    )
    for layer, other in zip(kept.layers, asked.layers, strict=True):
        assert layer.history is not None
        assert other.history is not None
        assert other.history.step_S.tolist() == [5, 10, 15, 20]
        np.testing.assert_array_equal(other.history.saturation_SL[-1], 1)
        churn_SL = other.history.churn_SL
        np.testing.assert_allclose(churn_SL[3], 1 - other.history.saturation_SL[2])
        np.testing.assert_array_equal(layer.history.load_SN[-1], other.history.load_SN[-1])
        np.testing.assert_allclose(
            layer.history.entropy_SL[-1], other.history.entropy_SL[-1], rtol=1e-6
        )


def test_a_rise_is_that_of_a_gate_with_a_bias_out_of_reach(digits: Run) -> None:
    record = inspected(digits[0])
    run = load_run(digits[0])
    batches = run.pass_over("val", VAL)
    before = run.loss(batches)
    for layer, facts in zip(run.layers.values(), record.layers, strict=True):
        for node, bias in enumerate(layer.gate.scorers[0].bias_M):
            with torch.no_grad():
                kept = bias.clone()
                bias.fill_(-1e9)
                rise = run.loss(batches) - before
                bias.copy_(kept)
            assert facts.masked_N[node] == pytest.approx(rise, abs=1e-6)


def test_one_checkpoint_has_no_history(digits: Run, tmp_path: Path) -> None:
    for kind in ("ckpt", "sha256"):
        shutil.copy(digits[0] / "checkpoints" / f"step_00000010.{kind}", tmp_path)
    record = inspected(digits[0], checkpoints=tmp_path, tokens=40)
    assert (record.step, record.num_tokens) == (10, 40)
    assert all(layer.history is None for layer in record.layers)


def test_the_random_distance_is_known_where_some_tokens_have_several_experts(
    tmp_path: Path,
) -> None:
    """Expert choice: one expert a token on average, more for some; 2/3 of pairs are across."""
    train_in(tmp_path / "run", "selection=expert_choice", "selection.k=1.0")
    for layer in inspected(tmp_path / "run").layers:
        assert layer.locality > 0
        assert layer.locality_random == pytest.approx((2 / 3) * 1 + (1 / 3) * 0.5)


def test_a_run_that_descends_is_held_beside_the_joint_choice(tmp_path: Path) -> None:
    train_in(tmp_path / "run", "selection=descend")
    record = inspected(tmp_path / "run")
    for layer in record.layers:
        assert set(layer.policy_loss) == {"exact", "descend", "beam 1"}
        # One child of every unit is a beam of one, and what the run itself does.
        assert layer.recall["descend"] == layer.recall["beam 1"] <= layer.recall["exact"] == 1
        assert layer.policy_loss["descend"] == pytest.approx(record.loss, rel=1e-5)


def test_text_has_its_folders_files_and_bytes(text: Path) -> None:
    record = inspected(text)
    (layer,) = record.layers
    folder, file, byte = layer.knowledge
    assert (folder.label, folder.values) == ("folder", ("high", "low"))
    assert (file.label, file.values) == ("file", ("high/b.txt", "low/a.txt"))
    assert set(byte.values) == set("abcdefghWXYZSTUV") | {"space", "\\n"}
    assert byte.counts_CE.sum() == 2 * record.num_tokens
    # A byte tells the book, so what is known of the book is known of the byte.
    assert (folder.information_L.cumsum() <= byte.information_L.cumsum() + 1e-9).all()


def test_tokens_are_spread_over_the_split(digits: Run) -> None:
    run = load_run(digits[0])
    batches = list(run.pass_over("val", 18))
    whole = torch.cat([batch["x"] for batch in run.data.pass_over("val")])
    rows_B = [n * VAL // 18 for n in range(18)]  # 0, 19, 39, ..
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), whole[rows_B])
    some, others = (run.pass_over("val", tokens) for tokens in (18, 17))
    assert digest_of(run, some) == digest_of(run, some) != digest_of(run, others)


def test_fewer_tokens_where_very_many_experts_work_on_each(
    digits: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(digits[0])
    assert fitting(run, 100) == 100
    monkeypatch.setattr("hmoe.inspection.observe._MOST_ROWS", 64)
    assert fitting(run, 100) == 64 // 2


# ------------------------------------------------------------------ rows, by hand


def rows(token: list[int], expert: list[int], weight: list[float], num_tokens: int) -> Seen:
    none = np.array([])
    return Seen(
        tree=Tree.from_spec([2, 2]),
        num_tokens=num_tokens,
        token_R=torch.tensor(token),
        expert_R=torch.tensor(expert),
        weight_R=torch.tensor(weight),
        dropped=0.0,
        entropy_L=none,
        margin_L=none,
        sample_S=torch.tensor([]),
        input_SD=torch.tensor([]),
    )


def test_rows_by_hand() -> None:
    """Token 0 has experts 3 (heavier) and 0, token 1 none, token 2 expert 1."""
    seen = rows([0, 0, 2], [0, 3, 1], [0.2, 0.8, 1.0], 3)
    assert seen.heaviest_T.tolist() == [3, -1, 1]
    assert rows([0, 0, 0], [2, 0, 1], [0.4, 0.4, 0.2], 1).heaviest_T.tolist() == [2]
    assert seen.chosen_TK.tolist() == [[0, 3], [-1, -1], [1, -1]]
    assert seen.load_E.tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(seen.load_N, [2 / 3, 1 / 3, 1 / 3, 1 / 3, 0, 1 / 3])


def test_overlap_of_two_moments_by_hand() -> None:
    """Token 0 goes on to its sibling, token 1 to the other department, token 2 stays."""
    before = rows([0, 1, 2], [0, 1, 2], [1.0] * 3, 3).chosen_TK
    now = rows([0, 1, 2], [1, 2, 2], [1.0] * 3, 3).chosen_TK
    shares = overlap_by_level(before, now, Tree.from_spec([2, 2]))
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3])


def test_the_busiest_are_masked_and_units_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree.from_spec({"a": 2, "b": 2, "c": 1})  # a b c | a.0 a.1 b.0 b.1
    load_N = np.array([0.3, 0.5, 0.2, 0.1, 0.2, 0.4, 0.1])
    assert nodes_to_mask(tree, load_N) == [1, 0, 5, 2, 4, 3, 6]
    monkeypatch.setattr("hmoe.inspection.inspect._MASKED_EXPERTS", 2)
    assert nodes_to_mask(tree, load_N) == [1, 0, 5, 2]


# ------------------------------------------------------------------ mistakes


def test_mistakes_are_told(digits: Run, tmp_path: Path) -> None:
    folder, _ = digits
    with pytest.raises(
        ConfigError, match=r"split = vla: must be one of val, test\. Did you mean 'val'"
    ):
        inspected(folder, split="vla")
    with pytest.raises(ConfigError, match="tokens = 0: a row of the data has 1"):
        inspected(folder, tokens=0)
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        inspected(tmp_path)
    with pytest.raises(ConfigError, match="holds no whole checkpoint"):
        inspected(folder, checkpoints=tmp_path)
    other = tmp_path / "other"
    train_in(other, "tree.spec=[4]", "trainer.max_steps=5")
    with pytest.raises(DataError, match="is no checkpoint of this run"):
        inspected(folder, checkpoints=other / "checkpoints")
    (other / "result.json").write_text('{"state": "diverged"}')
    with pytest.raises(ConfigError, match="diverged"):
        inspected(other)


def test_a_run_of_an_earlier_version_is_named(digits: Run, tmp_path: Path) -> None:
    shutil.copytree(digits[0], tmp_path / "old")
    config = tmp_path / "old" / "config.yaml"
    config.write_text(config.read_text().replace("  keep_checkpoints: null\n", ""))
    message = "settings no longer make a model: trainer.keep_checkpoints: must be given"
    with pytest.raises(ConfigError, match=message):
        inspected(tmp_path / "old")


def test_a_model_without_an_organisation(tmp_path: Path) -> None:
    train_in(tmp_path / "dense", "model=mlp_dense", "balance=none", "trainer.max_steps=5")
    with pytest.raises(ConfigError, match="no mixture layer"):
        inspected(tmp_path / "dense")


@pytest.mark.parametrize(
    "changes",
    [
        ("system=deepseek_v3", "tree.spec=[2,4]", "balance=bias", "selection.k=2"),
        ("gate=heads", "gate.num=2"),
        ("selection=expert_choice", "selection.k=1", "balance=none"),
        ("selection=soft", "balance=none"),
        ("selection.capacity=1.0",),
        ("ffn@model.ffn=hmoe_lazy", "selection.beam=1", "balance=none"),
    ],
)
def test_any_organisation_can_be_inspected(changes: tuple[str, ...], tmp_path: Path) -> None:
    train_in(tmp_path / "run", *changes, "trainer.max_steps=5")
    record = inspected(tmp_path / "run", tokens=100)
    lazy = "hmoe_lazy" in changes[0]
    for layer in record.layers:
        assert layer.load_N[: record.tree.level_slices[0].stop].sum() == pytest.approx(1)
        assert np.isnan(layer.entropy_L).all() == lazy
        assert np.isnan(layer.masked_N).all() == lazy
        assert len(layer.choice_T) == 100
    record.save(tmp_path / "inspection")
    assert len(Inspection.load(tmp_path / "inspection").layers) == len(record.layers)


def test_what_is_known_of_a_picture_is_known_of_its_patches(tmp_path: Path) -> None:
    """Digits of 8 x 8 in four patches: a class and a choice of experts a patch."""
    vit = ("model=vit", "model.patch=4", "model.depth=1", "model.ffn_blocks=[0]")
    train_in(tmp_path / "vit", *vit, "model.num_heads=2", "trainer.max_steps=2")
    run = load_run(tmp_path / "vit")
    assert run.tokens_per_row == 4
    batches = run.pass_over("val", 40)
    seen = observe(run, batches)
    classes = torch.cat([batch["y"] for batch in batches])
    assert torch.equal(seen.labels["class"], classes.repeat_interleave(4))
    assert seen.num_tokens == 4 * len(classes)
