"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 coloured pictures, 32 x 32 pixels, 10 or 100 classes.

The binary edition of both: no header, and for each picture its labels, a byte each, then 1,024
bytes of red, of green and of blue, line by line. CIFAR-10 has one label, CIFAR-100 two, the
superclass first:

    data_batch_1.bin    <class> <3072 pixels> <class> <3072 pixels> ..       30,730,000 bytes
    train.bin           <superclass> <class> <3072 pixels> ..               153,700,000 bytes

The other edition is made of pickles, which may run any code, and is not read. Krizhevsky, "Learning
Multiple Layers of Features from Tiny Images" (2009); a class of CIFAR-100 has the number of its
place in the alphabet, and so has a superclass.
"""

from collections.abc import Sequence

import numpy as np
import torch

from hmoe.data.checks import check_shares
from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.loader import Split
from hmoe.data.pixels import Images, PixelData, stratified_split

PIXELS = 3 * 32 * 32
CLASSES_10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SUPERCLASSES_100 = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
CLASSES_100 = tuple(sorted(name for names in SUPERCLASSES_100.values() for name in names))


class Cifar(PixelData):
    """Pictures of one of the two sets: x float32 (B, 3072) in [-1, 1], colour by colour.

    Args:
        root: folder with the set's files.
        batch_size: pictures a batch.
        seed: seed of the training stream.
        val_share: share of each class of the training files for validation.

    Raises:
        ConfigError: batch_size below 1 or above the training rows, a share out of (0, 1).
        DataError: a file is missing, or is not the published one.
    """

    white = 255
    in_dim = PIXELS
    name: str
    class_names: tuple[str, ...]
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]

    def __init__(self, *, root: str, batch_size: int, seed: int, val_share: float) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        check_shares(val_share=val_share)
        self._root = root
        self._val_share = val_share

    @property
    def out_dim(self) -> int:  # type: ignore[override]
        """Classes."""
        return len(self.class_names)

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """As of every set of rows, with the names of the classes."""
        return super().label_names | {"class": self.class_names}

    def _records(self, files: Sequence[str]) -> np.ndarray:
        """Labels and pixels of some files, uint8 (rows, labels + pixels)."""
        known, labels = KNOWN_SETS[self.name], len(self.domain_labels) + 1
        content = b"".join(known.read(self._root, file) for file in files)
        return np.frombuffer(bytearray(content), np.uint8).reshape(-1, labels + PIXELS)

    def _load(self) -> dict[Split, Images]:
        train, test = self._records(self.train_files), self._records(self.test_files)
        coarser = len(self.domain_labels)
        rows = stratified_split(train[:, coarser], {"val": self._val_share})
        records = {split: train[kept] for split, kept in rows.items()} | {"test": test}
        if coarser:
            self._domains = {
                split: torch.from_numpy(found[:, :coarser].astype(np.int64))
                for split, found in records.items()
            }
        return {
            split: Images(found[:, coarser + 1 :], found[:, coarser].astype(np.int64))
            for split, found in records.items()
        }


class Cifar10(Cifar):
    """CIFAR-10. Arguments and errors are those of `Cifar`."""

    name = "cifar10"
    class_names = CLASSES_10
    train_files = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
    test_files = ("test_batch.bin",)


class Cifar100(Cifar):
    """CIFAR-100; the superclass is the domain. Arguments and errors are those of `Cifar`."""

    name = "cifar100"
    class_names = CLASSES_100
    train_files = ("train.bin",)
    test_files = ("test.bin",)
    domain_labels = ("superclass",)
    domain_names = (tuple(SUPERCLASSES_100),)
