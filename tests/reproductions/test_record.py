"""What a reproduction is: figures and verdicts, by hand."""

from dataclasses import replace
from math import inf, nan

import pytest

from hmoe.reproductions.record import Criterion, Figure, Role
from tests.reproductions.made import MADE


def criterion(role: Role, low: float = 0.0) -> Criterion:
    return Criterion(figure=role, says=role, role=role, low=low)


def verdict(*roles: Role, **values: float) -> str:
    """Of criteria "at least 0", one a role, on figures of these values."""
    made = replace(MADE, criteria=tuple(criterion(role) for role in roles))
    return made.verdict({name: Figure(value) for name, value in values.items()})


def test_a_figure_over_seeds_by_hand() -> None:
    assert Figure.over([1, 2, 6]) == Figure(3.0, pytest.approx(7**0.5), 3)
    assert Figure.over([4]) == Figure(4.0, None, 1)


@pytest.mark.parametrize(
    ("claim", "shape", "aside", "expected"),
    [
        (1, 1, 1, "reproduced"),
        (1, 1, -1, "reproduced"),
        (-1, 1, 1, "in shape only"),
        (1, -1, 1, "not reproduced"),
        (-1, -1, 1, "not reproduced"),
        (nan, 1, 1, "in shape only"),
    ],
)
def test_verdicts(claim: float, shape: float, aside: float, expected: str) -> None:
    assert verdict("claim", "shape", "aside", claim=claim, shape=shape, aside=aside) == expected


def test_without_criteria_of_shape_a_failed_claim_leaves_nothing() -> None:
    assert verdict("claim", claim=1) == "reproduced"
    assert verdict("claim", claim=-1) == "not reproduced"


def test_a_figure_that_is_missing_fails() -> None:
    assert verdict("claim", "shape", shape=1) == "in shape only"


def test_the_bounds_belong_to_what_is_asked() -> None:
    asked = Criterion(figure="x", says="", role="claim", low=1, high=2)
    held = {x: asked.holds({"x": Figure(x)}) for x in (0.999, 1, 2, 2.001, inf, nan)}
    assert held == {0.999: False, 1: True, 2: True, 2.001: False, inf: False, nan: False}


def test_what_could_not_fail_is_no_criterion() -> None:
    with pytest.raises(AssertionError, match="x: a criterion that cannot fail"):
        Criterion(figure="x", says="", role="claim")
    with pytest.raises(AssertionError, match="made: nothing is claimed"):
        replace(MADE, criteria=(criterion("aside"),))
