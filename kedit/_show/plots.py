"""Pictures: axes to draw on, and a tensor before and after an edit.

Matplotlib is imported when something is drawn.
"""

import math
from importlib import import_module
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit._show.code import shortened
from kedit.errors import EditError, OperandError

_PANELS, _MOST_SLICES, _LONGEST = 3, 3, 70
_UP, _DOWN = "tab:red", "tab:blue"  # the ends of the colour map of changes
# What is no finite number: its name, color, marker, and the edge of a line plot that it lies on.
_OTHERS = (
    ("NaN", "gold", "X", 0.0),
    ("inf", "tab:green", "^", 1.0),
    ("-inf", "tab:purple", "v", 0.0),
)
_LARGEST = 1e300  # so that limits can be subtracted from each other
_LARGE, _FEW = 64, 50  # elements of an image may be smaller than a pixel: circle a few


def axes(ax: Any = None, count: int = 1, rows: int = 1) -> Any:
    """Return an array of axes to draw on: those given, or `rows * count` new ones."""
    pyplot = _matplotlib("pyplot")
    if ax is None:
        size = (4 * count + 1, 3.5 * rows)
        ax = pyplot.subplots(rows, count, figsize=size, layout="constrained")[1]
    given = np.ravel(np.asarray(ax, object))
    if len(given) != rows * count:
        raise OperandError(f"`ax` should be {rows * count} axes. Received: {len(given)}.")
    return given


def _matplotlib(module: str) -> Any:
    try:
        return import_module(f"matplotlib.{module}")
    except ModuleNotFoundError as error:
        raise ImportError('A plot needs matplotlib: pip install "kedit[plot]"') from error


def draw_map(found: Any, most: float, shows: str, ax: Any = None) -> Any:
    """Draw numbers of two signs as a map, white at 0, with a scale that says what it shows.

    Args:
        found: Array of shape `(num_rows, num_columns)`.
        most: The largest absolute value of the scale.
        shows: Label of the scale.
        ax: Matplotlib axes to draw on. Defaults to None: new axes.

    Returns:
        The axes.
    """
    (ax,) = axes(ax)
    image = ax.imshow(found, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label=shows)
    return ax


def values_of(x: Any) -> Any:
    """Return a tensor, array, list or number to draw as a NumPy array."""
    is_tensor = ops.is_tensor(x) or isinstance(x, keras.Variable)
    try:
        if isinstance(x, keras.KerasTensor):
            raise TypeError
        found = np.asarray(ops.convert_to_numpy(x) if is_tensor else x)
    except EditError:  # of a draft, for example, which says what to write
        raise
    except Exception as error:  # in a compiled function, each framework raises its own kind
        raise OperandError(
            f"`x` should be a tensor that has values, to be drawn. Received: {x!r}. Write "
            "`edit.plot(np.ones((2, 3)))`, outside of models and compiled functions."
        ) from error
    return found.astype("float32") if found.dtype.kind == "V" else found  # bfloat16


def draw_change(before: Any, after: Any, title: str, ax: Any = None) -> Any:
    """Draw an array before and after an edit, and what changed. Return the axes.

    Args:
        before: NumPy array.
        after: NumPy array of the same shape.
        title: What was done.
        ax: Three matplotlib axes for each slice to draw, or None for new ones.
    """
    before = before.astype(after.dtype)  # an edit by tensors makes a tensor of a list
    changed = _differs(before, after)
    slices, count = _slices(changed)
    rows = min(_MOST_SLICES, len(slices))
    if ax is not None:
        rows = min(rows, max(1, np.size(np.asarray(ax, object)) // _PANELS))
    slices = slices[:rows]
    given = axes(ax, _PANELS, rows)
    grid = given.reshape(rows, _PANELS)
    panels = _Panels(before, after, changed, slices)
    images = [panels.draw(place, panel) for place, panel in zip(slices, grid, strict=True)]
    if images[0]:
        _add_bars(images, grid, before.dtype)
        if ax is None:
            options = {"loc": "outside lower center", "ncols": 3, "frameon": False}
            _add_legend(panels.others, given[0].figure, **options)
        else:
            options = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 3}
            _add_legend(panels.others, grid[-1][2], **options, frameon=False)
    said = shortened(title, _LONGEST)
    if changed.ndim > 2:
        said += f"\nslices that change: {count} of {math.prod(changed.shape[:-2])}"
        said += f", {rows} shown" if rows < count else ""
    if ax is None:
        given[0].figure.suptitle(said, fontsize="medium")
    else:
        given[0].set_title(f"{said}\n", loc="left", fontsize="medium")  # above "before"
    return given


def _differs(before: Any, after: Any) -> Any:
    """Return which elements changed: a NaN that stays one did not, nor did 0.0 for -0.0."""
    if before.dtype.kind == "c":
        return _differs(before.real, after.real) | _differs(before.imag, after.imag)
    if before.dtype.kind in "biu":
        return np.asarray(before != after)
    return (before != after) & ~(np.isnan(before) & np.isnan(after))


def _slices(changed: Any) -> tuple[list[tuple[int, ...]], int]:
    """Return the leading positions of the slices to draw, and how many slices change."""
    if changed.ndim < 3 or not changed.size:
        return [()], 0
    found = [tuple(place) for place in np.argwhere(changed.any(axis=(-2, -1))).tolist()]
    return found or [(0,) * (changed.ndim - 2)], len(found)


def _difference(before: Any, after: Any, changed: Any) -> Any:
    """Return the change of each element as a float: 0 exactly where there is none."""
    found = np.zeros(before.shape)
    if before.dtype.kind in "iu":  # floats would make neighbours among large integers equal
        found[changed] = after[changed].astype(object) - before[changed].astype(object)
        return found
    with np.errstate(all="ignore"):
        if before.dtype.kind == "c":
            found[changed] = np.abs(after - before)[changed]
        else:
            found[changed] = (after.astype(float) - before.astype(float))[changed]
    return found


def _numbers(array: Any) -> Any:
    """Return an array as floats; absolute values of complex numbers."""
    with np.errstate(all="ignore"):
        return (np.abs(array) if array.dtype.kind == "c" else array).astype(float)


def _finite(values: Any) -> Any:
    """Return the values that are drawn to scale, masked where there is none."""
    clipped = np.clip(values, -_LARGEST, _LARGEST)
    return np.ma.masked_array(clipped, ~np.isfinite(values))


class _Panels:
    """What is drawn, and the limits that the panels of all slices share."""

    def __init__(self, before: Any, after: Any, changed: Any, slices: list[Any]) -> None:
        self.is_complex = before.dtype.kind == "c"
        self.changed = changed
        self.before, self.after = _numbers(before), _numbers(after)
        self.change = _difference(before, after, changed)
        shown = [_finite(part[place]) for part in (self.before, self.after) for place in slices]
        numbers = np.concatenate([part.compressed() for part in shown])
        low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
        if before.dtype.kind == "b":
            low, high = 0.0, 1.0
        room = 0.5 * max(1.0, abs(low)) if low == high else 0.0
        self.limits = (low - room, high + room)
        drawn = [part[p] for part in (self.before, self.after, self.change) for p in slices]
        seen = [[where.any() for where in _others(part)] for part in drawn]
        self.others = [any(one) for one in zip(*seen, strict=True)]
        most = np.concatenate([_finite(self.change[p]).compressed() for p in slices])
        self.most = (np.abs(most).max() if most.size else 0.0) or 1.0

    def draw(self, place: tuple[int, ...], panels: Any) -> list[Any]:
        """Draw one slice on three axes. Return the images, if it is drawn as images."""
        changed = self.changed[place]
        where = f" [{', '.join([*map(str, place), ':', ':'])}]" if self.changed.ndim > 2 else ""
        absolute = " (absolute value)" if self.is_complex else ""
        for panel, name in zip(panels[:2], ("before", "after"), strict=True):
            panel.set_title(f"{name}{where}{absolute}")
        panels[2].set_title(f"changed: {np.count_nonzero(changed)} of {changed.size}{absolute}")
        if not changed.size:
            for panel in panels:
                panel.set(xticks=[], yticks=[])
                panel.text(0.5, 0.5, f"empty, of shape {changed.shape}", ha="center", va="center")
            return []
        parts = [part[place] for part in (self.before, self.after, self.change)]
        if changed.ndim < 2:
            self._draw_lines(
                [np.atleast_1d(part) for part in parts], np.atleast_1d(changed), panels
            )
            return []
        return self._draw_images(parts, changed, panels)

    def _draw_lines(self, parts: list[Any], changed: Any, panels: Any) -> None:
        low, high = self.limits
        room = 0.05 * (high - low)
        numbers = np.arange(changed.size)
        for panel, part in zip(panels[:2], parts[:2], strict=True):
            # A line alone would not show a number between two others that are not finite.
            marker = "o" if changed.size <= _FEW else None
            panel.plot(numbers, _finite(part), color="0.35", marker=marker, markersize=4)
            panel.set_ylim(low - room, high + room)
        change = _finite(parts[2])[changed]
        colors = np.where(np.ma.filled(change, 0.0) > 0, _UP, _DOWN)
        panels[2].axhline(0.0, color="0.8", linewidth=0.8)
        panels[2].vlines(numbers[changed], 0.0, change, colors=colors)
        panels[2].scatter(numbers[changed], change, c=colors, s=16, zorder=3)
        panels[2].set_ylim(-1.1 * self.most, 1.1 * self.most)
        for panel, part in zip(panels, parts, strict=True):
            for (name, color, marker, edge), chosen in zip(_OTHERS, _others(part), strict=True):
                if chosen.any():
                    panel.plot(
                        numbers[chosen],
                        np.full(np.count_nonzero(chosen), edge),
                        transform=panel.get_xaxis_transform(),
                        linestyle="none",
                        marker=marker,
                        color=color,
                        markeredgecolor="0.2",
                        clip_on=False,
                        zorder=4,
                        label=name,
                    )
            panel.set_xlim(-0.5, changed.size - 0.5)
            panel.xaxis.get_major_locator().set_params(integer=True)
            if panel.get_legend_handles_labels()[0]:
                panel.legend(fontsize="small")

    def _draw_images(self, parts: list[Any], changed: Any, panels: Any) -> list[Any]:
        height, width = changed.shape
        shape = "equal" if max(height, width) <= 4 * min(height, width) else "auto"
        images = []
        for panel, part in zip(panels, parts, strict=True):
            is_change = part is parts[2]
            values = _finite(part)
            if is_change:
                values = np.ma.masked_where(~changed, values)
                panel.set_facecolor("0.88")
            low, high = (-self.most, self.most) if is_change else self.limits
            colors = "RdBu_r" if is_change else "gray_r"
            look = {"aspect": shape, "interpolation": "nearest"}
            images.append(panel.imshow(values, cmap=colors, vmin=low, vmax=high, **look))
            _add_others(panel, part, look)
            for axis in (panel.xaxis, panel.yaxis):
                axis.get_major_locator().set_params(integer=True)
        rows, columns = np.nonzero(changed)
        if max(height, width) > _LARGE and len(rows) <= _FEW:
            panels[2].scatter(columns, rows, s=70, facecolors="none", edgecolors="tab:orange")
        return images


def _others(values: Any) -> list[Any]:
    """Return where values are NaN, infinite, and negative infinite."""
    return [np.isnan(values), np.isposinf(values), np.isneginf(values)]


def _add_others(panel: Any, values: Any, look: dict[str, Any]) -> None:
    """Draw what is no finite number over an image."""
    found = _others(values)
    codes = np.select(found, [0, 1, 2], -1)
    if (codes < 0).all():
        return
    colors = _matplotlib("colors").ListedColormap([color for _, color, _, _ in _OTHERS])
    panel.imshow(np.ma.masked_less(codes, 0), cmap=colors, vmin=0, vmax=2, **look)


def _add_legend(found: list[Any], owner: Any, **options: Any) -> None:
    """Say which color is which of the numbers that are not finite."""
    patch = _matplotlib("patches").Patch
    handles = [
        patch(facecolor=color, edgecolor="0.2", label=name)
        for (name, color, _, _), is_seen in zip(_OTHERS, found, strict=True)
        if is_seen
    ]
    if handles:
        owner.legend(handles=handles, fontsize="small", **options)


def _add_bars(images: list[Any], grid: Any, dtype: Any) -> None:
    """Add the scale that before and after share, and that of the change, once for all slices."""
    for column, shared in ((1, [0, 1]), (2, [2])):
        image = images[0][column]
        figure = image.axes.figure
        beside = [panel for panel in np.ravel(grid[:, shared]) if panel.figure is figure]
        bar = figure.colorbar(image, ax=beside, shrink=0.8)
        if dtype.kind == "b" and column == 1:
            bar.set_ticks([0, 1], labels=["False", "True"])
