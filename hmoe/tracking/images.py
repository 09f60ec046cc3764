"""Images of a run along its training, over which MLflow's page of the run has a slider of steps.

H: height, W: width of an image in pixels.
"""

import re
from collections.abc import Iterable

import numpy as np
from mlflow import MlflowClient
from numpy.typing import NDArray

_FOLDER = "images"  # MLflow's, as is the form of a file's name


def log_images(
    client: MlflowClient,
    run_id: str,
    key: str,
    images: Iterable[tuple[int, NDArray[np.uint8]]],
    time_ms: int,
) -> int:
    """Keep the images (step, pixels (H, W, 3)) of steps that have none yet. Returns how many.

    Args:
        key: their name, such as "load"; letters, digits and `_ - . /`.
        time_ms: what they are dated, in unix milliseconds.
    """
    known, added = _steps(client, run_id, key), 0
    for step, pixels in images:
        if step not in known:
            client.log_image(
                run_id, pixels, key=key, step=step, timestamp=time_ms, synchronous=True
            )
            known.add(step)
            added += 1
    return added


def _steps(client: MlflowClient, run_id: str, key: str) -> set[int]:
    """Steps of which both files of an image are there: the small one is written last."""
    form = rf"{_FOLDER}/{re.escape(key.replace('/', '~'))}\+step\+(\d+)\+.*\+compressed\.webp"
    names = [file.path for file in client.list_artifacts(run_id, _FOLDER)]
    return {int(found[1]) for name in names if (found := re.fullmatch(form, name))}
