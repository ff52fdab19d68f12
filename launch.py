"""medjax: 3D medical volumes by diffusion. Every job starts here.

  python launch.py                                                       train the default, brains made from an atlas
  python launch.py --config=configs/folder.py --config.data.root=SCANS --workdir=RUN     train on a folder of NIfTI files
  python launch.py --workdir=RUN                                                         go on from there
  python launch.py --workdir=RUN --mode=sample                                           draw volumes: RUN/samples
  python launch.py --config=configs/brats.py:256,bf16 --config.mesh.depth=2 ...          a published model, another line
  python launch.py --workdir=RUN --mode=evaluate                                         how good, varied and new they are
  python launch.py --mode=evaluate --real=DIR --generated=DIR                            of anybody's NIfTI files
  python launch.py --config=configs/brats.py:128,bf16 --mode=benchmark                   how fast it is here
  python launch.py --config=configs/brats.py:256,bf16 --mode=plan --topology=v5e:4x4     what a machine would make of it
  python launch.py --config=configs/brats.py --workdir=RUN --mode=import_weights --checkpoint=FILE.pt    weights of PyTorch

--mode picks the job: MODES. The configuration is a file, `:` and words that pick a variant, or without --config the one that
RUN has recorded; --config.KEY=VALUE changes one line of either. Progress goes to stderr; the last line on stdout is one JSON
object.
"""

import ast
import contextlib
import errno
import importlib
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from medjax.errors import UserError

HERE = pathlib.Path(__file__).resolve().parent
MODES = ("train", "sample", "evaluate", "benchmark", "plan", "prepare", "import_weights", "export_weights", "subbands")
PARTS = (
    "data",
    "model",
    "diffusion",
    "optimizer",
    "train",
    "mesh",
    "sample",
    "evaluate",
    "benchmark",
)  # of every configuration
# Flags that only some modes have, passed on to the job.
OPTIONS = {
    "evaluate": ("real", "generated"),
    "benchmark": ("compare", "profile"),
    "plan": ("topology", "meshes", "compiler"),
    "import_weights": ("checkpoint", "part"),
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
    from medjax.console import NO_DRIVER, without_lines

    with without_lines(NO_DRIVER):
        importlib.import_module("jax")
    # absl, ml_collections and the config's file raise many kinds here, for every one of which the user's line is to blame.
    from medjax.builders.config_numbers import check_numbers

    try:
        mode, config, workdir, values = parse(argv)
        check_numbers(config)
    except (Exception, SystemExit) as error:
        return complain(in_one_line(error, value_of(argv, "config").partition(":")[0]))

    if config.train.deterministic:  # read when JAX starts
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

    from data_pipelines.errors import DataError
    from medjax.host_memory import keep_freed_memory, only_cpus
    from medjax.platforms import look_for_what_is_there
    from medjax.runtime import distributed
    from medjax.runtime.compilation_cache import keep_programs
    from medjax.runtime.out_of_memory import explanation, is_out_of_memory
    from medjax.runtime.precision import products_in
    from medjax.runtime.programs import unknown_option

    logging.set_verbosity(logging.FATAL)  # Orbax logs, with its traceback, what it also raises
    keep_programs()
    look_for_what_is_there()
    if own_process and only_cpus():
        keep_freed_memory()
    job = importlib.import_module(f"medjax.jobs.{mode}")
    try:
        if mode != "plan":  # which is about another machine than this one
            distributed.join(values.coordinator, values.num_processes, values.process_id)
        with products_in(config.train.precision):
            result = job.run(config, workdir, **{name: values[name].value for name in OPTIONS.get(mode, ())})
    except (DataError, UserError) as error:
        return complain(str(error), error)
    except KeyboardInterrupt as error:
        complain("interrupted; the same command goes on from here", error)
        return 130
    except OSError as error:
        place = error.filename or workdir
        if error.errno == errno.ENOSPC:
            return complain(f"no space left on the disk of {place}: free some, then start again", error)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return complain(
                f"{place} cannot be written ({error.strerror}): allow it or choose another --workdir", error
            )
        raise
    except Exception as error:
        if is_out_of_memory(error):
            return complain(explanation(error, mode), error)
        if unknown := unknown_option(error):
            return complain(
                f"train.xla: this version of XLA has no option {unknown}; correct it or leave it out", error
            )
        raise
    print(json.dumps(result), flush=True)
    return 0


def parse(argv: Sequence[str]) -> tuple[str, ConfigDict, pathlib.Path, flags.FlagValues]:
    """The mode, the configuration and the workdir that the command line asks for, and all its flags."""
    from medjax.builders.overrides import spell_out

    config, config_file = load(argv)
    arguments, unset = spell_out(without(argv[1:], "config"), config)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=[argv[0], *arguments])
    flags.DEFINE_string("workdir", None, "runs/NAME where the config is NAME.py", flag_values=values)
    flags.DEFINE_enum("mode", "train", MODES, "the job", flag_values=values)
    flags.DEFINE_string("real", None, "evaluate: a folder of real volumes", flag_values=values)
    flags.DEFINE_string("generated", None, "evaluate: a folder of generated volumes", flag_values=values)
    flags.DEFINE_string("compare", None, "benchmark: the file of an earlier result", flag_values=values)
    flags.DEFINE_string("profile", None, "benchmark: a folder for a trace of the training step", flag_values=values)
    flags.DEFINE_string("topology", None, "plan: v5e:4x4, 2*v5e:4x4, h100:8, h100:4x8, cpu:8 ...", flag_values=values)
    flags.DEFINE_string("meshes", None, "plan: data=16;data=4,depth=4 ...", flag_values=values)
    flags.DEFINE_string("compiler", None, "plan: the folder of the machine's compiler", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "import_weights: the .pt or .safetensors file to read", flag_values=values)
    flags.DEFINE_string("part", None, "import_weights: which of its state dicts, as ema", flag_values=values)
    flags.DEFINE_string("output", None, "export_weights: the .pt or .safetensors file to write", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where there are several", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "of all hosts together", flag_values=values)
    flags.DEFINE_integer("process_id", None, "0 to num_processes - 1", flag_values=values)
    unknown = values([argv[0], *arguments])[1:]
    if unknown:
        raise flags.Error(f"{unknown[0]} is not a flag: see --help")
    for mode, names in OPTIONS.items():
        for name in names:
            if values[name].present and values.mode != mode:
                raise flags.Error(f"--{name} is for --mode={mode}, this is --mode={values.mode}: leave it out")
    config = values.config
    config.update_from_flattened_dict(dict.fromkeys(unset))
    workdir = values.workdir or f"runs/{pathlib.Path(config_file).stem}"
    return values.mode, config, pathlib.Path(workdir).expanduser(), values


def load(argv: Sequence[str]) -> tuple[ConfigDict, str]:
    """The configuration before any override, and its file: what --config names, or what the run in --workdir has recorded.

    Without either it is the default, with which a new run may begin.
    """
    named, workdir = value_of(argv, "config"), value_of(argv, "workdir")
    recorded = pathlib.Path(workdir).expanduser() / "config.json"
    if not named and workdir and recorded.exists():
        return config_of_run(recorded), str(recorded)
    values, named = flags.FlagValues(), named or str(HERE / "configs" / "atlas.py")
    config_flags.DEFINE_config_file("config", named, "FILE[:words]", flag_values=values, sys_argv=[argv[0]])
    values([argv[0]])
    config, config_file = values.config, named.partition(":")[0]
    if not pathlib.Path(config_file).exists():  # ml_collections would tell at the first use of it only
        raise flags.Error(f"--config={config_file}: there is no such file")
    base = "begin with base() of configs/common.py"
    if not isinstance(config, ConfigDict):
        getattr(config, "task", None)  # raises what ml_collections has kept for the first use
        raise flags.Error(f"--config={config_file} makes no ConfigDict: {base}")
    for part in PARTS:
        if not isinstance(config.get(part), ConfigDict):
            raise flags.Error(f"--config={config_file} has no part {part!r}: {base}")
    return config, config_file


def config_of_run(path: pathlib.Path) -> ConfigDict:
    """The configuration that a run has recorded, its values in the types they were given in."""
    from configs import known_keys
    from medjax.runtime.workdir import FIXED_KEYS, fill, read_config, read_json

    known = read_json(path)
    advice = "restore it, give --config or choose another --workdir"
    for part in (*FIXED_KEYS, "data"):
        if part not in known:
            raise UserError(f"{path} is damaged (it has no {part!r}): {advice}")
    network = known["model"].get("network") if isinstance(known["model"], dict) else None
    try:
        config = known_keys.keys_of_run(known["task"], network)
    except (KeyError, TypeError):
        raise UserError(f"{path} is damaged (task is {str(known['task'])[:60]!r}): {advice}") from None
    fill(config, read_config(path, config.to_dict()))
    return config


def value_of(argv: Sequence[str], flag: str) -> str:
    """The value that the last --FLAG has; empty if it is not given."""
    found = ""
    for n, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            found = value if equals else "".join(argv[n + 1 : n + 2])
    return found


def without(arguments: Sequence[str], flag: str) -> list[str]:
    """The arguments without a flag and its values."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not (argument.startswith("-") and name == flag):
            kept.append(argument)
        elif not equals:
            next(rest, None)
    return kept


def in_one_line(error: BaseException, config_file: str) -> str:
    """Puts an error in the flags or the config's file into one line, without the traceback that its message may quote.

    Args:
      error: as it was raised; ml_collections raises some kinds anew, and puts the traceback of the first into the message.
      config_file: the file that --config names.
    """
    first = error
    while "Traceback" in str(first) and first.__context__:
        first = first.__context__
    text = " ".join(str(first).split())
    missing = re.search("No such file or directory: '(.*)'", text)
    if missing and (not config_file or missing[1] == config_file):
        return f"--config={missing[1]}: there is no such file"
    if text.startswith("--config") or isinstance(error, UserError):  # said by the file itself, or by us
        return text
    if late := re.search(
        r"Failed loading config file .*(\[Errno.*)", text
    ):  # kept for the first use of the configuration
        return f"--config={config_file} cannot be used ({late[1][:200]}): correct that file"
    if config_file and comes_from(first, config_file):
        return f"--config={config_file} cannot be used ({type(first).__name__}: {text[:200]}): correct that file"
    if isinstance(first, (AttributeError, KeyError)):
        with contextlib.suppress(SyntaxError, ValueError):  # most are quoted texts
            text = ast.literal_eval(text)
        text = "--config has no such key: " + " ".join(text.split())
    return text


def comes_from(error: BaseException, config_file: str) -> bool:
    """Whether it was raised while the file was read or run."""
    frames = {pathlib.Path(frame.filename).resolve() for frame in traceback.extract_tb(error.__traceback__)}
    of_file = isinstance(error, SyntaxError) or "has no attribute 'get_config'" in str(error)
    return of_file or pathlib.Path(config_file).resolve() in frames


def complain(text: str, error: BaseException | None = None) -> int:
    """One line on stderr, with what has been remarked on the error it tells of."""
    print(f"launch.py: {'; '.join([text, *getattr(error, '__notes__', ())])}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # tf.data needs none of it, and announces it
    status = main(sys.argv, own_process=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads of TensorFlow and Orbax that an interruption or a full disk left at work would crash or complain.
    os._exit(status)
