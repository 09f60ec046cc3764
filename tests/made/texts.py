"""Made texts, tiny and of the form of the published ones."""

from collections.abc import Callable, Mapping

TEXTS: dict[str, Callable[[], Mapping[str, bytes]]] = {}
