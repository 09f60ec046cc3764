"""Data sets, one LightningDataModule a file; each docstring shows a sample.

Reading order: loader.py (which rows a step sees), rows.py and language.py (what the sets of
vectors and of text share), known.py (published files and their digests), then the sets. Nothing is
fetched but by fetching.py, when asked. Errors are those of checks.py.
"""

from hmoe.data.baselines import baselines, gzip_bits_per_byte, order_n_bits_per_byte
from hmoe.data.cifar import Cifar10, Cifar100
from hmoe.data.clinc150 import Clinc150
from hmoe.data.digits import Digits
from hmoe.data.fashion_mnist import FashionMnist
from hmoe.data.gutenberg15 import Gutenberg15
from hmoe.data.hub import Hub
from hmoe.data.idx_images import IdxImages
from hmoe.data.known import KnownFile, KnownSet
from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.language import Language
from hmoe.data.loader import Batch, SplitLoader, StepLoader, StreamData
from hmoe.data.mmoe_synthetic import MmoeSynthetic
from hmoe.data.pixels import PixelData
from hmoe.data.planted import Planted
from hmoe.data.ratings import Ratings
from hmoe.data.robot_arm import RobotArm
from hmoe.data.stdlib import Stdlib
from hmoe.data.tables import KnownTable, TableData, Tabular
from hmoe.data.text import Text
from hmoe.data.tiny_shakespeare import TinyShakespeare
from hmoe.data.udhr import Udhr
from hmoe.data.vowels import Vowels
from hmoe.data.wikitext2 import WikiText2

__all__ = [
    "KNOWN_SETS",
    "Batch",
    "Cifar10",
    "Cifar100",
    "Clinc150",
    "Digits",
    "FashionMnist",
    "Gutenberg15",
    "Hub",
    "IdxImages",
    "KnownFile",
    "KnownSet",
    "KnownTable",
    "Language",
    "MmoeSynthetic",
    "PixelData",
    "Planted",
    "Ratings",
    "RobotArm",
    "SplitLoader",
    "Stdlib",
    "StepLoader",
    "StreamData",
    "TableData",
    "Tabular",
    "Text",
    "TinyShakespeare",
    "Udhr",
    "Vowels",
    "WikiText2",
    "baselines",
    "gzip_bits_per_byte",
    "order_n_bits_per_byte",
]
