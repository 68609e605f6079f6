"""In two processes of PyTorch, which train together: the weights of one.

`nox -s "distribution(backend='torch')"`.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from _backend import to_numpy
from distributed import (
    BATCH,
    GIVEN,
    SAMPLES,
    WANTED,
    after_one_epoch,
    check_weights,
    made,
    recipe,
)
from keras import ops

from kedit.losses import IndexPenalty

pytestmark = pytest.mark.distribution

COUNT, RATE, EPOCHS = 2, 0.05, 2


def native():
    """A model without kedit."""
    keras.utils.set_random_seed(0)
    x, place = keras.Input((4, 4)), keras.Input((), dtype="int32")
    h = keras.layers.Flatten()(keras.layers.Dense(4, "tanh")(x))
    h = h + 0.1 * ops.cast(place, "float32")[:, None]
    return keras.Model([x, place], keras.layers.Dense(2)(h))


MODELS = {"kedit": made, "native": native}


def train(module, rank, count):
    """Train on this process's part of each batch, by a loop as users of PyTorch write it."""
    import torch

    penalty = IndexPenalty(1, upper=0.25, weight=2.0)
    optimizer = torch.optim.SGD(module.parameters(), RATE)
    for start in [*range(0, SAMPLES, BATCH)] * EPOCHS:
        part = slice(start + rank * BATCH // count, start + (rank + 1) * BATCH // count)
        given = [torch.tensor(array[part]) for array in GIVEN.values()]
        wanted = torch.tensor(WANTED[part])
        optimizer.zero_grad()
        predicted = module(given)
        loss = ((predicted - wanted) ** 2).mean() + penalty(wanted, predicted)
        loss.backward()
        optimizer.step()


def data_parallel(model):
    import torch

    return torch.nn.parallel.DistributedDataParallel(model)


def sharded(model):
    """The weights of each layer split among the processes."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.layers:
        if layer.trainable_variables:
            fully_shard(layer)
    fully_shard(model)
    return model


WRAPPERS = {"data_parallel": data_parallel, "sharded": sharded}


def weights_of(model):
    """The trainable weights as Keras has them, as data."""
    return [to_numpy(variable).tolist() for variable in model.trainable_variables]


def run_one_of_them(name, wrapper, rank, port):
    """What one of the processes does; prints the weights that it ends with."""
    import torch

    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    if name == "recipe":
        os.environ |= {"RANK": rank, "WORLD_SIZE": str(COUNT)}
        given = {"x": torch.tensor(GIVEN["x"]), "y": torch.tensor(WANTED)}
        print("FOUND" + json.dumps(recipe(2, torch=torch, **given)))
        return
    torch.distributed.init_process_group("gloo", rank=int(rank), world_size=COUNT)
    model = MODELS[name]()
    train(WRAPPERS[wrapper](model), int(rank), COUNT)
    found = weights_of(model)
    torch.distributed.destroy_process_group()
    print("FOUND" + json.dumps(found))


def in_processes(name, wrapper):
    """The weights that each process ends with, or what was printed where one failed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, name, wrapper]
    processes = [
        subprocess.Popen(
            [*command, str(rank), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(COUNT)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    if any([process.returncode for process in processes]):
        return "\n".join(said)
    return [json.loads(one.rpartition("FOUND")[2]) for one in said]


def alone(name):
    model = MODELS[name]()
    before = [to_numpy(variable) for variable in model.trainable_variables]
    train(model, 0, 1)
    after = [to_numpy(variable) for variable in model.trainable_variables]
    assert all([(abs(a - b) > 1e-4).any() for a, b in zip(after, before, strict=True)])
    return after


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_learn_what_one_does(name):
    found = in_processes(name, "data_parallel")
    assert isinstance(found, list), found
    for weights in found:
        for value, expected in zip(weights, alone(name), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_the_recipe():
    found = in_processes("recipe", "")
    assert isinstance(found, list), found
    for weights in found:
        check_weights(weights, after_one_epoch())


def test_fully_shard_does_not_train_layers_of_keras_also_without_kedit():
    """Layers keep the tensors that they had. If not, the entry in `docs/limits.md` can go."""
    found = in_processes("native", "sharded")
    assert isinstance(found, list), found
    before = [to_numpy(variable) for variable in native().trainable_variables]
    for weights in found:
        for value, expected in zip(weights, before, strict=True):
            np.testing.assert_array_equal(np.array(value, "float32"), expected)
    assert "doesn't support scalar parameters" in in_processes("kedit", "sharded")


if __name__ == "__main__":
    run_one_of_them(*sys.argv[1:])
