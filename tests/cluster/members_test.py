#!/usr/bin/env python3
"""Servers that join a deployment through etcd and leave it: in order, killed, and while etcd is away.

  members_test.py --weft PROGRAM [TEST...]
"""
import argparse
import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "data" / "golden" / "qwen3"
LEASE = 10  # seconds, of every server
arguments = None
folder = None


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def soon(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


class Etcd:
    def __init__(self):
        self.port, self.peer = free_port(), free_port()
        self.data = tempfile.mkdtemp(dir=folder)
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        client, peer = f"http://{self.address}", f"http://127.0.0.1:{self.peer}"
        with open(Path(self.data) / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", f"{self.data}/store", "--listen-client-urls", client, "--advertise-client-urls",
                 client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
                 f"default={peer}"], stdout=log, stderr=log)
        assert soon(self.answers), (Path(self.data) / "log").read_text()

    def answers(self):
        try:
            return self.call("kv/range", {"key": "YQ=="})
        except OSError:
            return None

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None

    def call(self, path, body):
        request = urllib.request.Request(f"http://{self.address}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def members(self, name="demo"):
        """Keys and values below the deployment's."""
        begin = f"/weft/{name}/servers/"
        coded = [base64.b64encode(key.encode()).decode() for key in (begin, begin[:-1] + "0")]
        found = self.call("kv/range", {"key": coded[0], "range_end": coded[1]}).get("kvs", [])
        return {base64.b64decode(kv["key"]).decode(): json.loads(base64.b64decode(kv["value"])) for kv in found}


class Server:
    def __init__(self, *options):
        self.log_file = folder / f"log-{time.monotonic_ns()}"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [arguments.weft, "serve", str(MODEL), "--port", "0", "--threads", "1", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        found = soon(lambda: re.search(r"at http://\S+:(\d+) ", self.log()) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log()
        self.port = int(found[1])

    def log(self):
        return self.log_file.read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Members(unittest.TestCase):
    def setUp(self):
        self.etcd = Etcd()
        self.addCleanup(self.etcd.stop)

    def url(self, name="demo"):
        return f"etcd://{self.etcd.address}/{name}"

    def test_joins_and_leaves_in_order(self):
        self.etcd.start()
        with Server("--cluster", self.url()) as server:
            self.assertTrue(soon(self.etcd.members))
            own = f"127.0.0.1:{server.port}"
            self.assertEqual(self.etcd.members(), {f"/weft/demo/servers/{own}": {
                "id": own, "url": f"http://{own}", "role": "both"}})
            time.sleep(LEASE + 4)
            self.assertEqual(len(self.etcd.members()), 1, "the lease is renewed")
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(20), 0, server.log())
            self.assertEqual(self.etcd.members(), {})
            self.assertEqual(re.findall(r"cluster state=(\w+)", server.log()), ["joined", "left"], server.log())

    def test_leaves_before_running_answers_are_complete(self):
        self.etcd.start()
        with Server("--cluster", self.url(), "--advertise-url", "http://elsewhere:80/x") as server:
            self.assertTrue(soon(self.etcd.members))
            self.assertEqual(list(self.etcd.members()), ["/weft/demo/servers/elsewhere:80/x"])
            answered = []

            def ask():
                body = {"prompt": "a b c", "max_tokens": 400, "ignore_eos": True, "n": 60, "temperature": 1}
                request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/completions",
                                                 json.dumps(body).encode(), {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answered.append((time.monotonic(), json.load(answer)))

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.3)
            self.assertEqual(answered, [], "the answer takes longer")
            server.process.send_signal(signal.SIGTERM)
            self.assertTrue(soon(lambda: not self.etcd.members(), 5))
            left = time.monotonic()
            asking.join()
            self.assertEqual(len(answered), 1, server.log())
            self.assertGreater(answered[0][0], left)
            self.assertEqual(len(answered[0][1]["choices"]), 60)
            self.assertEqual(server.process.wait(20), 0, server.log())

    def test_killed_servers_are_gone_after_the_lease(self):
        self.etcd.start()
        with Server("--cluster", self.url()) as killed, Server("--cluster", self.url()) as other:
            self.assertTrue(soon(lambda: len(self.etcd.members()) == 2))
            killed.process.kill()
            begin = time.monotonic()
            self.assertTrue(soon(lambda: len(self.etcd.members()) == 1, LEASE + 10))
            self.assertGreater(time.monotonic() - begin, LEASE - 4)
            self.assertEqual([m["id"] for m in self.etcd.members().values()], [f"127.0.0.1:{other.port}"])

    def test_etcd_without_its_data(self):
        self.etcd.start()
        with Server("--cluster", self.url()) as server:
            self.assertTrue(soon(self.etcd.members))
            self.etcd.stop()
            time.sleep(4)
            shutil.rmtree(f"{self.etcd.data}/store")
            self.etcd.start()
            self.assertTrue(soon(self.etcd.members))
            self.assertEqual(server.log().count("state=not_renewed"), 1, server.log())
            self.assertEqual(server.log().count("state=lease_lost"), 1, server.log())

    def test_etcd_that_comes_later(self):
        with Server("--cluster", self.url()) as server:
            self.assertTrue(soon(lambda: "state=not_joined" in server.log()))
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ready", timeout=5) as answer:
                self.assertEqual(answer.status, 200)
            self.etcd.start()
            self.assertTrue(soon(self.etcd.members))
            self.assertEqual(server.log().count("state=not_joined"), 1, server.log())
            # It ends without etcd as well, and soon.
            self.etcd.stop()
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(10), 0, server.log())
            self.assertIn("state=not_left", server.log())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    arguments, rest = parser.parse_known_args()
    if not shutil.which("etcd"):
        print("etcd is not installed (Debian and Ubuntu: etcd-server)")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="weft-cluster-") as name:
        folder = Path(name)
        unittest.main(argv=[sys.argv[0], *rest])
