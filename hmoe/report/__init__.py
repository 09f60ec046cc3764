"""The report room: the runs of a study become tables, figures, one page and one sentence.

Reads what tracking stored; knows nothing of models or training. Everything but `page` is pure.
"""

from hmoe.report.answer import answer
from hmoe.report.page import write_report
from hmoe.report.tables import pareto_front

__all__ = ["answer", "pareto_front", "write_report"]
