"""Once: a property that is computed when it is first asked for, and kept."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class once(Generic[Value]):  # noqa: N801, it reads as a decorator
    """`functools.cached_property`, but for its lock, which `torch.compile` cannot trace.

    (Python 3.12 has no such lock any more.)
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        # From now on the value is found in the instance, before this is.
        value = instance.__dict__[self.name] = self.compute(instance)
        return value
