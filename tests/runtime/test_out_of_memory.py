"""What devices and their libraries say when memory runs out, and one line of it wherever in a job that is."""

import jax
import pytest

from medjax.generation import sampler
from medjax.jobs import train
from medjax.runtime.out_of_memory import explanation, is_out_of_memory
from small_runs import command, launch, write_scans

FULL = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68719476736 bytes.\n\nBufferAssignment OOM Debugging."
)
OF_TRAINING = ("data.batch_size", "train.accumulate", "train.remat=auto", "mesh.depth")
OF_SAMPLING = ("sample.batch_size", "mesh.depth")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FULL, ("a device's memory is not enough", "68719476736 bytes", *OF_TRAINING)),
        ("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory", ("CUDA_ERROR_OUT_OF_MEMORY", *OF_TRAINING)),
        ("INTERNAL: RET_CHECK failure (a.cc:1)\nFailed to allocate request for 2.00GiB (2147483648B)", OF_TRAINING),
        ("UNKNOWN: CUDNN_STATUS_ALLOC_FAILED in a.cc(7)", OF_TRAINING),
        ("INTERNAL: CUBLAS_STATUS_ALLOC_FAILED", OF_TRAINING),
        ("FAILED_PRECONDITION: CUDNN_STATUS_NOT_INITIALIZED", ("nvidia-smi", "XLA_PYTHON_CLIENT_MEM_FRACTION=0.6")),
        ("INTERNAL: CUBLAS_STATUS_NOT_INITIALIZED", ("nvidia-smi",)),
    ],
)
def test_what_is_said_of_it(text, words):
    error = jax.errors.JaxRuntimeError(text)
    assert is_out_of_memory(error)
    line = explanation(error, "train")
    assert "\n" not in line and len(line) < 400
    assert all(word in line for word in words), line


def test_other_errors_are_others():
    for text in ("INVALID_ARGUMENT: shapes", "CUDNN_STATUS_EXECUTION_FAILED", "memory"):
        assert not is_out_of_memory(jax.errors.JaxRuntimeError(text))


class Once:
    """In the place of a function, it goes on as that does and then fails for want of memory."""

    def __init__(self, function, calls: int):
        self.function, self.left = function, calls

    def __call__(self, *arguments, **named):
        if self.left == 0:
            raise jax.errors.JaxRuntimeError(FULL)
        self.left -= 1
        return self.function(*arguments, **named)


def test_in_the_midst_of_training_and_of_sampling(tmp_path, capsys, monkeypatch):
    """In training the checkpoint to go on from is told besides."""
    scans = write_scans(tmp_path / "scans")
    steps = ("--config.train.steps=4", "--config.train.checkpoint_every=1")
    for failing, calls, told in (("put_batch", 3, "step 2"), ("train_step_of", 0, "no checkpoint")):
        with monkeypatch.context() as patch:
            patch.setattr(train, failing, Once(getattr(train, failing), calls))
            status, out, lines = launch(command(scans, tmp_path / failing, *steps), capsys)
        assert (status, out, len(lines)) == (2, "", 1), lines
        assert all(word in lines[0] for word in ("a device's memory is not enough", *OF_TRAINING, told)), lines
    argv = command(scans, tmp_path / "put_batch", "--mode=sample")
    for failing in ("begin", "advance", "finish"):
        with monkeypatch.context() as patch:
            # The first of each compiles what comes after it.
            patch.setattr(sampler.CompiledSampler, failing, Once(None, 0))
            status, out, lines = launch(argv, capsys)
        assert (status, out, len(lines)) == (2, "", 1), lines
        assert all(word in lines[0] for word in ("a device's memory is not enough", *OF_SAMPLING)), lines
