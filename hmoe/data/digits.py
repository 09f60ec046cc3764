"""Digits: handwritten digits as scikit-learn carries them, for a first result within seconds.

1797 grey images of 8 x 8 pixels with 17 levels (0 to 16), ten classes, about 180 images each. One
row of the set is an image read line by line; the first begins

    0 0 5 13 9 1 0 0 | 0 0 13 15 10 15 5 0 | 0 3 15 2 0 11 8 0 | ..    class 0

It is the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998;
CC BY 4.0); scikit-learn (BSD-3-Clause) installs it, 58 kB compressed, so nothing is fetched.
"""

import numpy as np

from hmoe.data.checks import check_shares
from hmoe.data.loader import Split
from hmoe.data.pixels import Images, PixelData, stratified_split


class Digits(PixelData):
    """The 1797 digits: x float32 (B, 64) in [-1, 1], y int64 (B,) from 0 to 9.

    Args:
        batch_size: images a batch.
        seed: seed of the training stream.
        val_share: share of each class for validation.
        test_share: share of each class for the test.

    Raises:
        ConfigError: batch_size below 1 or above the training rows, shares that do not fit.
    """

    white = 16
    in_dim = 64
    out_dim = 10

    def __init__(self, *, batch_size: int, seed: int, val_share: float, test_share: float) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        check_shares(val_share=val_share, test_share=test_share)
        self._shares: dict[Split, float] = {"val": val_share, "test": test_share}

    def _load(self) -> dict[Split, Images]:
        # Imported here because it takes a second that no other set has to pay.
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        rows = stratified_split(labels, self._shares)
        return {
            split: Images(pixels[kept].astype(np.uint8), labels[kept].astype(np.int64))
            for split, kept in rows.items()
        }
