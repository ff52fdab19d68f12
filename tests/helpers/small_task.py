"""A task small enough to compile in no time: a straight line with a running mean beside it."""

import jax
import jax.numpy as jnp


class Line:
    """loss = mean (w * x + b + noise - 2 x)^2, the noise keyed by row; variables count the microbatches seen."""

    def init(self, key, batch):
        return {"w": jax.random.normal(key, (4,)), "b": jnp.zeros(())}, {"seen": jnp.zeros((), jnp.int32)}

    def gradients(self, params, variables, frozen, batch, key, step):
        def loss_of(params):
            noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (4,)))(batch["row"])
            error = params["w"] * batch["image"] + params["b"] + 0.1 * noise - 2 * batch["image"]
            return jnp.mean(error**2)

        loss, grads = jax.value_and_grad(loss_of)(params)
        return grads, {"seen": variables["seen"] + 1}, {"loss": loss}
