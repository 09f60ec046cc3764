"""Frames: one square picture a moment, and what differs between two of them is the load."""

from dataclasses import replace

import numpy as np

from hmoe.report.organisation import frames, views
from tests.report.organisation.records import make_record


def test_a_picture_for_every_moment() -> None:
    record = make_record([4, 4], rows=400)
    view = views(record)[0]
    history = view.layer.history
    assert history is not None
    drawn = dict(frames(view))
    assert list(drawn) == history.step_S.tolist()
    shapes = {pixels.shape for pixels in drawn.values()}
    ((height, width, channels),) = shapes
    assert (height, channels) == (width, 3)
    # Even load has no colour but grey, and a department with all the rows has one.
    load_N = np.zeros(view.tree.num_nodes)
    load_N[[0, 4, 5, 6, 7]] = 1, 0.25, 0.25, 0.25, 0.25
    uneven = replace(history, step_S=np.array([1, 2]), load_SN=np.stack([view.even_N, load_N]))
    layer = replace(view.layer, history=uneven)
    even, full = dict(frames(replace(view, layer=layer))).values()
    # The bar of colours at the side is in both; only boxes differ.
    changed = (even.astype(int) - full).any(-1).mean()
    assert 0.02 < changed < 0.5


def test_without_history_there_is_none() -> None:
    view = views(make_record([4], rows=50))[0]
    assert list(frames(replace(view, layer=replace(view.layer, history=None)))) == []
