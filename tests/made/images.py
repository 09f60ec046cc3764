"""Made images, tiny and of the form of the published ones."""

from collections.abc import Callable, Mapping

IMAGES: dict[str, Callable[[], Mapping[str, bytes]]] = {}
