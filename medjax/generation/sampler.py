"""Volumes drawn a batch at a time, in stretches of steps, so that the host can say how far the device is."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.runtime import multihost
from medjax.runtime.mesh import batch_sharding, on_mesh, replicated
from medjax.runtime.programs import jit_on
from medjax.task import Arrays, Batch, Generator

STRETCHES = 20  # of a batch's steps


class CompiledSampler:
    """The compiled programs that draw volumes: begin, any stretch of steps, finish.

    One program takes every stretch, its bounds being arguments, so that where the steps are cut changes no bit.

    Args:
      task: whose volumes.
      mesh: to draw on.
      params, variables: of the model.
      seed: with a volume's number it makes the volume's key.
      indices: [B], which volumes; of the shape of all batches to come.
      told: what the network is told, as the task's `begin` takes it, likewise; {} where it is told nothing.
      start: where sampling starts from, likewise; None: from noise.
      frozen: what the task only reads.
    """

    def __init__(
        self,
        task: Generator,
        mesh: Mesh,
        params: Arrays,
        variables: Arrays,
        seed: int,
        indices: np.ndarray,
        told: Batch,
        start: Batch | None,
        frozen: Arrays,
    ):
        self._steps, self._model, self._frozen = task.steps, (params, variables, frozen), frozen

        def keys(indices: jax.Array) -> jax.Array:
            return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(indices)

        def begin(frozen: Arrays, indices: jax.Array, told: Batch, start: Batch | None) -> Arrays:
            return task.begin(frozen, keys(indices), told, start)

        def advance(model: Arrays, indices: jax.Array, state: Arrays, first: int, end: int) -> Arrays:
            return task.advance(*model, keys(indices), state, first, end)

        def compiled(function: Callable, *arguments: Any, donate: tuple[int, ...] = ()) -> Callable:
            shapes = jax.eval_shape(on_mesh(function, mesh), *arguments)
            whole = mesh.size == 1
            shardings = jax.tree.map(lambda leaf: replicated(mesh) if whole else batch_sharding(mesh, leaf), shapes)
            program = jit_on(mesh, function, out_shardings=shardings, donate_argnums=donate)
            program = program.lower(*arguments).compile()
            multihost.barrier()  # before any of them is run
            return program

        self._begin = compiled(begin, frozen, indices, told, start)
        state, bound = self.begin(indices, told, start), np.int32(0)
        self._advance = compiled(advance, self._model, indices, state, bound, bound, donate=(2,))
        self._finish = compiled(task.finish, frozen, state)

    def of(self, params: Arrays, variables: Arrays) -> "CompiledSampler":
        """The same programs with other parameters, laid on the devices as the first ones were."""
        other = copy.copy(self)
        other._model = (params, variables, self._frozen)
        return other

    def begin(self, indices: np.ndarray, told: Batch, start: Batch | None = None) -> Arrays:
        """The sampler's state before the first step, of the volumes of these numbers, [B]."""
        return self._begin(self._frozen, indices, told, start)

    def advance(self, indices: np.ndarray, state: Arrays, start: int, stop: int) -> Arrays:
        """The state after the steps start, ..., stop - 1, counted as they are taken; `state` is used up."""
        first, end = (np.int32(self._steps - 1 - n) for n in (start, stop))
        return self._advance(self._model, indices, state, first, end)

    def finish(self, state: Arrays) -> jax.Array:
        """The volumes [B, D, H, W, C] in [-1, 1] after the last step."""
        return self._finish(self._frozen, state)

    def __call__(
        self,
        indices: np.ndarray,
        told: Batch,
        start: Batch | None = None,
        on_progress: Callable[[int], None] = lambda steps: None,
        stretches: int = STRETCHES,
    ) -> jax.Array:
        """Draws the volumes of these numbers, [B, D, H, W, C] in [-1, 1].

        Args:
          indices: [B].
          told, start: as for the constructor.
          on_progress: called with the number of steps after each stretch of them.
          stretches: into how many parts the steps are cut.
        """
        state = self.begin(indices, told, start)
        bounds = np.unique(np.linspace(0, self._steps, min(stretches, self._steps) + 1).round().astype(int))
        for done, until in itertools.pairwise(bounds):
            state = jax.block_until_ready(self.advance(indices, state, done, until))
            on_progress(int(until - done))
        return jax.block_until_ready(self.finish(state))
