"""Tells which errors mean that memory ran out, of the devices or of the computer, and what to change then."""

DEVICES = "RESOURCE_EXHAUSTED"  # how XLA's errors begin, whether a program or an array did not fit
# What CUDA, its libraries and XLA say of it in errors that begin in other ways.
OF_LIBRARIES = (
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Failed to allocate request for",
)
# And where a library cannot even begin, mostly because another program holds the memory.
NOT_BEGUN = ("CUDNN_STATUS_NOT_INITIALIZED", "CUBLAS_STATUS_NOT_INITIALIZED")
TAKEN = (
    "another program may hold it, as nvidia-smi shows: end that, or leave the GPU's libraries more of it with "
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.6 in the environment"
)

# What takes the most memory in a job, by its name; in the others it is the volumes that are read.
ADVICE = {
    "train": "use a smaller data.batch_size or more train.accumulate, set train.remat=auto, or cut volumes by mesh.depth",
    "sample": "use a smaller sample.batch_size, 0 for as many as fit, or cut volumes by mesh.depth",
    "evaluate": "use a smaller evaluate.batch_size or evaluate.count",
}
ADVICE["benchmark"] = ADVICE["plan"] = ADVICE["train"]
OTHERWISE = "use a smaller data.batch_size, or a machine with more memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether memory ran out, the devices' or the computer's."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in (DEVICES, *OF_LIBRARIES, *NOT_BEGUN))


def explanation(error: BaseException, mode: str) -> str:
    """Says what ran out and what to change, in one line.

    Args:
      error: one that `is_out_of_memory`.
      mode: the job it ended.
    """
    whose = "this computer's memory" if isinstance(error, MemoryError) else "a device's memory"
    said = " ".join(str(error).partition(f"{DEVICES}:")[2].split() or str(error).split())[:120]
    advice = TAKEN if any(sign in str(error) for sign in NOT_BEGUN) else ADVICE.get(mode, OTHERWISE)
    return f"{whose} is not enough for this{f' ({said})' if said else ''}: {advice}"
