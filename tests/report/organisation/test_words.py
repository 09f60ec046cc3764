"""The paragraph: every branch from a record made by hand, and no claim without significance."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hmoe.metrics import History, Inspection, Knowledge, LayerInspection
from hmoe.report.organisation import View, describe
from hmoe.report.organisation.words import settled_step

TWO = {"web": {"a": 1, "b": 1}, "legal": {"c": 1, "d": 1}}
THREE = {"web": {"a": 2, "b": 2}, "legal": {"c": 2, "d": 2}}


def made(spec: Any = TWO, knowledge: tuple[Knowledge, ...] = (), **changes: Any) -> View:
    """A layer with an even load of which nothing else was measured."""
    record = Inspection("r", "", 0, 1, "val", 8, 8, "t", 1.0, 8, 1.0, spec, (), 0.0)
    tree = record.tree
    layer = LayerInspection(
        name="ffn",
        load_N=np.array(tree.num_below_N) / tree.num_experts,
        dropped=0.0,
        load={},
        decomposition={},
        entropy_L=np.full(tree.num_levels, np.nan),
        margin_L=np.full(tree.num_levels, np.nan),
        knowledge=knowledge,
        coactivation={},
        locality=np.nan,
        locality_random=np.nan,
        masked_N=np.full(tree.num_nodes, np.nan),
        recall={},
        policy_loss={},
        choice_T=np.zeros(8, dtype=int),
        history=None,
    )
    return View(record, replace(layer, **changes))


def known(
    information: list[float],
    p: list[float],
    *,
    label: str = "package",
    entropy: float = 1.0,
    null: float = 0.0,
    ami: float = 0.5,
    clusters: float = np.nan,
) -> Knowledge:
    information_L = np.array(information)
    same_L = np.ones_like(information_L)
    return Knowledge(
        label=label,
        values=("x", "y"),
        counts_CE=np.ones((2, 4), dtype=int),
        entropy=entropy,
        information_L=information_L,
        null_L=null * same_L,
        p_L=np.array(p),
        nmi_L=ami * same_L,
        ami_L=ami * same_L,
        clusters_ami_L=clusters * same_L,
    )


def words(view: View) -> str:
    return describe(view).replace("\u202f", " ")


def test_knowledge_is_told_by_level_with_chance_taken_off() -> None:
    text = words(made(knowledge=(known([0.315, 0.205], [0.01, 0.01], null=0.01, clusters=0.49),)))
    assert "tells 50 % of `package` (0.500 of 1.000 nats, chance taken off)." in text
    assert (
        "61 % of what the router knows of `package` is decided at the department level, "
        "39 % at that of experts." in text
    )
    assert "k-means of the inputs would tell as much (AMI 0.49 beside 0.50 of the experts)." in text


def test_without_significance_nothing_is_claimed() -> None:
    text = words(made(knowledge=(known([0.3, 0.2], [0.2, 0.06], clusters=0.1),)))
    assert "tells nothing of `package` that permuted labels would not tell as well" in text
    assert "p = 0.060 at least" in text
    assert "decided" not in text
    assert "k-means" not in text


def test_a_level_that_chance_explains_gets_no_share() -> None:
    text = words(made(THREE, (known([0.3, 0.1, 0.4], [0.01, 0.01, 0.5]),)))
    assert "tells 40 % of `package`" in text
    assert "75 % of what the router knows of `package`" in text
    assert "25 % at that of teams; experts add nothing beyond chance." in text


def test_one_level_knows_all() -> None:
    text = words(made(knowledge=(known([0.0, 0.4], [1.0, 0.0001]),)))
    assert "All that the router knows of `package` is decided at the expert level" in text
    assert "the other levels add nothing beyond chance (p = 1.000)." in text


def test_a_flat_tree_has_no_levels_to_compare() -> None:
    text = words(made([4], (known([0.4], [0.001]),)))
    assert "tells 40 % of `package`" in text
    assert "level" not in text


def test_a_label_known_in_full() -> None:
    text = words(made(knowledge=(known([0.9, 0.07], [0.01, 0.01]),)))
    assert "tells `package` almost in full (0.970 of 1.000 nats, chance taken off)." in text


@pytest.mark.parametrize(
    ("clusters", "said"),
    [(0.53, "would tell more"), (0.51, "as much"), (0.49, "as much"), (0.47, "would tell less")],
)
def test_the_control_by_clusters(clusters: float, said: str) -> None:
    text = words(made(knowledge=(known([0.3, 0.2], [0.01, 0.01], clusters=clusters),)))
    assert said in text


def test_a_label_with_one_value_and_one_that_was_not_permuted() -> None:
    assert "nothing to know" in words(made(knowledge=(known([0, 0], [1, 1], entropy=0.0),)))
    text = words(made(knowledge=(known([0.3, 0.2], [np.nan, np.nan]),)))
    assert "was not measured" in text


def test_other_labels_follow_the_best_known() -> None:
    chance = known([0.6, 0.3], [0.3, 0.3], label="token")
    less = known([0.1, 0.0], [0.01, 1.0], label="module")
    best = known([0.3, 0.2], [0.01, 0.01])
    text = words(made(knowledge=(chance, less, best)))
    assert text.startswith("The choice of experts tells 50 % of `package`")
    assert "It tells nothing of `token` and 10 % of `module`." in text


def test_no_label_no_word_of_knowledge() -> None:
    assert words(made()) == "The load of the experts is even (CV 0.00)."


def test_an_idle_team_is_named_once_with_its_department() -> None:
    # Nodes: web legal, a b c d, eight experts; team b and its experts get nothing.
    load_N = np.array([0.4, 0.6, 0.4, 0, 0.3, 0.3, 0.2, 0.2, 0, 0, 0.15, 0.15, 0.15, 0.15])
    text = words(made(THREE, load_N=load_N))
    assert "Team `b` of department `web` idles (on 8 tokens)." in text
    assert "`web.b" not in text
    department = np.array([1.0, 0, 0.5, 0.5, 0, 0, *[0.25] * 4, *[0] * 4])
    assert "Department `legal` idles (on 8 tokens)." in words(made(THREE, load_N=department))


def test_idle_experts_are_listed_or_counted() -> None:
    two = np.array([0.5, 0.5, 0.5, 0, 0, 0.5])
    assert "Expert `web.b` and expert `legal.c` idle (on 8 tokens)." in words(made(load_N=two))
    one_of_eight = words(made([8], load_N=np.eye(8)[0]))
    assert "7 of 8 experts idle (on 8 tokens), among them expert `1`." in one_of_eight


def test_a_unit_among_idle_experts_is_no_expert() -> None:
    # Department 0 has no row, of department 1 only the last of eight experts has any.
    load_N = np.array([0, 1.0, *[0] * 8, *[0] * 7, 1.0])
    text = words(made([2, 8], load_N=load_N))
    assert "15 of 16 experts idle (on 8 tokens), among them all of department `0`." in text


def test_nothing_at_all_was_asked() -> None:
    text = words(made(load_N=np.zeros(6)))
    assert "No expert was asked for anything." in text
    assert "busiest" not in text


def test_the_uneven_level_is_named() -> None:
    load_N = np.array([0.75, 0.25, 0.375, 0.375, 0.125, 0.125])
    text = words(made(load_N=load_N, decomposition={"kl": np.array([0.13, 0.0])}))
    assert "expert `web.a`, has 1.5 times its even share (CV of the experts 0.50)" in text
    assert "100 % of the unevenness arises at the department level." in text


def test_drops_and_the_unit_that_is_missed() -> None:
    text = words(made(dropped=0.021, masked_N=np.array([0.1, 0.42, *[np.nan] * 4])))
    assert "A capacity took away 2 % of the rows." in text
    assert "Department `legal` is missed most of those tried: without it the loss" in text
    tried = words(made(masked_N=np.array([0.1, 0.42, *[0.0] * 4])))
    assert "Department `legal` is missed most: without it the loss rises by 0.420." in tried
    unmissed = words(made(masked_N=np.array([-0.01, 0.0, *[np.nan] * 4])))
    assert "No unit that was taken away is missed" in unmissed


def over_time(saturation: list[list[float]], last_churn: list[float]) -> History:
    saturation_SL = np.array(saturation, dtype=float)
    churn_SL = np.full_like(saturation_SL, 0.0)
    churn_SL[-1] = last_churn
    steps = np.arange(1, len(saturation) + 1) * 1000
    return History(steps, np.zeros((len(steps), 6)), saturation_SL, churn_SL, saturation_SL)


def test_unsettled_choices_are_told_with_what_still_changed() -> None:
    history = over_time([[0.2, 0.2], [0.96, 0.7], [1, 1]], [0.04, 0.3])
    text = words(made(history=history))
    assert "had not settled: between steps 2 000 and 3 000 still 4 %" in text
    assert "4 % of those of departments and 30 % of those of experts changed." in text


def test_levels_that_settle_one_after_another_and_together() -> None:
    history = over_time([[0.95, 0.2], [0.96, 0.7], [0.97, 0.92], [1, 1]], [0.03, 0.08])
    text = words(made(history=history))
    assert "those of departments by step 1 000 and those of experts by step 3 000." in text
    together = over_time([[0.2, 0.2], [0.95, 0.9], [1, 1]], [0.05, 0.1])
    assert "settled by step 2 000 on every level." in words(made(history=together))


def test_levels_that_settle_at_one_step_are_told_together() -> None:
    history = over_time([[0.95, 0.95, 0.2], [0.96, 0.97, 0.95], [1, 1, 1]], [0.03, 0.08, 0.01])
    text = words(made(THREE, history=history))
    assert (
        "The choices settled not all at once: those of departments and teams by step 1 000 and "
        "those of experts by step 2 000." in text
    )


def test_a_few_steps_at_the_end_do_not_tell_that_choices_settled() -> None:
    """Validations at 1000, 2000, 3000 and, as the training ends there, 3010."""
    history = over_time([[0.2, 0.2], [0.5, 0.5], [0.99, 0.99], [1, 1]], [0.01, 0.01])
    churn_SL = history.churn_SL.copy()
    churn_SL[2] = [0.05, 0.4]
    cut = replace(history, step_S=np.array([1000, 2000, 3000, 3010]), churn_SL=churn_SL)
    assert (
        "had not settled: between steps 2 000 and 3 000 still 5 % of those of departments and "
        "40 % of those of experts changed." in words(made(history=cut))
    )
    whole = replace(cut, step_S=np.array([1000, 2000, 3000, 3500]))
    assert "settled by step 3 000 on every level" in words(made(history=whole))


def test_settled_means_to_stay_settled() -> None:
    assert settled_step(over_time([[0.95, 1], [0.5, 1], [0.9, 1], [1, 1]], [0, 0]), 0) == 3000
    assert settled_step(over_time([[0.95, 1], [0.5, 1], [0.2, 1], [1, 1]], [0, 0]), 0) == 4000


def test_one_moment_is_no_history() -> None:
    assert "settled" not in words(made(history=over_time([[1, 1]], [np.nan, np.nan])))


@pytest.mark.parametrize(
    ("own", "said"),
    [(0.4, "nearer in the tree than"), (0.79, "as far apart in"), (0.9, "farther apart in")],
)
def test_how_near_the_experts_of_a_token_are(own: float, said: str) -> None:
    text = words(made(locality=own, locality_random=0.8))
    assert f"The experts of one token are {said}" in text
    assert f"if drawn at random ({own:.2f} beside 0.80)." in text
    assert "drawn" not in words(made(locality=own))
