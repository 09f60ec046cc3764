"""Tree: numbering, levels, tables, and every way to write a wrong one."""

import copy
import pickle

import pytest
import torch

from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.layer.tree import Block, Run
from hmoe.layer.tree_ops import sum_below

RAGGED = {"sales": {"emea": 2, "us": 3}, "support": 2, "legal": 1}


def test_nodes_are_numbered_breadth_first() -> None:
    tree = Tree.from_spec([2, 3])
    assert tree.path_N == ("0", "1", "0.0", "0.1", "0.2", "1.0", "1.1", "1.2")
    assert tree.parent_N == (-1, -1, 0, 0, 0, 1, 1, 1)
    assert tree.level_N == (0, 0, 1, 1, 1, 1, 1, 1)
    assert tree.node_E == (2, 3, 4, 5, 6, 7)
    assert tree.level_slices == (slice(0, 2), slice(2, 8))
    assert tree.blocks == ((Block(0, 1, 2),), (Block(2, 2, 3),))


def test_named_tree_keeps_names_and_shallow_experts() -> None:
    tree = Tree.from_spec(RAGGED)
    assert tree.path_N == (
        *("sales", "support", "legal", "sales.emea", "sales.us", "support.0", "support.1"),
        *("sales.emea.0", "sales.emea.1", "sales.us.0", "sales.us.1", "sales.us.2"),
    )
    assert [tree.path_N[n] for n in tree.node_E][:3] == ["legal", "support.0", "support.1"]
    assert tree.num_experts == 8
    assert tree.num_levels == 3
    assert tree.inner_levels == ((0, 1), (3, 4), ())
    # Of the 8 experts 5 are in sales, of those 2 in emea; each team member has an equal share.
    assert tree.num_below_N == (5, 2, 1, 2, 3, 1, 1, 1, 1, 1, 1, 1)
    assert tree.share_N[:5] == (5 / 8, 2 / 8, 1 / 8, 2 / 5, 3 / 5)
    # sales has two children and support has two: one run; emea has two, us three: two runs.
    assert tree.blocks[1] == (Block(3, 2, 2),)
    assert tree.blocks[2] == (Block(7, 1, 2), Block(9, 1, 3))


def test_cut_is_a_partition_of_the_experts(tree: Tree) -> None:
    for level in range(tree.num_levels):
        assert sum(tree.num_below_N[n] for n in tree.cut(level)) == tree.num_experts


def test_cut_of_a_ragged_tree_takes_the_experts_above() -> None:
    tree = Tree.from_spec(RAGGED)
    names = [tree.path_N[n] for n in tree.cut(1)]
    assert names == ["legal", "sales.emea", "sales.us", "support.0", "support.1"]


def test_a_list_below_a_name_is_a_uniform_subtree() -> None:
    tree = Tree.from_spec({"a": [2, 2], "b": 2})
    assert [tree.path_N[n] for n in tree.node_E] == ["b.0", "b.1"] + [
        f"a.{i}.{j}" for i in range(2) for j in range(2)
    ]


@pytest.mark.parametrize(
    ("spec", "text"), [([16], "16"), ([2, 2, 4], "2x2x4"), ({"a": 2, "b": 1}, '{"a": 2, "b": 1}')]
)
def test_text_is_the_specification_in_short(spec: object, text: str) -> None:
    assert str(Tree.from_spec(spec)) == text


def test_sibling_groups_by_hand() -> None:
    tree = Tree.from_spec(RAGGED)

    def table(name: str) -> list[int]:
        return tree.index(name, torch.device("cpu")).tolist()

    # sales, support, legal | emea, us, two in support | two in emea, three in us.
    assert table("size_G") == [3, 2, 2, 2, 3]
    assert table("start_G") == [0, 3, 5, 7, 9]
    assert table("group_N") == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert table("group_below_N") == [1, 2, -1, 3, 4, *[-1] * 7]
    assert [table("expert_N")[n] for n in tree.node_E] == list(range(8))
    assert tree.runs == (
        (Run(1, 2), Run(1, 2), Run(1, 0)),
        (Run(1, 2), Run(1, 3), Run(2, 0)),
        (Run(2, 0), Run(3, 0)),
    )


def test_a_million_experts() -> None:
    tree = Tree.from_spec([16] * 5)
    assert tree.runs[3] == (Run(16**4, 16),)
    assert len(pickle.dumps(tree)) < 1000
    assert (tree.num_experts, tree.num_nodes) == (16**5, (16**6 - 16) // 15)
    cpu = torch.device("cpu")
    # Teams of experts come last; the last expert's managers are the last of their levels.
    assert tree.index("start_G", cpu)[-(16**4)] == tree.level_slices[4].start
    node, managers = tree.num_nodes - 1, 0
    while (node := int(tree.index("parent_N", cpu)[node])) != -1:
        managers += 1
        assert node == tree.level_slices[4 - managers].stop - 1
    assert managers == 4
    load_N = sum_below(torch.arange(tree.num_experts), tree)
    assert load_N[tree.level_slices[3]][1] == sum(range(16, 32))
    assert load_N[:16].sum() == tree.num_experts * (tree.num_experts - 1) // 2


def test_copies_and_pickles_leave_tables_behind() -> None:
    tree = Tree.from_spec(RAGGED)
    tree.index("node_E", torch.device("cpu"))
    for twin in (pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree)):
        assert twin.path_N == tree.path_N
        assert twin.node_E == tree.node_E


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], r"tree\.spec is empty"),
        ({}, r"tree\.spec is empty"),
        ({"a": {}, "b": 2}, r"tree\.spec\.a is empty"),
        ({"a": [], "b": 2}, r"tree\.spec\.a is empty"),
        ([1], r"tree\.spec has one child"),
        ([4, 1], r"tree\.spec\.0 has one child"),
        ({"a": {"b": 3}, "c": 2}, r"tree\.spec\.a has one child"),
        ([4, 0], r"tree\.spec\[1\] = 0: a size is a whole number of at least 1"),
        ([-4], r"tree\.spec\[0\] = -4"),
        ({"a": {"b": 2, "c": -1}, "d": 2}, r"tree\.spec\.a\.c = -1"),
        ({"a": 2.5, "b": 2}, r"tree\.spec\.a = 2\.5"),
        ({"a": "two", "b": 2}, r"tree\.spec\.a = 'two'"),
        ({"a": True, "b": 2}, r"tree\.spec\.a = True"),
        ({"a": None, "b": 2}, r"tree\.spec\.a = None"),
        ({"Sales": 2, "b": 2}, r"unit named 'Sales'.*Did you mean 'sales'"),
        ({"a": {"b c": 2, "d": 2}, "e": 2}, r"tree\.spec\.a has a unit named 'b c'.*'b_c'"),
        ({1: 2, "b": 2}, r"unit named 1"),
        ("4x4", r"tree\.spec = '4x4': expected a list"),
        (16, r"tree\.spec = 16: expected a list"),
        (None, r"tree\.spec = None: expected a list"),
    ],
)
def test_wrong_specifications_are_told_with_their_path(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tree.from_spec(spec)
