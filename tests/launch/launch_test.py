#!/usr/bin/env python3
"""The examples of launching weft on a cluster: what can be said of them without a cluster.

The batch script is run with stand-ins for Slurm's programs, so that its command line is seen; shellcheck and a YAML
parser are used where they are installed.
"""
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPT = EXAMPLES / "slurm/weft.sbatch"


class Slurm(unittest.TestCase):
    def run_script(self, *words, **variables):
        """Runs the script where srun, mpirun and scontrol print what they were given."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("srun", "mpirun", "scontrol"):
                program = Path(folder) / name
                program.write_text(f'#!/bin/sh\necho {name} "$@"\n')
                program.chmod(0o755)
            environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_NTASKS": "8",
                           "SLURM_JOB_NODELIST": "n[1-4]", "WEFT_MODEL": "/models/m", **variables}
            return subprocess.run(["bash", SCRIPT, *words], env=environment, capture_output=True, text=True)

    def test_syntax(self):
        subprocess.run(["bash", "-n", SCRIPT], check=True)

    @unittest.skipUnless(shutil.which("shellcheck"), "shellcheck is not installed")
    def test_shellcheck(self):
        subprocess.run(["shellcheck", SCRIPT], check=True)

    def test_one_process_for_each_task(self):
        done = self.run_script("--api-key", "k")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout.splitlines()[-1], r"^srun --mpi=pmix .* weft serve /models/m --tp-size 8 "
                         r"--ep-size 8 --pp-size 1 --host 0.0.0.0 --port 8000 --api-key k$")

    def test_open_mpi(self):
        done = self.run_script(WEFT_LAUNCHER="mpirun", WEFT_TP="2", WEFT_PP="4")
        self.assertRegex(done.stdout.splitlines()[-1], r"^mpirun -n 8 .* --tp-size 2 --ep-size 2 --pp-size 4 ")

    def test_ranks_must_be_tasks(self):
        done = self.run_script(WEFT_TP="4")
        self.assertEqual(done.returncode, 2)
        self.assertIn("is 4, but the job has 8 tasks", done.stderr)


class Kubernetes(unittest.TestCase):
    def load(self, name):
        try:
            import yaml
        except ImportError:
            self.skipTest("PyYAML is not installed")
        return yaml.safe_load((EXAMPLES / "kubernetes" / name).read_text())

    def test_ranks_are_slots(self):
        job = self.load("mpijob.yaml")["spec"]
        args = job["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["args"]
        value = lambda option: int(args[args.index(option) + 1])
        ranks = job["slotsPerWorker"] * job["mpiReplicaSpecs"]["Worker"]["replicas"]
        self.assertEqual(value("-n"), ranks)
        self.assertEqual(value("--tp-size"), ranks)

    def test_the_service_finds_rank_0(self):
        job, service = self.load("mpijob.yaml"), self.load("service.yaml")
        self.assertEqual(service["spec"]["selector"]["training.kubeflow.org/job-name"], job["metadata"]["name"])
        worker = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
        launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        port = next(p for p in worker["ports"] if p["name"] == service["spec"]["ports"][0]["targetPort"])
        self.assertIn(str(port["containerPort"]), launcher["args"])


if __name__ == "__main__":
    unittest.main()
