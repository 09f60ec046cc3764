"""Made tables, tiny and of the form of the published ones."""

from collections.abc import Callable, Mapping

TABLES: dict[str, Callable[[], Mapping[str, bytes]]] = {}
