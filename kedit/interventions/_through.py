"""An operand that runs layers on the activation, such as a sparse autoencoder."""

from typing import Any

import keras

from kedit._edit import Edit, EditSequence, check_is_edit, edit_from_json
from kedit._language.decoding import check_fields, check_same, loading
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError, ShapeError
from kedit.interventions._kept_layer import KeptLayer, without_settings
from kedit.interventions._operands import RunOperand, names_in, operands_in
from kedit.interventions._site_editing import SiteEditing

_FIELDS: dict[str, Any] = {"layers": list, "edit": (dict, type(None))}


@keras.saving.register_keras_serializable(package="kedit")
class Through(RunOperand):
    """What layers make of the activation: of an autoencoder, with its features edited.

    - `Through(encoder, decoder, sample[..., 17].set(0.0))` edits features. It is
      `x + decode(edit(encode(x))) - decode(encode(x))`: what the autoencoder does not
      reconstruct stays as it is, and an edit that changes no feature leaves `x` as it is
      to the last bit. In the edit, `OtherRun()` stands for the features of the other run.
    - `Through(encoder, decoder)` is the reconstruction, `decode(encode(x))`.
    - `Through(layer)` is `layer(x)`, of the shape of `x`.

    The layers are copied with their weights, once for each site: changing them later does
    not change the edit. The copies run in inference mode. `fit` trains their weights with
    `edit_model(..., train="edits")`, unless a layer has `trainable=False`.
    `edited.values(site)` has them after those of the edit, and files hold them.

    Loading such a file imports and runs nothing that the file names: layers are Keras's
    own, without `Lambda` and others that hold code or read files, a `keras.Sequential` of
    these, or registered with Keras in the session that loads it. Other layers, and
    functional models, can be used, but not saved.

    Args:
        encoder: A Keras layer. Takes the whole activation, with the batch axis.
        decoder: A Keras layer that takes what the encoder returns, and returns the shape
            of the activation. Defaults to None: the encoder itself does.
        edit: Edit of what the encoder returns, with operands as at any site. Defaults
            to None: there is none, and the error of the reconstruction is not kept.

    Raises:
        kedit.errors.OperandError: If an argument is no layer or no edit, or a layer holds
            code, as `keras.layers.Lambda` does.
        kedit.errors.ShapeError: When the edit is built, if the layers do not return the
            shape of the activation.
        kedit.errors.EditError: When the edit is built, if `edit` does not fit the features.

    Gradient:
        That of the formula: to `x`, to the weights of the layers, and to the operands of
        `edit`.

    References:
        S. Marks, C. Rager, E. J. Michaud, Y. Belinkov, D. Bau and A. Mueller, *Sparse
        Feature Circuits: Discovering and Editing Interpretable Causal Graphs in Language
        Models*, 2024, arXiv:2403.19647, for features with the error kept; T. Bricken et
        al., *Towards Monosemanticity: Decomposing Language Models With Dictionary
        Learning*, Transformer Circuits Thread, 2023, for the autoencoder.

    Example:
    >>> encoder = keras.layers.Dense(3, activation="relu", name="encoder")
    >>> decoder = keras.layers.Dense(2, name="decoder")
    >>> edit = kedit.sample[0].set(0.0)
    >>> kedit.sample[...].set(kedit.interventions.Through(encoder, decoder, edit))
    sample[...].set(Through(<Dense 'encoder'>, <Dense 'decoder'>, sample[0].set(0.0)))
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    >>> halved = kedit.interventions.Through(keras.layers.Rescaling(0.5))
    >>> edited = kedit.interventions.edit_model(base, {"h": kedit.sample[0].set(halved)})
    >>> ops.convert_to_numpy(edited(np.ones((1, 2)))).tolist()
    [[1.5, 3.0]]
    """

    __slots__ = ("edit", "layers")
    owns_weight = True
    layers: tuple[KeptLayer, ...]
    edit: Edit | EditSequence | None

    def __init__(self, encoder: Any, decoder: Any = None, edit: Any = None) -> None:
        if edit is not None:
            check_is_edit("`Through`", edit, "Through(encoder, decoder, sample[17].set(0.0))")
            if decoder is None or any([part.tensors() for part in edit.edits]):
                raise OperandError(
                    "An edit of features should be given with a decoder, and hold no tensors. "
                    f"Received: decoder={decoder!r}, `{edit!r}`. Write "
                    "`Through(encoder, decoder, sample[17].set(0.0))`."
                )
            if any([operand.inputs() for operand in operands_in(edit)]):
                raise OperandError(
                    "An edit of features should not be given the input of a layer, which has none. "
                    f"Received: `{edit!r}`. Write `sample[...].set(LayerInput())` at the layer."
                )
        given = [encoder] if decoder is None else [encoder, decoder]
        kept = [layer if isinstance(layer, KeptLayer) else KeptLayer.of(layer) for layer in given]
        self._init(layers=tuple(kept), edit=edit)

    @classmethod
    def _of(cls, layers: tuple[KeptLayer, ...], edit: Any) -> "Through":
        decoder = layers[1] if len(layers) > 1 else None
        return cls(layers[0], decoder, edit)

    def key(self) -> Any:
        return ("Through", tuple([layer.key() for layer in self.layers]), self.edit)

    def __repr__(self) -> str:
        given = [*self.layers, *([] if self.edit is None else [self.edit])]
        return f"Through({', '.join([repr(part) for part in given])})"

    def __reduce__(self) -> Any:
        return (Through._of, (self.layers, self.edit))

    def get_config(self) -> dict[str, Any]:
        edit = None if self.edit is None else keras.saving.serialize_keras_object(self.edit)
        edit = without_settings(edit)
        return {"layers": [layer.get_config() for layer in self.layers], "edit": edit}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Through":
        with loading("A saved Through", config):
            fields = check_fields("A saved Through", config, _FIELDS)
            layers = tuple([KeptLayer.from_config(layer) for layer in fields["layers"]])
            edit = None if fields["edit"] is None else edit_from_json(fields["edit"])
            made = cls._of(layers, edit)
            check_same("A saved Through", made.get_config(), config)
            return made

    def names(self) -> tuple[list[str], list[str]]:
        runs, fed = ((), ()) if self.edit is None else names_in(self.edit)
        return [*runs], [*fed]

    def part(self) -> "Coder":
        return Coder(self)

    def check(self, edit: Edit, shape: Shape, dtype: str) -> None:
        if self.edit is not None and edit.operand == self and edit.op != "set":
            raise OperandError(
                "An activation with edited features should be written. Received: "
                f"`{edit!r}`. Write `.set(Through(...))`."
            )

    def add_to(self, layer: Any, shape: Shape, part: Any) -> Any:
        part.build_at(shape, layer.site_dtype)
        return part

    def now(self, weight: Any) -> "Through":
        coder: Coder = weight
        given = zip(self.layers, coder.layers, coder.shapes, strict=True)
        kept = tuple([layer.now(made, shape) for layer, made, shape in given])
        return self._of(kept, None if coder.editing is None else coder.editing.current())

    def without_weights(self) -> "Through":
        return self._of(tuple([layer.without_weights() for layer in self.layers]), self.edit)

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        return weight(x, given, piece=piece)


class Coder(keras.layers.Layer):
    """The layers of a `Through`, and the edit in between.

    Args:
        through: The operand.
        **kwargs: Base layer keyword arguments.

    Call arguments:
        x: The activation.
        given: Values for the operands of the edit, by name.
        piece: Which piece of the sequence the activation is; None for all of it.
    """

    def __init__(self, through: Through, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.layers = [layer.make() for layer in through.layers]
        self.editing = None if through.edit is None else SiteEditing(through.edit)
        self.runs = () if self.editing is None else self.editing.runs
        self.shapes: list[Any] = []

    def build_at(self, shape: Shape, dtype: str) -> None:
        """Build the layers for an activation."""
        spec, shapes = keras.KerasTensor((None, *shape[1:]), dtype=dtype), []
        for layer in self.layers:
            shapes.append(tuple(spec.shape))
            try:
                spec = layer(spec)
            except (ValueError, TypeError) as error:
                raise _does_not_fit(shape, str(error).strip().split("\n")[0], layer) from error
            if not isinstance(spec, keras.KerasTensor):
                raise _does_not_fit(shape, f"a {type(spec).__name__}", layer)
            if self.editing is not None and len(shapes) == 1:
                self.editing.build_at(spec.shape, spec.dtype)
        if tuple(spec.shape)[1:] != tuple(shape)[1:]:
            raise _does_not_fit(shape, f"shape {tuple(spec.shape)}", self.layers[-1])
        self.shapes = shapes
        self.built = True

    def call(self, x: Tensor, given: dict[str, Tensor], piece: Any = None) -> Tensor:
        encode, *decode = [layer_in_inference(layer) for layer in self.layers]
        codes = encode(x)
        if self.editing is None:
            return ops.cast(decode[0](codes) if decode else codes, x.dtype)
        others = {name: encode(given[name]) for name in self.runs}
        edited = self.editing(codes, {**given, **others}, piece=piece)
        # What is lost is subtracted: -0.0 - 0.0 is -0.0.
        lost = ops.subtract(decode[0](codes), decode[0](edited))
        return ops.subtract(x, ops.cast(lost, x.dtype))


def layer_in_inference(layer: Any) -> Any:
    return lambda x: layer(x, training=False)


def _does_not_fit(shape: Any, received: str, layer: Any) -> ShapeError:
    error: ShapeError = ShapeError(
        "The layers of `Through` should take the activation, and return a tensor of its shape, "
        f"{(None, *shape[1:])}. Received: {received} from the {type(layer).__name__} "
        f"{layer.name!r}. Write `Through(encoder, keras.layers.Dense({shape[-1]}))`."
    )
    return error
