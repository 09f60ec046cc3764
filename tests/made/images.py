"""Made images, few and of the form of the published ones: labels in turn, pixels drawn."""

import struct
from collections.abc import Callable, Mapping

import numpy as np


def idx(magic: int, values: np.ndarray) -> bytes:
    """An idx file of unsigned bytes."""
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()


def fashion_mnist() -> Mapping[str, bytes]:
    """Ten images of every class to train with and validate, one for the test."""
    files = {}
    for part, rows in (("train", 100), ("t10k", 10)):
        labels = np.arange(rows, dtype=np.uint8) % 10
        pixels = np.random.RandomState(rows).randint(256, size=(rows, 28, 28)).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(0x803, pixels)
        files[f"{part}-labels-idx1-ubyte"] = idx(0x801, labels)
    return files


def records(labels: np.ndarray, seed: int) -> bytes:
    """A file of CIFAR: labels (rows, 1 or 2), each row followed by its pixels."""
    pixels = np.random.RandomState(seed).randint(256, size=(len(labels), 3072))
    return np.concatenate([labels, pixels], 1).astype(np.uint8).tobytes()


def cifar10() -> Mapping[str, bytes]:
    """Four pictures in each file, of two classes."""
    labels = np.array([[0], [9], [0], [9]])
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return {name: records(labels, seed) for seed, name in enumerate(names)}


def cifar100() -> Mapping[str, bytes]:
    """Apples, which are fruit, and trains, which are vehicles."""
    labels = np.array([[4, 0], [18, 90]] * 10)
    return {"train.bin": records(labels, 0), "test.bin": records(labels[:6], 1)}


IMAGES: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
