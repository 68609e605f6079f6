"""Solve the heat equation with its boundary by penalty, guide and edit
====================================================================

The equation ``u_t = u_xx`` for ``0 < x < 1`` with ``u(0, x) = sin(pi x)`` and
``u(t, 0) = u(t, 1) = 0`` has the solution ``exp(-pi**2 t) sin(pi x)``. A network maps each point of
a grid to ``u``. Its loss is the residual of the equation in finite differences (Crank and
Nicolson), which says nothing about the edge: ``t = 0``, ``x = 0`` and ``x = 1``. There are four
ways to bring the edge to its values:

- "penalty": an L2 penalty of fixed weight in the loss, common in physics-informed networks
- "guide": `IndexGuide` of the same weight, whose multipliers `DualAscent` raises: an augmented
  Lagrangian with one multiplier for each point of the edge
- "hard": an edit sets the edge, during training and after; only the equation is trained
- "pinned": the guided network with that edit behind it after training

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/heat_equation.py

.. image:: /../examples/heat_equation.png
   :alt: The error of the solution with its edge by a penalty, a guide, and an edit
"""

# sphinx_gallery_thumbnail_path = "../examples/heat_equation.png"

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure

import kedit
from kedit import sample
from kedit.callbacks import DualAscent
from kedit.layers import Editing, IndexGuide
from kedit.losses import IndexPenalty

POINTS, LAST = 21, 0.3  # on each axis; the last time
TIME, PLACE = np.linspace(0, LAST, POINTS), np.linspace(0, 1, POINTS)
SOLUTION = (np.exp(-(np.pi**2) * TIME)[:, None] * np.sin(np.pi * PLACE)).astype("float32")
EDGE = np.zeros((POINTS, POINTS), bool)
EDGE[0] = EDGE[:, 0] = EDGE[:, -1] = True
WANTED = SOLUTION[EDGE]
# One sample is the whole grid, each point with its coordinates, from -1 to 1.
GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, POINTS)] * 2, indexing="ij"), axis=-1)[None]
GRID = GRID.astype("float32")
PER_EPOCH = 100


def residual(y_true, u):
    """Mean square of what the equation leaves over, between the points in time."""
    dt, dx = LAST / (POINTS - 1), 1 / (POINTS - 1)
    change = (u[:, 1:, 1:-1] - u[:, :-1, 1:-1]) / dt
    curvature = (u[:, :, 2:] - 2 * u[:, :, 1:-1] + u[:, :, :-2]) / dx**2
    return ops.mean((change - (curvature[:, 1:] + curvature[:, :-1]) / 2) ** 2, axis=(1, 2))


def network(seed):
    """The coordinates, and what the network makes of them at each point."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((POINTS, POINTS, 2))
    hidden = keras.layers.Dense(32, activation="tanh")(inputs)
    hidden = keras.layers.Dense(32, activation="tanh")(hidden)
    return inputs, keras.layers.Reshape((POINTS, POINTS))(keras.layers.Dense(1)(hidden))


def train(inputs, outputs, loss, steps, callbacks=()):
    """Train for so many steps, each on the whole grid."""
    model = keras.Model(inputs, outputs)
    schedule = keras.optimizers.schedules.CosineDecay(0.02, steps)
    model.compile(keras.optimizers.Adam(schedule), loss)
    x, nothing = np.repeat(GRID, PER_EPOCH, axis=0), np.zeros((PER_EPOCH, POINTS, POINTS))
    epochs = steps // PER_EPOCH
    model.fit(x, nothing, batch_size=1, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def by_penalty(weight, steps, seed):
    """The edge by a penalty of fixed weight."""
    loss = IndexPenalty(EDGE, WANTED, weight=weight, base_loss=residual)
    return train(*network(seed), loss, steps)


def by_guide(weight, steps, seed):
    """The edge by multipliers; the quadratic penalty is that of `by_penalty`, point by point."""
    penalty = 2 * weight / EDGE.sum()
    guide = IndexGuide(EDGE, WANTED, reduce="mean", penalty=penalty, name="guide")
    inputs, u = network(seed)
    return train(inputs, guide(u), residual, steps, [DualAscent(guide, penalty / 2, every=5)])


def by_edit(steps, seed):
    """The edge by an edit."""
    inputs, u = network(seed)
    return train(inputs, Editing(sample[EDGE].set(WANTED))(u), residual, steps)


def pinned(model):
    """A trained model with an edit behind it."""
    return keras.Model(model.input, Editing(sample[EDGE].set(WANTED))(model.output))


def solve(steps, weight, seed=0):
    """What each way gives: the values on the grid, by name."""
    guided = by_guide(weight, steps, seed)
    models = {
        "penalty, weight 1": by_penalty(1.0, steps, seed),
        f"penalty, weight {weight:g}": by_penalty(weight, steps, seed),
        "guide": guided,
        "hard": by_edit(steps, seed),
        "guide, pinned": pinned(guided),
    }
    return {name: model.predict(GRID, verbose=0)[0] for name, model in models.items()}


def errors(u):
    """The root mean square and the greatest error at the edge, and those inside."""
    miss = np.abs(u - SOLUTION)
    parts = miss[EDGE], miss[~EDGE]
    return [float(f(part)) for part in parts for f in (lambda a: np.sqrt((a**2).mean()), np.max)]


def table(found):
    """The errors against the solution, as text."""
    lines = [f"{'':20}{'edge, rms':>12}{'edge, max':>12}{'inside, rms':>13}{'inside, max':>13}"]
    for name, u in found.items():
        edge, edge_max, inside, inside_max = errors(u)
        lines.append(f"{name:20}{edge:12.1e}{edge_max:12.1e}{inside:13.1e}{inside_max:13.1e}")
    return "\n".join(lines)


def draw(found, path):
    """The error of each way on the grid, in one scale."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for (name, u), axes in zip(found.items(), panels, strict=True):
        error = np.log10(np.maximum(np.abs(u - SOLUTION), 1e-5))
        image = axes.pcolormesh(PLACE, TIME, error, vmin=-5, vmax=-1, cmap="magma")
        axes.set_title(f"{name}\nat the edge {errors(u)[0]:.1e} rms", size=10)
        axes.set_xlabel("place x")
    panels[0].set_ylabel("time t")
    bar = figure.colorbar(image, ax=panels, ticks=range(-5, 0))
    bar.ax.set_yticklabels([f"$10^{{{n}}}$" for n in range(-5, 0)])
    bar.set_label("error of u against the solution")
    figure.savefig(path, dpi=110)


def main(arguments=None):
    """Solve in every way, and say how well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--weight", type=float, default=20.0, help="of penalty and guide")
    options = parser.parse_args(arguments)
    found = solve(options.steps, options.weight)
    print(f"kedit {kedit.__version__} with Keras {keras.__version__} on {keras.backend.backend()}")
    print(f"Error against the solution after {options.steps} steps:")
    print(table(found))
    draw(found, options.out)
    print(f"Picture: {options.out}")
    return found


if __name__ == "__main__":
    main()
