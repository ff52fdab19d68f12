"""medjax: 3D medical volumes by diffusion. Every job starts here.

  python launch.py                                                       train the default, brains made from an atlas
  python launch.py --config=configs/folder.py --config.data.root=SCANS --workdir=RUN     train on a folder of NIfTI files
  python launch.py --config=configs/folder.py --config.data.root=SCANS --workdir=RUN     the same again: go on from there
  python launch.py --config=configs/folder.py --workdir=RUN --mode=sample                draw volumes: RUN/samples
  python launch.py --config=configs/brats.py:256,bf16 --config.mesh.depth=2 ...          a published model, another line
  python launch.py --config=configs/folder.py --workdir=RUN --mode=evaluate              how good, varied and new they are
  python launch.py --mode=evaluate --real=DIR --generated=DIR                            of anybody's NIfTI files
  python launch.py --config=configs/brats.py:128,bf16 --mode=benchmark                   how fast it is here
  python launch.py --config=configs/brats.py:256,bf16 --mode=plan --topology=v5e:4x4     what a machine would make of it
  python launch.py --config=configs/brats.py --workdir=RUN --mode=import_weights --checkpoint=FILE.pt    weights of PyTorch

--mode picks the job: MODES. The configuration is a file, `:` and words that pick a variant; --config.KEY=VALUE changes
one line of it. Progress goes to stderr; the last line on stdout is one JSON object.
"""

import ast
import errno
import importlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

HERE = pathlib.Path(__file__).resolve().parent
MODES = ("train", "sample", "evaluate", "benchmark", "plan", "prepare", "import_weights", "export_weights", "subbands")
# Flags that only some modes have, passed on to the job.
OPTIONS = {
    "evaluate": ("real", "generated"),
    "benchmark": ("compare", "profile"),
    "plan": ("topology", "meshes"),
    "import_weights": ("checkpoint",),
    "export_weights": ("output",),
}


def main(argv: Sequence[str], own_process: bool = False) -> int:
    """Runs one job; returns the exit status: 0, or 2 after one line that says what to change.

    Args:
      argv: the command line.
      own_process: nothing but this job runs in this process, so how it takes memory may be changed for good.
    """
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(__doc__.replace("MODES", ", ".join(MODES)))
        return 0
    # absl and ml_collections raise many kinds here, for every one of which the user's line is to blame.
    try:
        mode, config, workdir, values = parse(argv)
    except Exception as error:
        return complain(in_one_line(error))

    if config.train.remat == "auto" and mode not in ("train", "benchmark", "plan"):
        config.train.remat = "none"  # without gradients nothing is kept that could be made anew
    if config.train.deterministic:  # read when JAX starts
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

    from data_pipelines.errors import DataError
    from medjax.errors import UserError
    from medjax.runtime import distributed
    from medjax.runtime.host_memory import keep_freed_memory, only_cpus
    from medjax.runtime.kept_programs import keep_programs
    from medjax.runtime.precision import products_in

    logging.set_verbosity(logging.FATAL)  # Orbax logs, with its traceback, what it also raises
    keep_programs()
    if own_process and only_cpus():
        keep_freed_memory()
    job = importlib.import_module(f"medjax.jobs.{mode}")
    try:
        if mode != "plan":  # which is about another machine than this one
            distributed.join(values.coordinator, values.num_processes, values.process_id)
        with products_in(config.train.precision):
            result = job.run(config, workdir, **{name: values[name].value for name in OPTIONS.get(mode, ())})
    except (DataError, UserError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        return 130
    except OSError as error:
        place = error.filename or workdir
        if error.errno == errno.ENOSPC:
            return complain(f"no space left on the disk of {place}: free some, then start again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return complain(f"{place} cannot be written ({error.strerror}): allow it or choose another --workdir")
        raise
    print(json.dumps(result), flush=True)
    return 0


def parse(argv: Sequence[str]) -> tuple[str, ConfigDict, pathlib.Path, flags.FlagValues]:
    """The mode, the configuration and the workdir that the command line asks for, and all its flags."""
    values = flags.FlagValues()
    default = str(HERE / "configs" / "atlas.py")
    config_flags.DEFINE_config_file("config", default, "FILE[:words]", flag_values=values, sys_argv=list(argv))
    flags.DEFINE_string("workdir", None, "runs/NAME where the config is NAME.py", flag_values=values)
    flags.DEFINE_enum("mode", "train", MODES, "the job", flag_values=values)
    flags.DEFINE_string("real", None, "evaluate: a folder of real volumes", flag_values=values)
    flags.DEFINE_string("generated", None, "evaluate: a folder of generated volumes", flag_values=values)
    flags.DEFINE_string("compare", None, "benchmark: the file of an earlier result", flag_values=values)
    flags.DEFINE_string("profile", None, "benchmark: a folder for a trace of the training step", flag_values=values)
    flags.DEFINE_string("topology", None, "plan: v5e:4x4, v4, v5p or v6e likewise, or cpu:8", flag_values=values)
    flags.DEFINE_string("meshes", None, "plan: data=16;data=4,depth=4 ...", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "import_weights: the .pt file to read", flag_values=values)
    flags.DEFINE_string("output", None, "export_weights: the .pt file to write", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where there are several", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "of all hosts together", flag_values=values)
    flags.DEFINE_integer("process_id", None, "0 to num_processes - 1", flag_values=values)
    unknown = values(list(argv))[1:]
    if unknown:
        raise flags.Error(f"{unknown[0]} is not a flag: see --help")
    for mode, names in OPTIONS.items():
        for name in names:
            if values[name].present and values.mode != mode:
                raise flags.Error(f"--{name} is for --mode={mode}, this is --mode={values.mode}: leave it out")
    config_file = config_flags.get_config_filename(values["config"]).partition(":")[0]
    config = values.config
    if not isinstance(config, ConfigDict):  # ml_collections would tell at the first use of it only
        raise flags.Error(f"--config={config_file}: there is no such file")
    workdir = values.workdir or f"runs/{pathlib.Path(config_file).stem}"
    return values.mode, config, pathlib.Path(workdir).expanduser(), values


def in_one_line(error: Exception) -> str:
    """What an error in the flags or the config's file comes to, without the traceback that its message may quote."""
    text = str(error).strip()
    if missing := re.search("No such file or directory: '(.*)'", text):
        return f"--config={missing[1]}: there is no such file"
    if "Traceback" in text:
        text = text.splitlines()[-1].partition("Error: ")[2]
    if isinstance(error, (AttributeError, KeyError)):
        text = "--config has no such key: " + ast.literal_eval(text)
    return " ".join(text.split())


def complain(text: str) -> int:
    """One line on stderr."""
    print(f"launch.py: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # tf.data needs none of it, and announces it
    status = main(sys.argv, own_process=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads of TensorFlow and Orbax that an interruption or a full disk left at work would crash or complain.
    os._exit(status)
