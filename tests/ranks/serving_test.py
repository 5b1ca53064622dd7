#!/usr/bin/env python3
"""`weft serve` under mpirun: it serves and ends in good order, and when ranks are lost every client hears of it soon.

  serving_test.py --weft PROGRAM --plugin libweft_mpi.so [TEST...]
"""
import base64
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
import unittest
from pathlib import Path

import jobs

LLAMA = jobs.GOLDEN / "llama-3.1"
LOST = 70
SOON = 10  # seconds


class Server:
    """A job of `weft serve`, which is ready."""

    def __init__(self, *options, ranks=2, mpirun=(), model=LLAMA):
        self.log_file = jobs.folder / f"log-{time.monotonic_ns()}"
        with open(self.log_file, "wb") as log:
            self.launcher = subprocess.Popen(
                jobs.command(ranks, "serve", model, "--port", 0, "--threads", 1, "--tp-size", ranks, *options,
                             mpirun=mpirun), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        line = self.wait_for(r"weft: serving \S+ at http://127.0.0.1:(\d+)")
        self.port = int(line[1])
        self.pids = self.pids_of_ranks()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.launcher.kill()
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.launcher.wait()

    def log(self):
        return self.log_file.read_text(errors="replace")

    def wait_for(self, pattern, seconds=40):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := re.search(pattern, self.log()):
                return found
            if self.launcher.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} in the log:\n{self.log()}")

    def pids_of_ranks(self):
        """In the order of the ranks: with `plm isolated` they are the launcher's own children."""
        ranks = {}
        for pid in map(int, Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children").read_text().split()):
            if found := re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", Path(f"/proc/{pid}/environ").read_bytes()):
                ranks[int(found[1])] = pid
        return [ranks[rank] for rank in sorted(ranks)]

    def ask(self, path, body=None):
        """Status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if text.startswith("{") else text
        finally:
            connection.close()

    def metric(self, name):
        return float(re.search(rf"^{name} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)[1])

    def ends(self, seconds=SOON):
        """The launcher's exit status."""
        return self.launcher.wait(timeout=seconds)


class Client(threading.Thread):
    """One request. `outcome`: "whole", "status N", "error event", "closed" or, if none of these, "hangs"."""

    def __init__(self, server, **body):
        super().__init__(daemon=True)
        self.server, self.body = server, {"prompt": "The sky is", "ignore_eos": True, **body}
        self.outcome, self.text, self.message = "hangs", "", ""
        self.began = threading.Event()  # the first token of a stream has come
        self.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("POST", "/v1/completions", json.dumps(self.body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if self.body.get("stream"):
                self.read_stream(response)
            else:
                answer = json.loads(response.read())
                self.outcome = "whole" if response.status == 200 else f"status {response.status}"
                self.message = answer.get("error", {}).get("message", "")
        except (OSError, http.client.HTTPException):
            self.outcome = "closed"
        finally:
            connection.close()

    def read_stream(self, response):
        if response.status != 200:
            self.outcome, self.message = f"status {response.status}", response.read().decode()
            return
        error = False
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                self.outcome = "error event" if error else "whole"
                return
            event = json.loads(line[6:])
            if "error" in event:
                error, self.message = True, event["error"]["message"]
            else:
                self.text += "".join(choice["text"] for choice in event["choices"])
                self.began.set()
        self.outcome = "closed"


def chat_about(*seeds):
    """The body of a chat about an image for each seed."""
    content = [{"type": "text", "text": "What is this?"}]
    for seed in seeds:
        file = jobs.folder / "asked.png"
        jobs.write_png(file, 40, 30, seed)
        url = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 3, "ignore_eos": True,
            "temperature": 0, "seed": 1}


class Serving(unittest.TestCase):

    def test_answers(self):
        with Server() as server:
            self.assertEqual(server.ask("/health"), (200, {"status": "ok"}))
            self.assertEqual(server.ask("/ready"), (200, {"status": "ready"}))
            body = {"prompt": "The sky is", "max_tokens": 40, "temperature": 0.8, "seed": 5}
            status, whole = server.ask("/v1/completions", body)
            self.assertEqual(status, 200)
            stream = Client(server, **body, stream=True, **{"ignore_eos": False})
            stream.join(30)
            self.assertEqual((stream.outcome, stream.text), ("whole", whole["choices"][0]["text"]))

    def test_a_client_that_leaves(self):
        with Server() as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request("POST", "/v1/completions", json.dumps(
                {"prompt": "The sky is", "max_tokens": 4000, "ignore_eos": True, "stream": True}))
            response = connection.getresponse()
            response.readline()
            response.close()
            connection.close()
            end = time.monotonic() + SOON
            while server.metric("weft_requests_cancelled_total") != 1:
                self.assertLess(time.monotonic(), end, server.ask("/metrics")[1])
                time.sleep(0.1)
            self.assertEqual(server.ask("/v1/completions", {"prompt": "a", "max_tokens": 2})[0], 200)

    # ---- Images

    def image_server(self, *options, **how):
        return Server("--load-format", "dummy", *options, model=jobs.slow_tower(), **how)

    def images_of(self, server, process):
        return server.metric(r'weft_process_images_encoded_total\{process="%d"\}' % process)

    def test_processes_share_images_beside_a_stream(self):
        for ranks in (2, 4):
            with self.subTest(ranks), self.image_server(ranks=ranks) as server:
                stream = Client(server, max_tokens=3000, stream=True)
                self.assertTrue(stream.began.wait(30))
                before = server.metric("weft_iterations_total")
                status, answer = server.ask("/v1/chat/completions", chat_about(*range(12)))
                self.assertEqual(status, 200, answer)
                self.assertEqual(stream.outcome, "hangs", "the stream was over before the images")
                steps = server.metric("weft_iterations_total") - before
                self.assertGreater(steps, 12, "the stream stood still")
                encoded = [self.images_of(server, process) for process in range(ranks)]
                self.assertEqual((sum(encoded), server.metric("weft_images_encoded_total")), (12, 12))
                self.assertGreater(min(encoded), 0, encoded)
                status, again = server.ask("/v1/chat/completions", chat_about(*range(12)))
                self.assertEqual((status, again["choices"]), (200, answer["choices"]))
                self.assertEqual(server.metric("weft_images_reused_total"), 12)

    def test_clients_leave_while_images_are_encoded(self):
        """Images that have begun are encoded to their end, or dropped by all processes when the server ends."""
        for seconds in (0, 0.1, 0.4):
            with self.subTest(seconds), self.image_server() as server:
                for client in range(3):
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                    connection.request("POST", "/v1/chat/completions", json.dumps(chat_about(*range(client, 9))),
                                       {"Content-Type": "application/json"})
                    end = time.monotonic() + SOON
                    while server.metric("weft_requests_total") <= client and time.monotonic() < end:
                        time.sleep(0.02)
                    connection.close()
                time.sleep(seconds)
                os.kill(server.pids[0], signal.SIGTERM)
                self.assertEqual(server.ends(2 * SOON), 0, server.log())
                self.assertNotRegex(server.log(), "weft error|killed|signal 9")

    def test_a_rank_that_stops_before_an_image(self):
        with self.image_server("--rank-deadline", 2) as server:
            os.kill(server.pids[1], signal.SIGSTOP)
            status, answer = server.ask("/v1/chat/completions", chat_about(1, 2, 3, 4))
            self.assertEqual((status, server.ends()), (503, LOST), server.log())
            line = r"rank 0 \(\S+\) of 2: nothing heard from rank 1 \(\S+\) for 2 s while encoding an image; all"
            self.assertRegex(answer["error"]["message"], line)

    # ---- The end

    def drains(self, server, stop, status, seconds=SOON):
        """An answer that runs is completed, and all ranks end without an error."""
        client = Client(server, max_tokens=400, stream=True)
        self.assertTrue(client.began.wait(30))
        stop()
        client.join(30)
        self.assertEqual(client.outcome, "whole", server.log())
        self.assertEqual(server.ends(seconds), status, server.log())
        self.assertNotRegex(server.log(), "weft error|killed|signal 9")

    def test_the_end_of_rank_0(self):
        with Server() as server:
            self.drains(server, lambda: os.kill(server.pids[0], signal.SIGTERM), 0)

    def test_the_signal_of_a_terminal_goes_to_all_ranks(self):
        with Server() as server:
            self.drains(server, lambda: [os.kill(pid, signal.SIGINT) for pid in reversed(server.pids)], 0)

    def test_the_end_of_the_launcher(self):
        with Server(mpirun=("--mca", "odls_base_sigkill_timeout", "4")) as server:
            self.drains(server, lambda: server.launcher.send_signal(signal.SIGTERM), 1, 2 * SOON)

    # ---- Ranks that are lost

    def under_load(self, server):
        """Running and waiting requests of all kinds, long enough that none is complete soon."""
        kinds = [{"stream": True}, {}, {"n": 2}, {"n": 3, "stream": True}, {"use_beam_search": True, "beam_width": 3},
                 {"stream": True, "guided_regex": "[a-z ]{3000}"}, {"best_of": 2}, {"logprobs": 2}]
        clients = [Client(server, max_tokens=4000, stream=True)]
        self.assertTrue(clients[0].began.wait(30))  # alone, or it might wait behind the others
        clients += [Client(server, max_tokens=4000, **kinds[i % len(kinds)]) for i in range(24)]
        time.sleep(0.2)
        return clients

    def test_a_job_that_is_suspended(self):
        """By a batch system, for longer than the deadline: it goes on as if nothing had been."""
        with Server("--rank-deadline", 2) as server:
            client = Client(server, max_tokens=1500, stream=True)
            self.assertTrue(client.began.wait(30))
            for pid in server.pids:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(4)
            for pid in server.pids:
                os.kill(pid, signal.SIGCONT)
            client.join(60)
            self.assertEqual(client.outcome, "whole", server.log())

    def all_hear(self, server, clients, began):
        for client in clients:
            client.join(max(0.0, began + SOON - time.monotonic()))
        outcomes = [client.outcome for client in clients]
        self.assertEqual([outcome for outcome in outcomes if outcome in ("whole", "hangs")], [],
                         str(outcomes) + server.log())
        return outcomes

    def test_a_rank_that_is_killed(self):
        with Server("--max-batch-size", 8) as server:
            clients, began = self.under_load(server), time.monotonic()
            os.kill(server.pids[1], signal.SIGKILL)
            self.all_hear(server, clients, began)
            self.assertEqual(server.ends(), 128 + 9, server.log())
            self.assertRegex(server.log(), r"rank 1 with PID \d+ on node \S+ exited on signal 9")

    def test_rank_0_is_killed(self):
        with Server("--max-batch-size", 8) as server:
            clients, began = self.under_load(server), time.monotonic()
            os.kill(server.pids[0], signal.SIGKILL)
            self.assertEqual(set(self.all_hear(server, clients, began)), {"closed"})
            self.assertEqual(server.ends(), 128 + 9, server.log())
            self.assertRegex(server.log(), r"rank 0 with PID \d+ on node \S+ exited on signal 9")

    def test_a_rank_that_stops(self):
        with Server("--max-batch-size", 8, "--rank-deadline", 2) as server:
            clients, began = self.under_load(server), time.monotonic()
            os.kill(server.pids[1], signal.SIGSTOP)
            outcomes = self.all_hear(server, clients, began)
            self.assertEqual(server.ends(), LOST, server.log())
            line = r"rank 0 \(\S+\) of 2: nothing heard from rank 1 \(\S+\) for 2 s while .*; all ranks end"
            self.assertRegex(server.log(), "weft error: " + line)
            # Rank 0 is alive, so clients are told and not just left.
            self.assertEqual(set(outcomes), {"status 503", "error event"})
            for client in clients:
                self.assertRegex(client.message, line)

    def test_rank_0_stops(self):
        with Server("--max-batch-size", 8, "--rank-deadline", 2, ranks=4) as server:
            clients, began = self.under_load(server), time.monotonic()
            os.kill(server.pids[0], signal.SIGSTOP)
            self.all_hear(server, clients, began)
            self.assertEqual(server.ends(), LOST, server.log())
            self.assertRegex(server.log(), r"weft error: rank [1-3] \(\S+\) of 4: nothing heard from .*rank 0 \(\S+\)")


if __name__ == "__main__":
    jobs.main(__doc__)
