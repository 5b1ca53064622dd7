#!/usr/bin/env python3
"""Mixed clients against real servers for hours: nothing is lost, nothing grows, and a good client does not notice.

  soak.py --weft PROGRAM --hours H [--log FILE] [--ordinary N] [--hostile N]

Two servers of small models of the tree: one of text, with speculation, one that takes pictures. First the good client
alone; then all kinds of clients at once (clients.py), in rounds, and a pause behind each of them. Exit status 1 if any
of these does not hold:

  - in every pause nothing runs or waits, no block of the cache is in use, and no connection is open;
  - no more descriptors and threads than in the first pause, but for a few;
  - resident memory is never above --rss-most MB; and in a run of half an hour or more, by least squares over its second
    half, it grows by no more than --rss-slope MB an hour (before that caches fill);
  - the good client's first token comes, at the 99th percentile, within 3 times what it takes alone, or --first-floor;
  - every status is one that a server gives to what it cannot or will not do; 429 and 503 say when to come again;
  - answers that depend on the request alone are the same bits each time;
  - both servers end with status 0 when they are asked to.
"""
import argparse
import collections
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import clients
from server import Server

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
ROUND = 300  # seconds between pauses, at most


class Log:
    def __init__(self, path):
        self.file = open(path, "a") if path else None

    def __call__(self, text):
        print(text, flush=True)
        if self.file:
            print(text, file=self.file, flush=True)


class Soak:
    def __init__(self, options):
        self.options, self.log = options, Log(options.log)
        self.folder = tempfile.mkdtemp(prefix="weft-soak-")
        self.text = Server(options.weft, GOLDEN / "llama-3.1", f"{self.folder}/text.log", "--max-seq-len", "512",
                           "--speculative-config", "ngram")
        self.image = Server(options.weft, GOLDEN / "qwen2-vl", f"{self.folder}/image.log", "--max-seq-len", "512")
        self.servers = {"text": self.text, "image": self.image}
        self.world = clients.World(self.text.port, self.image.port)
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.counts, self.first, self.faults = collections.Counter(), [], []
        self.memory = {name: [] for name in self.servers}  # (seconds, MB)

    def fault(self, text):
        with self.lock:
            self.faults.append(text)
        self.log(f"FAULT {text}")

    def visit(self, client):
        """One visit; what comes of it is counted."""
        try:
            result = client(self.world)
            if client is clients.good:
                self.first.append(result)
                result = "200"
            with self.lock:
                self.counts[f"{client.__name__} {result}"] += 1
        except (AssertionError, OSError, ValueError, KeyError) as problem:
            # A client that leaves and is left is nothing; the others wait for their answer.
            if isinstance(problem, OSError) and client in (clients.vanishing, clients.slow_reader):
                return
            self.fault(f"{client.__name__}: {type(problem).__name__} {problem}")

    def visitor(self, kinds, pause):
        while not self.stopping.is_set():
            self.visit(random.choice(kinds))
            self.stopping.wait(pause)

    def run_round(self, seconds):
        self.stopping.clear()
        threads = [threading.Thread(target=self.visitor, args=args) for args in
                   [([clients.good], 0.1)] + [(clients.ORDINARY, 0.01)] * self.options.ordinary +
                   [(clients.HOSTILE, 0.02)] * self.options.hostile]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and all(server.alive() for server in self.servers.values()):
            time.sleep(min(self.options.sample, max(0, end - time.monotonic())))
            self.sample()
        self.stopping.set()
        for thread in threads:
            thread.join(180)
        if any(thread.is_alive() for thread in threads):
            self.fault("a client waits for an answer for three minutes")

    def sample(self):
        row = []
        for name, server in self.servers.items():
            if not server.alive():
                return self.fault(f"the {name} server has ended; its log is in {self.folder}")
            self.memory[name].append((time.monotonic(), server.rss_mb()))
            row.append(f"{server.rss_mb():8.1f} {server.descriptors():4} {server.threads():4}")
        if time.monotonic() >= self.next_row:
            self.next_row += 60
            latest = sorted(self.first[-200:]) or [0]
            self.log(f"{(time.monotonic() - self.begin) / 60:7.1f} | {' | '.join(row)} | {sum(self.counts.values()):9}"
                     f" | {1000 * latest[len(latest) // 2]:7.1f} {1000 * latest[-1]:8.1f} | {len(self.faults)}")

    def pause(self):
        """All gauges return. What is open and running then, by server."""
        seen = {}
        for name, server in self.servers.items():
            if not server.alive():
                return {}
            end, metrics = time.monotonic() + 90, {}
            while time.monotonic() < end:
                metrics = server.metrics()
                # The connection that asks is one.
                if (metrics["num_requests_running"] + metrics["num_requests_waiting"] +
                        metrics["kv_cache_used_blocks"] == 0 and metrics["http_connections"] <= 1):
                    break
                time.sleep(0.2)
            else:
                self.fault(f"the {name} server does not come to rest: " + ", ".join(
                    f"{key} {metrics[key]:g}" for key in ("num_requests_running", "num_requests_waiting",
                                                          "kv_cache_used_blocks", "http_connections")))
            seen[name] = (server.descriptors(), server.threads())
        return seen

    def run(self):
        for _ in range(20):
            self.visit(clients.good)  # the first requests find nothing in caches
        self.first.clear()
        for _ in range(self.options.quiet):
            self.visit(clients.good)
        quiet = percentile(self.first, 0.99)
        self.log(f"the good client alone: first token {1000 * percentile(self.first, 0.5):.1f} ms, "
                 f"p99 {1000 * quiet:.1f} ms")
        self.log("minutes | text: MB, descriptors, threads | image: the same | visits | first token of the good client:"
                 " ms, worst of 200 | faults")
        self.first.clear()
        self.begin = self.next_row = time.monotonic()
        end, first_pause, last_pause = self.begin + 3600 * self.options.hours, None, {}
        while time.monotonic() < end and all(server.alive() for server in self.servers.values()):
            self.run_round(min(ROUND, max(1, end - time.monotonic()), 1200 * self.options.hours))
            last_pause = self.pause()
            first_pause = first_pause or last_pause
        self.judge(quiet, first_pause or {}, last_pause)
        return self.report()

    def judge(self, quiet, first_pause, last_pause):
        for name, seen in last_pause.items():
            for what, before, after in zip(("descriptors", "threads"), first_pause[name], seen):
                if after > before + 4:
                    self.fault(f"the {name} server has {after} {what}; in the first pause it had {before}")
        for name, points in self.memory.items():
            late = points[len(points) // 2:]
            if len(late) < 4:
                continue
            slope = least_squares(late)  # MB a second
            self.log(f"{name}: memory {late[0][1]:.1f} to {late[-1][1]:.1f} MB in the second half, by least squares "
                     f"{3600 * slope:+.1f} MB an hour")
            most = max(megabytes for _, megabytes in points)
            if most > self.options.rss_most:
                self.fault(f"the {name} server has taken {most:.0f} MB")
            if self.options.hours >= 0.5 and 3600 * slope > self.options.rss_slope:
                self.fault(f"the {name} server grows by {3600 * slope:.1f} MB an hour")
        p99 = percentile(self.first, 0.99)
        self.log(f"the good client among the others: {len(self.first)} visits, first token "
                 f"{1000 * percentile(self.first, 0.5):.1f} ms, p99 {1000 * p99:.1f} ms")
        if p99 > max(3 * quiet, self.options.first_floor):
            self.fault(f"the good client's first token takes {1000 * p99:.1f} ms at the 99th percentile; alone it took "
                       f"{1000 * quiet:.1f} ms")
        for name, server in self.servers.items():
            status = server.stop()
            if status != 0:
                self.fault(f"the {name} server ended with {status}")

    def report(self):
        for what, count in sorted(self.counts.items()):
            self.log(f"{count:9} {what}")
        self.log(f"{sum(self.counts.values())} visits, {len(self.faults)} faults; the servers' logs: {self.folder}")
        return 1 if self.faults or not self.first else 0


def percentile(values, share):
    values = sorted(values) or [0]
    return values[min(len(values) - 1, int(len(values) * share))]


def least_squares(points):
    """The slope of the line through (x, y)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--log")
    parser.add_argument("--ordinary", type=int, default=4, help="ordinary clients at once")
    parser.add_argument("--hostile", type=int, default=3, help="hostile clients at once")
    parser.add_argument("--quiet", type=int, default=100, help="visits of the good client alone, to compare with")
    parser.add_argument("--sample", type=float, default=5, help="seconds between two looks at the processes")
    parser.add_argument("--rss-slope", type=float, default=32, help="MB an hour")
    parser.add_argument("--rss-most", type=float, default=1024, help="MB")
    parser.add_argument("--first-floor", type=float, default=0.5,
                        help="seconds to the first token that are always good enough: clients and servers share cores")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    random.seed(options.seed if options.seed is not None else os.getpid())
    soak = Soak(options)
    try:
        return soak.run()
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        for server in soak.servers.values():
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
