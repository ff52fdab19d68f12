"""Sets how exactly products of float32 numbers are taken, in every program of a job.

XLA may round the factors of a float32 convolution or matrix product before it multiplies: a TPU takes them in bfloat16, an
NVIDIA GPU from Ampere on in TF32, a CPU as they are. Sums, and all that is no product, are float32 everywhere. What must
not depend on the machine (the Haar transform, codebook distances, features and MS-SSIM of evaluations) asks for all bits by
itself, whatever is set here.
"""

import contextlib
from collections.abc import Iterator

import jax

from medjax.errors import UserError

# From the fastest: the machine's choice; 11 bits of a factor or more; a TPU's three bfloat16 passes; all 24 bits.
PRECISIONS = ("default", "tensorfloat32", "high", "highest")


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Has programs that are traced inside, by any thread, multiply so; each is another program, to JAX's caches too.

    Args:
      precision: one of `PRECISIONS`; "default" leaves what JAX_DEFAULT_MATMUL_PRECISION says, if anything.

    Raises:
      UserError: it is none of them.
    """
    if precision not in PRECISIONS:
        raise UserError(f"train.precision is {precision!r}: use {', '.join(PRECISIONS)}")
    before = jax.config.jax_default_matmul_precision
    try:
        if precision != "default":
            # Not jax.default_matmul_precision, which holds for the thread that enters it alone.
            jax.config.update("jax_default_matmul_precision", precision)
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)
