"""Descriptions: the drawing of an organisation written out, and the lines of costs."""

from functools import partial
from textwrap import dedent

import pytest

from hmoe.layer import Mlp, Tree
from hmoe.models import ResidualMlp, description
from hmoe.models.describe import draw
from tests.cases import MODELS, TREES, best, dense, heads, layer_of

DRAWINGS = {
    "named": (
        {"sales": {"emea": 2, "us": 3}, "support": 2, "legal": 1},
        """
        company (8 experts, 3 levels)
        |-- sales (5 experts)
        |   |-- emea (2 experts)
        |   |   |-- 0
        |   |   `-- 1
        |   `-- us (3 experts)
        |       |-- 0
        |       |-- 1
        |       `-- 2
        |-- support (2 experts)
        |   |-- 0
        |   `-- 1
        `-- legal
        """,
    ),
    "uniform": (
        [2, 3],
        """
        company (6 experts, 2 levels)
        |-- 0 (3 experts)
        |   |-- 0
        |   |-- 1
        |   `-- 2
        `-- 1 (3 experts)
            |-- 0
            |-- 1
            `-- 2
        """,
    ),
    "eight experts are drawn": (
        [8],
        """
        company (8 experts, 1 level)
        |-- 0
        |-- 1
        |-- 2
        |-- 3
        |-- 4
        |-- 5
        |-- 6
        `-- 7
        """,
    ),
    "of more the first eight": (
        {"crowd": 11, "boss": 1},
        """
        company (12 experts, 2 levels)
        |-- crowd (11 experts)
        |   |-- 0
        |   |-- 1
        |   |-- 2
        |   |-- 3
        |   |-- 4
        |   |-- 5
        |   |-- 6
        |   |-- 7
        |   `-- ... 3 more experts
        `-- boss
        """,
    ),
    "units behind many experts are drawn": (
        {**{f"e{n}": 1 for n in range(9)}, "team": 2},
        """
        company (11 experts, 2 levels)
        |-- e0
        |-- e1
        |-- e2
        |-- e3
        |-- e4
        |-- e5
        |-- e6
        |-- e7
        |-- team (2 experts)
        |   |-- 0
        |   `-- 1
        `-- ... 1 more expert
        """,
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_an_organisation_is_drawn_like_this(name: str) -> None:
    spec, drawing = DRAWINGS[name]
    assert draw(Tree.from_spec(spec)) == dedent(drawing).strip()


@pytest.mark.parametrize("spec", TREES.values())
def test_every_node_of_a_small_tree_has_one_line(spec: object) -> None:
    tree = Tree.from_spec(spec)
    lines = draw(tree).splitlines()
    assert len(lines) == 1 + tree.num_nodes
    assert all(line.isascii() for line in lines)


def test_of_a_large_tree_the_first_path_is_drawn() -> None:
    drawn = draw(Tree.from_spec([16, 16, 16]))
    expected = """
        company (4,096 experts, 3 levels)
        |-- 0 (256 experts)
        |   |-- 0 (16 experts)
        |   |   |-- 0
        |   |   `-- ... 15 more experts
        |   `-- ... 15 more units of 240 experts
        `-- ... 15 more units of 3,840 experts
        """
    assert drawn == dedent(expected).strip()


def test_a_description_is_the_drawing_and_the_costs() -> None:
    ffn = layer_of(
        tree=Tree.from_spec([2]),
        selection=best(1),
        experts=partial(Mlp, hidden_dim=64, activation="gelu", dtype=None, implementation="loop"),
    )
    model = ResidualMlp(in_dim=5, out_dim=3, dim=8, depth=1, ffn=ffn)
    # Embed 5 * 8 + 8, norms 8 + 8, gate 2 * 8 + 2, expert 2 * 8 * 64 = 1024, head 8 * 3 + 3: 109
    # besides the gate and the experts. FLOPs 2 (40 + 16 + 1024 + 24).
    assert (
        description(model)
        == dedent(
            """
        company (2 experts, 1 level)
        |-- 0
        `-- 1

        parameters         2,157
        active parameters  1,133
        gate parameters    18
        FLOPs per token    2,208 (forward)
        mixture layers     1
        experts per token  1
        """
        ).strip()
    )


def test_the_experts_of_several_gates_are_told_as_such() -> None:
    text = description(
        MODELS["mlp"](ffn=layer_of(tree=Tree.from_spec([4]), gate=heads(), selection=best(2)))
    )
    assert text.endswith("experts per token  4 (2 gates of 2)")


def test_a_dense_control_has_costs_and_no_drawing() -> None:
    text = description(MODELS["mlp"](ffn=dense()))
    assert text.startswith("parameters ")
    assert "mixture layers     0" in text
    assert "company" not in text
