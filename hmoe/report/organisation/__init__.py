"""An inspected organisation, drawn and told from its record alone.

Reading order: view, layout, chart, flow, matrix, bars, moments (figures); words, tables; chapter,
page, prints, frames.
"""

from hmoe.report.organisation.chapter import Chapter, arm_chapters, arm_words, organisation_chapter
from hmoe.report.organisation.frames import frames
from hmoe.report.organisation.page import organisation_page, write_organisation
from hmoe.report.organisation.view import View, views
from hmoe.report.organisation.words import describe

__all__ = [
    "Chapter",
    "View",
    "arm_chapters",
    "arm_words",
    "describe",
    "frames",
    "organisation_chapter",
    "organisation_page",
    "views",
    "write_organisation",
]
