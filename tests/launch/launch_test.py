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


def values(args, option):
    """Of an option that may be repeated."""
    return [after for word, after in zip(args, args[1:]) if word == option]


class Disaggregated(unittest.TestCase):
    """Two servers of each role and the front, under Kubernetes and with Docker Compose."""

    def yaml(self):
        try:
            import yaml
        except ImportError:
            self.skipTest("PyYAML is not installed")
        return yaml

    def kubernetes(self):
        text = (EXAMPLES / "kubernetes/disaggregated.yaml").read_text()
        return {(item["kind"], item["metadata"]["name"]): item for item in self.yaml().safe_load_all(text)}

    def container(self, item):
        (container,) = item["spec"]["template"]["spec"]["containers"]
        return container

    def matches(self, selector, labels):
        return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
            labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))

    def test_the_front_names_every_server(self):
        items = self.kubernetes()
        args = self.container(items["Deployment", "weft-front"])["args"]
        for role in ("context", "generation"):
            servers = items["StatefulSet", f"weft-{role}"]
            own = self.container(servers)["args"]
            self.assertEqual(values(own, "--role"), [role])
            service = items["Service", servers["spec"]["serviceName"]]
            self.assertEqual(service["spec"]["clusterIP"], "None", "each pod has a name of its own")
            names = [f"weft-{role}-{i}.{service['metadata']['name']}" for i in range(servers["spec"]["replicas"])]
            self.assertEqual(values(args, f"--{role}"), [f"http://{name}:8000" for name in names])

    def test_selectors_find_their_pods(self):
        items = self.kubernetes()
        pods = {name: item["spec"]["template"]["metadata"]["labels"] for (kind, name), item in items.items()
                if kind in ("StatefulSet", "Deployment")}
        for (kind, name), item in items.items():
            if kind == "Service":
                found = [pod for pod, labels in pods.items() if self.matches({"matchLabels": item["spec"]["selector"]},
                                                                              labels)]
                self.assertEqual(found, [name])
                ports = {port["name"] for kind in ("StatefulSet", "Deployment") if (kind, name) in items
                         for port in self.container(items[kind, name])["ports"]}
                self.assertLessEqual({port["targetPort"] for port in item["spec"]["ports"]}, ports)
            elif kind != "NetworkPolicy":
                self.assertTrue(self.matches(item["spec"]["selector"], pods[name]), name)
        policy = items["NetworkPolicy", "weft-servers"]["spec"]
        self.assertEqual([pod for pod, labels in pods.items() if self.matches(policy["podSelector"], labels)],
                         ["weft-context", "weft-generation"])
        allowed = {rule["ports"][0]["port"]: [pod for pod, labels in pods.items()
                                              if self.matches(rule["from"][0]["podSelector"], labels)]
                   for rule in policy["ingress"]}
        transfer = values(self.container(items["StatefulSet", "weft-context"])["args"], "--kv-transfer")
        self.assertEqual(allowed, {8000: ["weft-front"], int(transfer[0].split(":")[1]): ["weft-context",
                                                                                          "weft-generation"]})

    def test_secrets_and_probes(self):
        items = self.kubernetes()
        for key in (("StatefulSet", "weft-context"), ("StatefulSet", "weft-generation"), ("Deployment", "weft-front")):
            container = self.container(items[key])
            files = values(container["args"], "--kv-transfer-secret-file") + values(container["args"],
                                                                                     "--transfer-secret-file")
            self.assertEqual(len(files), 1)
            mount = next(m for m in container["volumeMounts"] if files[0].startswith(m["mountPath"] + "/"))
            volume = next(v for v in items[key]["spec"]["template"]["spec"]["volumes"] if v["name"] == mount["name"])
            # What `kubectl create secret generic weft-transfer --from-file=transfer=...` makes.
            self.assertEqual(volume["secret"]["secretName"], "weft-transfer")
            self.assertEqual(Path(files[0]).name, "transfer")
            self.assertEqual(container["readinessProbe"]["httpGet"], {"path": "/ready", "port": "http"})

    def test_compose(self):
        text = (EXAMPLES / "compose/compose.yaml").read_text()
        services = self.yaml().safe_load(text)["services"]
        front = services.pop("front")
        for role in ("context", "generation"):
            names = [name for name, service in services.items() if values(service["command"], "--role") == [role]]
            self.assertEqual(len(names), 2)
            self.assertEqual(values(front["command"], f"--{role}"), [f"http://{name}:8000" for name in names])
        self.assertEqual(len(services), 4)
        for service in services.values():
            self.assertEqual(values(service["command"], "--kv-transfer-secret-file"), ["/run/secrets/transfer"])
            self.assertEqual(service["secrets"], ["transfer"])
            self.assertEqual(service["networks"], ["servers"])
            self.assertNotIn("ports", service, "servers are not published")
        self.assertEqual(values(front["command"], "--transfer-secret-file"), ["/run/secrets/transfer"])
        self.assertEqual(front["secrets"], ["transfer"])

    def test_the_image_holds_what_it_is_started_with(self):
        compose = self.yaml().safe_load((EXAMPLES / "compose/compose.yaml").read_text())
        build = compose["services"]["front"]["build"]
        context = (EXAMPLES / "compose" / build["context"]).resolve()
        self.assertTrue((context / build["dockerfile"]).is_file())
        text = (context / build["dockerfile"]).read_text()
        for script in ("scripts/install-deps", "scripts/build"):
            self.assertIn(script, text)
            self.assertTrue((context / script).is_file())


if __name__ == "__main__":
    unittest.main()
