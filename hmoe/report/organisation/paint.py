"""The colours of a share beside the expected one: blue is less, orange more, dark nothing."""

import numpy as np

from hmoe.report.style import INK

# Twofold under, even and twofold over are as far apart for the eye. Ink can be read on all of them.
FEW, EVEN, MANY = "#60a5fa", "#f3f4f6", "#fb923c"
OCTAVES = 2.0  # a quarter and four times the even share have the strongest colours
_NOTHING = 0.002  # the lowest part of the scale is for what has nothing at all
DIVERGING = ((0.0, INK), (_NOTHING, INK), (_NOTHING, FEW), (0.5, EVEN), (1.0, MANY))


def octaves(ratio: np.ndarray) -> np.ndarray:
    """Where ratios to the even share lie on the scale, from -OCTAVES to OCTAVES; 0 is even.

    Only a ratio of 0 lies at the very bottom, where the scale is dark.
    """
    lowest = -OCTAVES * (1 - 4 * _NOTHING)
    with np.errstate(divide="ignore"):
        return np.where(ratio == 0, -OCTAVES, np.clip(np.log2(ratio), lowest, OCTAVES))


def diverging(ratio: float) -> str:
    """The colour (#rrggbb) of a ratio to the even share."""
    place = float(octaves(np.array(ratio))) / OCTAVES
    if place == -1:
        return INK
    end = MANY if place > 0 else FEW
    pairs = ((int(EVEN[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * abs(place)):02x}" for a, b in pairs)


def colour_axis(title: str) -> dict[str, object]:
    """The scale of `octaves` for plotly, with ratios on its bar."""
    return {
        "colorscale": [list(step) for step in DIVERGING],
        "cmin": -OCTAVES,
        "cmax": OCTAVES,
        "colorbar": {
            "title": {"text": title, "side": "right", "font": {"size": 12}},
            "tickvals": [-2, -1, 0, 1, 2],
            "ticktext": ["¼×", "½×", "1×", "2×", "4×"],
            "tickfont": {"size": 12},
            "thickness": 12,
            "outlinewidth": 0,
            # The buttons of the figure are above it.
            "len": 0.94,
            "y": 0,
            "yanchor": "bottom",
        },
    }
