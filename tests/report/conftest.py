"""Reports of a made-up study of five arms, written once."""

import pytest

from hmoe.report import write_report
from tests.tracking.fake import fake_study


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Path of report.html; README.md lies beside it."""
    folder = tmp_path_factory.mktemp("report")
    fake_study(folder / "runs")
    return write_report(folder / "runs", "fake", folder / "out")


@pytest.fixture(scope="session")
def confirmed_report(tmp_path_factory):
    """Path of report.html of the same study, confirmed on four seeds, with figures for print."""
    folder = tmp_path_factory.mktemp("confirmed")
    fake_study(folder / "runs", trials=1, confirm_seeds=4)
    return write_report(folder / "runs", "fake", folder / "out", paper=True)
