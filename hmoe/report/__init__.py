"""The report room: the runs of a study become tables, figures, one page and one sentence.

Reads what tracking stored; knows nothing of models or training. Everything but `page` is pure.
"""

from hmoe.report.answer import answer, answer_list, means
from hmoe.report.comparison import find_side, print_comparison
from hmoe.report.page import write_report
from hmoe.report.tables import pareto_front

__all__ = [
    "answer",
    "answer_list",
    "find_side",
    "means",
    "pareto_front",
    "print_comparison",
    "write_report",
]
