"""A table of what can be edited inside a model."""

from typing import Any, NamedTuple

import keras

from kedit._addresses import located, spelling, spellings
from kedit._show import html
from kedit.errors import OperandError
from kedit.interventions._attention import kind_of
from kedit.interventions._look import look


class SiteInfo(NamedTuple):
    """A layer that can be edited; `site` takes it.

    Attributes:
        address: The address that `site` takes. It is the same in every session, unless
            another layer has it for a name: then it is the name of the layer.
        layer: Name of the class of the layer.
        name: Name of the layer.
        input: Shapes of its positional inputs at its first call.
        output: Shapes of its outputs at its first call. In both, unknown sizes are None.
            Both are None if the layer was not called.
        calls: How often it is called in one run; None if no run could be traced, or if
            it is called by a recurrent layer in a loop, where it differs by backend.
        inside: What `site` takes of an attention layer, beside its input and output, such
            as "pattern"; empty for other layers. The table leaves it out.
    """

    address: str
    layer: str
    name: str
    input: Any
    output: Any
    calls: int | None
    inside: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.address)


_COLUMNS = SiteInfo._fields[:-1]


class Sites(tuple[SiteInfo, ...]):
    """The layers of a model that can be edited; prints as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        rows = [_COLUMNS, *map(_cells, self)]
        widths = [max([len(row[column]) for row in rows]) for column in range(len(_COLUMNS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    @property
    def attention(self) -> "Sites":
        """The attention layers, of which `site` takes the "pattern", the "heads" and more."""
        return Sites([info for info in self if info.inside])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        count = f"{len(self)} layer{'s' * (len(self) != 1)} that can be edited"
        return html.table(count, _COLUMNS, [*map(_cells, self)])


def _cells(info: SiteInfo) -> tuple[str, ...]:
    """Return the row of a layer in the table."""
    name = "" if info.name == info.address else info.name
    shapes = [_text(info.input), _text(info.output)]
    calls = "?" if info.calls is None else str(info.calls)
    return (info.address, info.layer, name, *shapes, calls)


def sites(model: keras.Model, inputs: Any = None) -> Sites:
    """List the layers of a model that can be edited, nested ones included.

    Args:
        model: Model of any kind, or a layer.
        inputs: Inputs of the model, a batch of any size. Only shapes and dtypes are
            used, unless a layer needs values to run. A model that is not built yet is
            built for them. Defaults to None: the inputs that the model was built for.

    Returns:
        A tuple of `SiteInfo`, in the order in which the layers are called. Layers
        that are not called come last. It prints as a table. `sites(model).attention`
        are the attention layers, of which `site` takes the pattern, the heads and more.

    Raises:
        kedit.errors.OperandError: If `model` is not a model or a layer.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="hidden")])
    >>> [(info.address, info.output, info.calls) for info in kedit.interventions.sites(model)]
    [('hidden', (None, 2), 1)]
    """
    check_model(model)
    seen = look(model, inputs)
    found = located(model)
    known = spellings(found)
    order = {key: number for number, key in enumerate(seen or {})}
    loops = tuple([f"{one.address}/" for one in found if is_looped(one.layer)])
    infos = []
    for one in sorted(found, key=lambda one: order.get(id(one.layer), len(order))):
        calls = None if seen is None else seen.get(id(one.layer), [])
        args, _, output = calls[0] if calls else (None, None, None)
        given, gave = _shapes(args), _shapes(output)
        count = None if calls is None or one.address.startswith(loops) else len(calls)
        named = (spelling(one, known), type(one.layer).__name__, one.layer.name)
        infos.append(SiteInfo(*named, given, gave, count, tuple(kind_of(one.layer))))
    return Sites(infos)


def is_looped(layer: Any) -> bool:
    """Whether a layer calls its cell in a loop, where some backends call it only once."""
    return isinstance(layer, keras.layers.RNN) and not layer.unroll


def check_model(model: Any) -> None:
    """Raise if `model` is not a model or a layer."""
    if type(model).__module__.startswith("tf_keras."):
        raise OperandError(
            f"A model should be of Keras 3. Received: {model!r} of Keras 2. Unset "
            "`TF_USE_LEGACY_KERAS`, and make the model by `import keras`."
        )
    if not isinstance(model, keras.layers.Layer):
        raise OperandError(
            f"A model should be a `keras.Model`. Received: {model!r} of type "
            f"{type(model).__name__}."
        )


def _shapes(values: Any) -> Any:
    """Return the shapes of tensors: one alone, or several in a list."""
    if values is None:
        return None
    found = [tuple(leaf.shape) for leaf in keras.tree.flatten(values) if hasattr(leaf, "shape")]
    return found[0] if len(found) == 1 else found


def _text(shapes: Any) -> str:
    if shapes is None:
        return "-"
    return ", ".join(map(str, shapes)) if isinstance(shapes, list) else str(shapes)
