"""The side of the tests to inject.cc: its control block, and programs that run under it."""
import http.client
import json
import mmap
import os
import re
import socket
import struct
import subprocess
import time
from pathlib import Path

KINDS = {"malloc": 1, "mmap": 2, "open": 3, "read": 4, "write": 5, "thread": 6, "send": 7, "receive": 8}
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
LIMIT = 60  # seconds for an answer: what takes longer hangs, also on a machine with other work


class Injector:
    """As inject.cc's Control: kind, goes_on, at, count, failed, least, last_size, trace."""

    def __init__(self, library, path):
        self.path = Path(path)
        self.path.write_bytes(bytes(4096))
        with open(self.path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "WEFT_FAULTS": str(self.path)}

    def arm(self, kind, at=0, goes_on=False, least=0, trace=False):
        """The at-th call of this kind from now on fails, and with `goes_on` all after it; 0: they are only counted."""
        self.disarm()
        self.page[4:56] = struct.pack("<iqqqqqi4x", goes_on, at, 0, 0, least, 0, trace)
        self.page[0:4] = struct.pack("<i", KINDS[kind])

    def disarm(self):
        self.page[0:4] = bytes(4)

    @property
    def count(self):
        return struct.unpack("<q", self.page[16:24])[0]

    @property
    def failed(self):
        return struct.unpack("<q", self.page[24:32])[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`weft serve`, under the injector or (None) not."""

    def __init__(self, weft, injector, model, options, log):
        self.log_file, self.port = Path(log), free_port()
        if injector:
            injector.disarm()
        words = [weft, "serve", str(GOLDEN / model), "--port", str(self.port), "--threads", "2", *options]
        with open(self.log_file, "ab") as out:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                            env=injector.environment if injector else None)
        end = time.monotonic() + LIMIT
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{words} does not start:\n{self.log()}")
            time.sleep(0.02)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def ready(self):
        try:
            return self.get("/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path):
        return self.call("GET", path, None)

    def call(self, method, path, body, headers=None):
        """(status, text). What goes wrong with the connection is an exception: OSError or HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def died(self, seconds=0.0):
        """The exit status if the server ends within this time; None: it lives."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def gauges(self):
        """Those that say what is going on: zero once nothing is."""
        moving = re.compile(r"weft_kv_cache_used_blocks|weft_num_requests_(running|waiting)|weft_http_body_bytes|"
                            r"weft_kv_transfer_(fetches|leases)")
        found = re.findall(r"^(weft_[a-z_]+)(?:\{[^}]*\})? (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return {name: float(value) for name, value in found if moving.fullmatch(name)}

    def idle_gauges(self):
        """The gauges once they are zero, or as they are after some seconds."""
        end = time.monotonic() + 10
        while any(gauges := self.gauges().values()) and time.monotonic() < end:
            time.sleep(0.02)
        return self.gauges()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def kill(self):
        self.process.kill()
        self.process.wait()
