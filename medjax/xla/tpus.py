"""Describes each generation of TPU, and tells its compiler (libtpu) that none is there."""

import dataclasses

GiB = 2**30

# Read by libtpu when it is loaded. It asks the cloud it expects to be in who it is, logs at length, and takes a lock that
# would keep two plans from running at once; a plan touches no device, so it needs none.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """Describes a generation of TPU; a device is a chip.

    Attributes:
      memory: usable HBM in bytes, as the compiler reports it when a program does not fit; less than the nominal size.
      clock: Hz, derived from the published peak of bfloat16 FLOP/s, which is two a multiplier and cycle.
      link_bytes_per_cycle: bytes that the compiler's scheduler (libtpu 0.0.51) reckons a transfer to the next chip to carry: read
        from its log for transfers of 4 and 64 MiB, which agree.
      options: options of the topology, needed where a device would not be a whole chip otherwise.
    """

    memory: int
    clock: float
    link_bytes_per_cycle: float
    options: tuple[tuple[str, str], ...] = ()


CHIPS = {
    "v4": Chip(int(30.75 * GiB), 275e12 / (2 * 8 * 128**2), 42.67, (("chip_config_name", "megacore"),)),
    "v5e": Chip(int(15.75 * GiB), 197e12 / (2 * 4 * 128**2), 31.10),
    "v5p": Chip(int(95.73 * GiB), 459e12 / (2 * 8 * 128**2), 53.34),
    "v6e": Chip(int(31.24 * GiB), 918e12 / (2 * 16 * 128**2), 53.34),
}
