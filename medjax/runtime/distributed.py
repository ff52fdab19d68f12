"""Several processes as one: who they are, and how they find each other."""

import jax


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of this run, if there are any.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: of the run.
      process_id: of this one, 0 to num_processes - 1.
    """
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)
