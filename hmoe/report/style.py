"""How figures look: one colour, sign and dash per arm everywhere, and a common layout."""

from html import escape
from typing import NamedTuple

import plotly.graph_objects as go

from hmoe.report.tables import arms
from hmoe.tracking import Study

# Each keeps a contrast of at least 4.5 to white and differs from its neighbours in lightness too.
COLOURS = ("#475569", "#1d4ed8", "#c2410c", "#0f766e", "#9333ea", "#a16207", "#be185d", "#3f6212")
_SIGNS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
INK, FAINT, _GRIDLINE = "#1f2937", "#4b5563", "#e5e7eb"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Look(NamedTuple):
    """How an arm is drawn: the sign and the dashes serve those who do not tell colours apart."""

    colour: str
    sign: str
    dash: str


def look_of(study: Study, arm: str) -> Look:
    """The look of an arm, by its place in the study."""
    place = arms(study).index(arm)
    paint = COLOURS[place % len(COLOURS)]
    return Look(paint, _SIGNS[place % len(_SIGNS)], _DASHES[place % len(_DASHES)])


def label(text: str) -> str:
    """Text from a user as plotly is to show it; plotly knows tags and only a few entities."""
    return escape(text, quote=False)


def tint(paint: str) -> str:
    """A colour (#rrggbb) made transparent, for bands."""
    red, green, blue = (int(paint[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def lay_out(figure: go.Figure, height: int) -> None:
    """Margins, type, axes and legend that all figures share. `height` is in pixels."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 28, "t": 16, "b": 52},
        font={"family": _FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "white", "color": "#6b7280", "activecolor": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={
            "align": "left",
            "bgcolor": "white",
            "font": {"family": _FONT, "size": 12, "color": INK},
        },
    )
    axes = {"gridcolor": _GRIDLINE, "linecolor": FAINT, "zeroline": False, "automargin": True}
    figure.update_xaxes(showline=True, ticks="outside", tickcolor=FAINT, **axes)
    figure.update_yaxes(**axes)
