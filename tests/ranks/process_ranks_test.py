#!/usr/bin/env python3
"""Jobs of several processes in which something goes wrong end soon, with the right message and exit status.

  process_ranks_test.py --program faulty_rank --plugin libweft_mpi.so [TEST...]

Exit status 77 where weft was built without MPI.
"""
import argparse
import os
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

UNDER_MPIRUN = Path(__file__).resolve().parent / "under_mpirun"
FAILED = 70  # kRanksFailedStatus
arguments = None


def run(*command, **environment):
    """Exit status, output of all ranks, seconds."""
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=100, env={**os.environ, **environment})
    return done.returncode, done.stdout, time.monotonic() - began


def job(case, ranks, deadline=2):
    return run(UNDER_MPIRUN, arguments.plugin, ranks, arguments.program, case, deadline)


class ProcessRanks(unittest.TestCase):

    def test_an_orderly_job_ends_with_0(self):
        status, output, _ = job("fine", 3)
        self.assertEqual(status, 0, output)
        self.assertNotIn("callback", output)

    def test_a_fact_that_differs_is_told_to_all(self):
        status, output, _ = job("differs", 3)
        self.assertEqual(status, 3, output)
        self.assert_told_to_all(3, r"invalid_argument: the ranks differ: instruction set is avx512 on rank 0 \(.+\) "
                                r"and avx2 on rank 2 \(.+\)", output)

    def test_a_fact_that_is_absent_is_told_to_all(self):
        _, output, _ = job("lacks_a_fact", 2)
        self.assert_told_to_all(2, r".*instruction set is avx512 on rank 0 \(.+\) and \(absent\) on rank 1 \(.+\)",
                                output)

    def test_a_start_that_fails_is_told_to_all(self):
        status, output, _ = job("cannot_load", 3)
        self.assertEqual(status, 3, output)
        self.assert_told_to_all(3, r"not_found: rank 2 \(.+\): no file weights.bin", output)

    def test_a_rank_may_load_longer_than_the_deadline(self):
        status, output, _ = job("loads_slowly", 2, deadline=1)
        self.assertEqual(status, 0, output)

    def test_rank_0_may_be_idle_longer_than_the_deadline(self):
        status, output, _ = job("idles", 2, deadline=1)
        self.assertEqual(status, 0, output)
        used = float(re.search(r"while idle: ([0-9.]+) s", output)[1])
        self.assertLess(used, 0.3, "a follower that waits should sleep nearly all of 2 s")

    def test_ranks_that_hang(self):
        for case in ("sleeps", "stops"):
            with self.subTest(case):
                status, output, seconds = job(case, 3)
                self.assertEqual(status, FAILED, output)
                self.assertRegex(output, r"weft error: rank 0 \(.+\) of 3: nothing heard from rank 2 \(.+\) for 2 s "
                                 r"while gathering parts; all ranks end with status 70")
                self.assertRegex(output, r"callback: rank 0 ")
                self.assertLess(seconds, 10)

    def test_a_leader_that_hangs_between_steps(self):
        status, output, seconds = job("leader_stops", 3)
        self.assertEqual(status, FAILED, output)
        self.assertRegex(output, r"rank [12] \(.+\) of 3: nothing heard from rank 0 \(.+\) for 2 s "
                         r"while waiting for a step")
        self.assertLess(seconds, 10)

    def test_a_rank_that_dies(self):
        status, output, seconds = job("dies", 3, deadline=30)
        self.assertEqual(status, 128 + 9, output)
        self.assertRegex(output, r"rank 2 .*exited on signal 9")  # mpirun says it
        self.assertLess(seconds, 10)

    def test_a_leader_that_exits(self):
        status, _, seconds = job("leader_leaves", 3, deadline=30)
        self.assertNotEqual(status, 0)
        self.assertLess(seconds, 10)

    def test_a_rank_that_leaves_before_the_start(self):
        status, output, seconds = job("leaves", 3, deadline=30)
        self.assertEqual(status, FAILED, output)
        self.assertRegex(output, r"rank 2 \(.+\) of 3: it ends while the other ranks count on it")
        self.assertLess(seconds, 10)

    def test_a_rank_at_another_place_of_the_step(self):
        status, output, _ = job("is_elsewhere", 2)
        self.assertEqual(status, FAILED, output)
        self.assertRegex(output, r"bytes where . were due: it is not at the same place|MPI failed with rank")

    def test_without_a_launcher_there_is_one_process(self):
        self.assertEqual(run(arguments.program, "fine")[:2], (0, "one process by itself\n"))

    def test_the_variable_WEFT_RANKS(self):
        status, output, _ = run(arguments.program, "fine", WEFT_RANKS="off", OMPI_COMM_WORLD_SIZE="2")
        self.assertEqual((status, output), (0, "one process by itself\n"))
        status, output, _ = run(arguments.program, "fine", WEFT_RANKS="many")
        self.assertEqual((status, output), (3, 'invalid_argument: WEFT_RANKS is "many"; it may be off or mpi\n'))

    def test_a_weft_without_MPI_names_the_fix(self):
        status, output, _ = run(arguments.program, "fine", OMPI_COMM_WORLD_SIZE="2", WEFT_MPI_PLUGIN="absent.so")
        self.assertEqual(status, 3, output)
        self.assertRegex(output, "built without MPI .*absent.so.*-DWEFT_MPI=ON.*WEFT_RANKS=off")

    def test_a_library_that_is_no_plugin(self):
        status, output, _ = run(arguments.program, "fine", OMPI_COMM_WORLD_SIZE="2", WEFT_MPI_PLUGIN=str(UNDER_MPIRUN))
        self.assertEqual(status, 3, output)
        self.assertIn("MPI cannot be loaded", output)

    def test_a_launcher_of_another_MPI(self):
        status, output, _ = run(arguments.program, "fine", OMPI_COMM_WORLD_SIZE="2", WEFT_MPI_PLUGIN=arguments.plugin,
                                ASAN_OPTIONS="detect_leaks=0")
        self.assertEqual(status, 3, output)
        self.assertIn("the launcher started 2 processes, but MPI found 1", output)

    def assert_told_to_all(self, ranks, message, output):
        for rank in range(ranks):
            self.assertRegex(output, re.compile(rf"^rank {rank}: {message}$", re.MULTILINE))


def main():
    global arguments
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--plugin", required=True)
    arguments, rest = parser.parse_known_args()
    if not Path(arguments.plugin).exists():
        print("weft was built without MPI")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
