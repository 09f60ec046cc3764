"""Data sets, one LightningDataModule a file; nothing is fetched, and each docstring shows a sample.

Reading order: loader.py (which rows a step sees), pixels.py and byte_language.py (what the sets of
vectors and of text share), then the sets. Errors are those of checks.py.
"""

from hmoe.data.baselines import baselines, gzip_bits_per_byte, order_n_bits_per_byte
from hmoe.data.byte_language import ByteLanguage
from hmoe.data.digits import Digits
from hmoe.data.idx_images import IdxImages
from hmoe.data.loader import Batch, SplitLoader, StepLoader, StreamData
from hmoe.data.pixels import PixelData
from hmoe.data.planted import Planted
from hmoe.data.robot_arm import RobotArm
from hmoe.data.stdlib import Stdlib
from hmoe.data.text import Text

__all__ = [
    "Batch",
    "ByteLanguage",
    "Digits",
    "IdxImages",
    "PixelData",
    "Planted",
    "RobotArm",
    "SplitLoader",
    "Stdlib",
    "StepLoader",
    "StreamData",
    "Text",
    "baselines",
    "gzip_bits_per_byte",
    "order_n_bits_per_byte",
]
