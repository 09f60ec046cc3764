"""The report room: the runs of a study become tables, figures, one page and an answer of few lines.

Reads what tracking stored; knows nothing of models or training. Everything but `page` is pure.
"""

from hmoe.report.answer import answer, means
from hmoe.report.comparison import find_side, print_comparison
from hmoe.report.organisation import frames, views, write_organisation
from hmoe.report.page import write_report
from hmoe.report.tables import pareto_front

__all__ = [
    "answer",
    "find_side",
    "frames",
    "means",
    "pareto_front",
    "print_comparison",
    "views",
    "write_organisation",
    "write_report",
]
