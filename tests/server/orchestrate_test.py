#!/usr/bin/env python3
"""`weft orchestrate` with real servers: requests through the front get the lines of `weft batch --model`, whichever
server computes them, also when one of them dies meanwhile.

  orchestrate_test.py --weft PROGRAM --plugin token_lists.so [TEST...]
"""
import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import batch_url_test as base
from batch_url_test import Server, batch, free_port, text_requests, write

MODEL = "llama-3.1"


class Front:
    """A `weft orchestrate`; with `up`, one that has found so many servers up."""

    def __init__(self, *options, up=0):
        self.log_file = base.folder / f"front-{time.monotonic_ns()}"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen([base.arguments.weft, "orchestrate", "--port", "0", *map(str, options)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.url = self.wait(lambda: re.search(r"servers behind (http://127.0.0.1:\d+)", self.log()))[1]
        self.wait(lambda: sum(server["state"] == "up" for server in self.servers()) == up)

    def log(self):
        return self.log_file.read_text()

    def wait(self, condition):
        end = time.monotonic() + 60
        while not (found := condition()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("it does not happen: " + self.log())
            time.sleep(0.05)
        return found

    def servers(self):
        return json.load(urllib.request.urlopen(self.url + "/cluster_info"))["servers"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def ask(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request)


class Lines(unittest.TestCase):
    maxDiff = None
    options = ("--dtype", "float32", "--enable-block-reuse", "off")  # counts of cached tokens depend on the order

    def wanted(self, requests, *options):
        status, lines, log = batch("--model", base.GOLDEN / MODEL, "--threads", 1, "--requests", requests,
                                   *self.options, *options)
        self.assertEqual(status, 0, log)
        return lines

    def test_all_kinds_of_requests(self):
        plugin = ("--logits-processor", base.arguments.plugin, "--seed", "3")
        requests = write("kinds.jsonl", text_requests() + base.bad_lines())
        wanted = self.wanted(requests, *plugin)
        with Server(MODEL, *self.options, *plugin) as a, Server(MODEL, *self.options, *plugin) as b:
            config = base.folder / "front.yaml"
            config.write_text("generation_servers:\n  num_instances: 2\n  urls:\n" +
                              "".join(f"    - {server.url}\n" for server in (a, b)) +
                              "  router: {type: round_robin}\n")
            with Front("--config", config, up=2) as front:
                status, lines, log = batch("--url", front.url, "--requests", requests)
                self.assertEqual(status, 0, log)
                for want, got in zip(wanted.splitlines(), lines.splitlines()):
                    self.assertEqual(want[:3000], got[:3000])
                self.assertTrue(lines == wanted)
                self.assertTrue(all(server["requests"] > 10 for server in front.servers()), "both were used")

    def test_a_server_dies(self):
        rows = [{"prompt": f"{i} and so on", "max_tokens": 60, "temperature": 0.9, "seed": i, "ignore_eos": True}
                for i in range(40)]
        requests = write("dies.jsonl", rows)
        wanted = self.wanted(requests)
        with Server(MODEL, *self.options) as a, Server(MODEL, *self.options) as b:
            with Front("--server", a.url, "--server", b.url, "--health-interval", "0.1", up=2) as front:
                command = subprocess.Popen(
                    [base.arguments.weft, "batch", "--url", front.url, "--requests", requests, "--concurrency", "8"],
                    stdout=subprocess.PIPE, text=True)
                front.wait(lambda: a.process.poll() is not None or front.servers()[0]["requests"] >= 6 and
                           front.servers()[0]["in_flight"] > 0)
                a.process.kill()
                lines, _ = command.communicate(timeout=120)
                self.assertEqual(command.returncode, 0)
                self.assertTrue(lines == wanted)
                self.assertGreater(front.servers()[1]["requests"], 20)
                self.assertEqual([server["state"] for server in front.servers()], ["down", "up"])
                metrics = urllib.request.urlopen(front.url + "/metrics").read().decode()
                self.assertRegex(metrics, r"weft_front_retries_total [1-9]")

    def test_other_models_and_starting_servers(self):
        port = free_port()
        with Server(MODEL) as good, Server("qwen3") as other:
            with Front("--server", good.url, "--generation", f"127.0.0.1:{port}", "--server", other.url,
                       "--health-interval", "0.1", up=1) as front:
                def states():
                    return [server["state"] for server in front.servers()]
                front.wait(lambda: states() == ["down", "up", "differs"])
                with Server(MODEL, port=port):
                    front.wait(lambda: states() == ["up", "up", "differs"])

    def test_the_end(self):
        """SIGTERM lets the running answer come to its end, as a server does."""
        with Server(MODEL) as server, Front("--server", server.url, up=1) as front:
            stream = ask(front.url, "/v1/completions", {"prompt": "x", "max_tokens": 300, "temperature": 0,
                                                        "ignore_eos": True, "stream": True})
            stream.readline()
            front.process.send_signal(signal.SIGTERM)
            front.wait(lambda: "action=drain" in front.log())
            with self.assertRaises(urllib.error.URLError):
                ask(front.url, "/v1/completions", {"prompt": "x"})
            rest = stream.read().decode()
            self.assertEqual(rest.count('"finish_reason":"length"'), 1)
            self.assertTrue(rest.endswith("data: [DONE]\n\n"))
            self.assertEqual(front.process.wait(timeout=30), 0)

    def test_usage(self):
        secret = base.folder / "empty"
        secret.write_text("\n")
        for words, message in (((), "no server that generates is named"),
                               (("--context", "a:1"), "no server that generates is named"),
                               (("--server", "a:1", "--generation", "http://a:1/v1"), "is named twice"),
                               (("--server", "https://a"), "is one of https"),
                               (("--server", "a", "--transfer-secret-file", secret), "is empty"),
                               (("--server", "a", "--transfer-secret-file", "no/such"), "no/such"),
                               (("--server", "a", "--server-api-key", "a\nb"), "no header may hold")):
            with self.subTest(words):
                done = subprocess.run([base.arguments.weft, "orchestrate", *map(str, words)], capture_output=True,
                                      text=True, timeout=30)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(message, done.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--plugin", required=True)
    base.arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="weft-orchestrate-") as name:
        base.folder = Path(name)
        unittest.main(argv=[sys.argv[0], *rest])
