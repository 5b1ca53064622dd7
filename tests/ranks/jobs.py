"""Runs weft by itself and under mpirun, for the tests of this folder that are programs in Python.

Their command line is  TEST --weft PROGRAM --plugin libweft_mpi.so [TEST...]; status 77, with the reason, where weft was
built without MPI.
"""
import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from pathlib import Path

UNDER_MPIRUN = Path(__file__).resolve().parent / "under_mpirun"
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
arguments = None
folder = None  # for this run's files


def command(ranks, *words, mpirun=()):
    """The words of a command line: weft with `words`, as `ranks` ranks; 0: by itself, without a launcher."""
    words = [str(word) for word in words]
    if ranks == 0:
        return [arguments.weft, *words]
    return [str(UNDER_MPIRUN), arguments.plugin, str(ranks), *mpirun, arguments.weft, *words]


def run(ranks, *words, mpirun=(), timeout=60, **environment):
    """Exit status, standard output, standard error."""
    done = subprocess.run(command(ranks, *words, mpirun=mpirun), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=timeout, env={**os.environ, **environment})
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def write_png(path, width, height, seed):
    """An image of its own for every seed."""
    rows = b"".join(b"\0" + bytes((x * (seed + 3) + y * y * 7 + c * 50 * seed) % 256
                                  for x in range(width) for c in range(3)) for y in range(height))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)),
              (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks))


def slow_tower():
    """The folder of a model without weights whose images take some tenths of a second."""
    to = folder / "slow-tower"
    if to.exists():
        return to
    to.mkdir()
    for file in (GOLDEN / "qwen2.5-vl").glob("*.json"):
        text = json.loads(file.read_text())
        if file.name == "config.json":
            text["vision_config"] |= {"depth": 32, "hidden_size": 128, "intermediate_size": 336}
        if file.name == "preprocessor_config.json":  # small files become 1024 patches
            text |= {"min_pixels": 200704, "max_pixels": 200704}
        (to / file.name).write_text(json.dumps(text))
    return to


def lines_of_weft(text):
    """What weft itself wrote, without the launcher's frames of dashes and what is in them."""
    return [line for line in text.splitlines() if line.startswith("weft")]


def main(description):
    global arguments, folder
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--plugin", required=True)
    arguments, rest = parser.parse_known_args()
    if not Path(arguments.plugin).exists():
        print("weft was built without MPI")
        sys.exit(77)
    if not shutil.which("mpirun"):
        print("mpirun is not installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="weft-ranks-") as name:
        folder = Path(name)
        unittest.main(argv=[sys.argv[0], *rest])
