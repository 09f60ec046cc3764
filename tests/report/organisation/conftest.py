"""Records made once."""

import pytest

from tests.report.organisation.records import NAMED, make_record


@pytest.fixture(scope="session")
def named():
    """Three seeds of a named tree whose teams work on domains; two layers, one better informed."""
    return [make_record(NAMED, planted=1, layers=2, seed=seed, rows=4000) for seed in range(3)]


@pytest.fixture(scope="session")
def huge():
    """4,096 experts, of which many idle."""
    return make_record([16, 16, 16], planted=1, skew=3.0, rows=20_000, moments=20)
