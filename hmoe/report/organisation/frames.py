"""The organisation chart at every moment of a training, as pixels: for a slider of steps."""

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
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
