"""The organisation chart at every moment of a training, as pixels: for a slider of steps.

They are square, since MLflow shows images in squares. H: height, W: width in pixels.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hmoe.report.organisation.moments import thinned
from hmoe.report.organisation.prints import chart_print
from hmoe.report.organisation.view import View
from hmoe.report.paper import styled

_MOST = 24
_DPI = 160  # of a chart of 5.5 inches


def frames(view: View) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(step, pixels (H, W, 3)) of at most 24 moments, the last among them; none without history."""
    history = view.layer.history
    if history is None:
        return
    for moment in thinned(len(history.step_S), _MOST):
        layer = replace(view.layer, load_N=history.load_SN[moment])
        with styled():
            figure = chart_print(View(view.inspection, layer))
            figure.suptitle(f"{view.layer.name}, step {history.step_S[moment]}", fontsize=8)
            yield int(history.step_S[moment]), _pixels(figure)


def _pixels(figure: Any) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
