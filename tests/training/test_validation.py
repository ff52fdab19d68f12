"""What validation and previews compute is a function of the volumes and their order alone; what they hold is a microbatch."""

import jax
import numpy as np
import pytest

from data_pipelines.batches import open_dataset
from medjax.builders.steps import optimizer_of, state_shapes, train_step_of, volume_shapes
from medjax.errors import UserError
from medjax.jobs import train
from medjax.runtime.mesh import make_mesh
from medjax.runtime.train_state import state_builder
from medjax.tasks import make_task
from medjax.training.validation import Validation
from medjax.xla.cost import memory
from small_config import small_config

COUNT = 5


def synthetic(**changes):
    return small_config(**{"data.name": "synthetic", "train.eval_volumes": COUNT, **changes})


@pytest.fixture(scope="module")
def parts():
    """A task, its data and a state whose head is not zero."""
    config = synthetic()
    task, dataset = make_task(config), open_dataset(config.data, config.seed)
    state = state_builder(task, optimizer_of(config, task)[1])(
        jax.random.key(0), {"image": np.zeros((1, 16, 16, 16, 1), np.float32)}
    )
    moved = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(1), leaf.shape), state.ema)
    return config, task, dataset, state.replace(ema=moved)


def validation(parts, data, batch_size):
    config, task, dataset, state = parts
    mesh = make_mesh(config.mesh.to_dict() | {"data": data})
    of = Validation(task, dataset, mesh, count=COUNT, batch_size=batch_size)
    return of.losses(state, {}), of.pictures(state, {})


def test_losses_and_pictures_do_not_depend_on_batches_or_devices(parts):
    losses, pictures = validation(parts, data=1, batch_size=4)
    assert losses["val_loss"] > 0
    assert {picture.shape[0] for picture in pictures.values()} == {2 * 128}  # two volumes
    for data, batch_size in ((1, 1), (4, 4)):
        other_losses, other_pictures = validation(parts, data, batch_size)
        assert other_losses.keys() == losses.keys() and other_pictures.keys() == pictures.keys()
        for name in losses:
            np.testing.assert_allclose(other_losses[name], losses[name], rtol=1e-5, err_msg=name)
        for name in pictures:
            np.testing.assert_allclose(other_pictures[name].astype(int), pictures[name], atol=1, err_msg=name)


def test_only_what_is_pictured_is_denoised(parts, monkeypatch):
    config, task, dataset, state = parts
    denoised = []
    previews = type(task).previews

    def counted(self, params, variables, frozen, batch, key):
        denoised.append(len(batch["image"]))
        return previews(self, params, variables, frozen, batch, key)

    monkeypatch.setattr(type(task), "previews", counted)
    for data, batch_size in ((1, 4), (4, 8)):
        mesh = make_mesh(config.mesh.to_dict() | {"data": data})
        Validation(task, dataset, mesh, count=COUNT, batch_size=batch_size).pictures(state, {})
    assert denoised == [1, 4]  # one a data-parallel way, traced once


def test_validation_and_previews_need_no_more_memory_than_the_step_of_many_microbatches(tmp_path, monkeypatch):
    config = synthetic(**{"data.batch_size": 32, "train.accumulate": 8, "train.eval_volumes": 32})
    asked = {}

    class Told(Validation):
        """Stops training when it is asked for, and keeps what it would have run."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            asked["validation"], asked["batch_size"] = self, options["batch_size"]
            raise UserError("seen")

    monkeypatch.setattr(train, "Validation", Told)
    with pytest.raises(UserError, match="seen"):
        train.run(config, tmp_path / "run")

    task, mesh = make_task(config), make_mesh(config.mesh)
    _, optimizer = optimizer_of(config, task)
    batch = volume_shapes((16, 16, 16), 32)
    state = state_shapes(task, optimizer, batch)
    step = memory(train_step_of(config, task, optimizer, state, batch, mesh).lower(state, {}, batch).compile())
    for function, length in (("_validate", asked["batch_size"]), ("_previews", 1)):
        rows = volume_shapes((16, 16, 16), length) | {"row": jax.ShapeDtypeStruct((length,), np.int32)}
        program = getattr(asked["validation"], function).lower(state, {}, rows).compile()
        assert memory(program).temporaries < step.temporaries, function
