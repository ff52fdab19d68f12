"""medjax: 3D medical volumes by diffusion. Every job starts here.

  python launch.py                                                       train the default, brains made from an atlas
  python launch.py --config=configs/folder.py --config.data.root=SCANS --workdir=RUN     train on a folder of NIfTI files
  python launch.py --config=configs/folder.py --config.data.root=SCANS --workdir=RUN     the same again: go on from there
  python launch.py --config=configs/folder.py --workdir=RUN --mode=sample                draw volumes: RUN/samples
  python launch.py --config=configs/brats.py:256,bf16 --config.mesh.depth=2 ...          a published model, another line

--mode picks the job: MODES. The configuration is a file, `:` and words that pick a variant; --config.KEY=VALUE changes
one line of it. Progress goes to stderr; the last line on stdout is one JSON object.
"""

import errno
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

HERE = pathlib.Path(__file__).resolve().parent
MODES = ("train", "sample")

CONFIG = config_flags.DEFINE_config_file("config", str(HERE / "configs" / "atlas.py"), "a file of configs/, and its variant")
WORKDIR = flags.DEFINE_string("workdir", None, "the run's folder; runs/NAME where the config's file is NAME.py")
MODE = flags.DEFINE_enum("mode", "train", MODES, "the job")


def main(argv: Sequence[str]) -> int:
    """Runs one job; returns the exit status: 0, or 2 after one line that says what to change."""
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(__doc__.replace("MODES", ", ".join(MODES)))
        return 0
    # Errors of the user's are raised by many libraries here, and each of them is one line.
    try:
        extra = flags.FLAGS(list(argv))[1:]
        if extra:
            raise flags.Error(f"{extra[0]} is not a flag: see --help")
    except Exception as error:
        return complain(error)

    from data_pipelines.errors import DataError
    from medjax.errors import UserError

    logging.set_verbosity(logging.ERROR)
    job = importlib.import_module(f"medjax.jobs.{MODE.value}")
    config_file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    workdir = pathlib.Path(WORKDIR.value or pathlib.Path("runs") / pathlib.Path(config_file).stem)
    try:
        result = job.run(CONFIG.value, workdir)
    except (DataError, UserError) as error:
        return complain(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return complain(f"no space left on the disk of {error.filename or workdir}: free some, then start again")
    print(json.dumps(result), flush=True)
    return 0


def complain(error: Exception | str) -> int:
    """One line on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"launch.py: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # tf.data needs none of it, and announces it
    sys.exit(main(sys.argv))
