"""Directions: which way every objective is better, and what is not an objective."""

import re

import pytest

from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.metrics import direction, load_statistics
from tests.cases import TREES, make_routing

KNOWN = {
    "val/loss": "minimize",
    "val/bits_per_byte": "minimize",
    "val/mse": "minimize",
    "val/accuracy": "maximize",
    "val/load/cv/expert": "minimize",
    "val/load/max_violation/expert": "minimize",
    "val/load/entropy/expert": "maximize",
    "val/load/effective/expert": "maximize",
    "val/load/gini/expert": "minimize",
    "val/load/dead/expert": "minimize",
    "val/load/cv/level_0": "minimize",
    "val/load/entropy/level_12": "maximize",
}


@pytest.mark.parametrize("metric", KNOWN)
def test_the_better_way(metric: str) -> None:
    assert direction(metric) == KNOWN[metric]


@pytest.mark.parametrize("tree_name", TREES)
def test_even_load_is_better_than_uneven_by_every_load_metric(tree_name: str) -> None:
    tree = Tree.from_spec(TREES[tree_name])
    everyone = list(range(tree.num_experts))
    even = load_statistics(make_routing(tree, [everyone]).load_E, tree)
    uneven = load_statistics(make_routing(tree, [[0]]).load_E, tree)
    for key, value in even.items():
        if direction(f"val/load/{key}") == "minimize":
            assert value < uneven[key]
        else:
            assert value > uneven[key]


@pytest.mark.parametrize(
    ("metric", "hint"),
    [
        ("val/acuracy", " Did you mean 'val/accuracy'?"),
        ("val/load/cv", " Did you mean 'val/load/cv/expert'?"),
        ("bits_per_byte", " Did you mean 'val/bits_per_byte'?"),
        ("val/load/cv/level_", " Did you mean 'val/load/cv/expert'?"),
        ("qqq", ""),
    ],
)
def test_an_unknown_metric_is_answered_with_the_nearest(metric: str, hint: str) -> None:
    message = (
        f"objectives: '{metric}' is not a metric of the validation set. Known are "
        "val/loss, val/bits_per_byte, val/mse, val/accuracy, val/auc, val/rmse, val/ndcg, "
        "val/load/cv/expert, "
        "val/load/max_violation/expert, val/load/min_violation/expert, val/load/entropy/expert, "
        "val/load/effective/expert, val/load/gini/expert, val/load/dead/expert, "
        "val/load/starved/expert, val/load/dropped/expert; cv, max_violation, entropy, dead "
        f"also end in /level_<n>, auc, rmse, ndcg in /<part>.{hint}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        direction(metric)


@pytest.mark.parametrize(
    "metric",
    [
        "train/loss",
        "test/accuracy",
        "val/loss/level_0",
        "val/load/cv/level_0/x",
        "val/load/cv/level_x",
        "val/load/gini/level_0",
    ],
)
def test_what_is_not_measured_on_the_validation_set_is_no_objective(metric: str) -> None:
    with pytest.raises(ConfigError, match="is not a metric of the validation set"):
        direction(metric)


@pytest.mark.parametrize(
    ("metric", "way"), [("val/auc/income", "maximize"), ("val/rmse/cold", "minimize")]
)
def test_a_score_of_a_part_has_the_direction_of_the_whole(metric: str, way: str) -> None:
    assert direction(metric) == way
