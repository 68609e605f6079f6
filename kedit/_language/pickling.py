"""Names for pickles and saved files, so that what is inside kedit may move."""

import sys
from dataclasses import fields
from types import FunctionType, ModuleType
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type)
_KINDS: dict[str, type] = {}


def unpickled(name: str, *args: Any) -> Any:
    """The object that a pickle describes. Pickles know this function as `kedit._unpickled`."""
    return _KINDS[name](*args)


unpickled.__module__, unpickled.__qualname__ = "kedit", "_unpickled"


def pickled(kind: Kind) -> Kind:
    """Pickle objects of a class by its name and arguments, without the module that it is in.

    The arguments are those of its `__reduce__`, or the fields of a dataclass or a named tuple.
    """
    reduce: Any = kind.__dict__.get("__reduce__")

    def by_name(self: Any) -> Any:
        if reduce is not None:
            args = reduce(self)[1]
        elif isinstance(self, tuple):
            args = tuple(self)
        else:
            args = tuple([getattr(self, field.name) for field in fields(self) if field.init])
        return (unpickled, (kind.__name__, *args))

    _KINDS[kind.__name__] = kind
    setattr(kind, "__reduce__", by_name)  # noqa: B010
    return kind


def publish(package: str) -> None:
    """Give classes and functions the name of the package that makes them public."""
    module = sys.modules[package]
    for thing in [getattr(module, name) for name in getattr(module, "__all__", ())]:
        if isinstance(thing, ModuleType):
            publish(thing.__name__)
        elif isinstance(thing, (type, FunctionType)) and "._" in thing.__module__:
            inside = vars(thing).values() if isinstance(thing, type) else ()
            for part in (thing, *[getattr(part, "__func__", part) for part in inside]):
                if isinstance(part, (type, FunctionType)):
                    part.__module__ = package
