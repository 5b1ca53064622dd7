#!/usr/bin/env python3
"""A context and a generation server as processes, and what may go wrong between them: whatever happens, each request
has the answer of `weft batch --model`, token for token and logprob for logprob, in time; only a client whose own server
is killed has an error. Afterwards nothing is left in either server, and blocks are fetched again.

  faults_test.py --weft PROGRAM [TEST...]

WEFT_SCHEDULES=200 for the long run; WEFT_FIRST_SCHEDULE=N WEFT_SCHEDULES=N for that of seed N alone; WEFT_CARRIER=ucx
for another carrier than TCP, without the faults of a network.
"""
import os
import random
import re
import signal
import socket
import time
import unittest

import servers
from servers import Client, LIMIT, Relay, Server

# `small`: memory for the longest sequence and little more.
MODELS = {"llama-3.1": {"options": (), "small": "2200K"},
          "deepseek-v3": {"options": ("--speculative-config", '{"method": "mtp", "num_tokens": 1}'), "small": "3300K"}}
LENGTHS = (40, 200, 700, 1500, 1500, 2500, 3500, 3500)  # of prompts
CARRIER = os.environ.get("WEFT_CARRIER", "tcp")
BACK_SECONDS = 20  # until gauges are at their start values


def requests_of(model):
    own = random.Random(model)
    rows = []
    for i, length in enumerate(LENGTHS):
        rows.append({"prompt_token_ids": [own.randrange(10, 490) for _ in range(length)], "max_tokens": 5 + 4 * i,
                     "temperature": 0.0 if i % 3 == 0 else 0.8, "seed": i, "ignore_eos": True, "logprobs": 1,
                     "n": 2 if i in (2, 5) else 1})
        if rows[-1]["n"] == 2:
            rows[-1]["temperature"] = 0.9
    return rows


class Schedule:
    """The run of one seed: two servers, perhaps a relay between them, clients, a fault, and what must hold after it."""

    def __init__(self, test, seed, model, wanted):
        self.test, self.random, self.model, self.wanted = test, random.Random(seed), model, wanted
        self.requests = requests_of(model)
        self.salt = 0
        self.clients = []
        self.relay = self.context = self.generation = None
        self.secrets = ("", "")
        self.ports = servers.free_ports(4)

    def start(self, context=(), generation=(), fault=None, faulty=1 << 30, steps=(16, 16, 64)):
        http_context, transfer, http_generation, relay = self.ports
        same = MODELS[self.model]["options"]
        self.address = f"127.0.0.1:{transfer}"
        if fault:
            self.relay = Relay(relay, transfer, fault, faulty)
            self.address = self.relay.address
        both = ("--tokens-per-block", self.random.choice((16, 32)), "--kv-transfer-carrier", CARRIER)
        # Small steps, so that prompts take a while.
        self.context = Server(self.model, "context", http_context, "--kv-transfer", f"127.0.0.1:{transfer}",
                              "--max-num-tokens", self.random.choice(steps), *both, *same, *context)
        self.generation = Server(self.model, "generation", http_generation, *both, *same, *generation)
        self.start_values = {server: server.gauges() for server in (self.context, self.generation)}

    def close(self):
        if self.relay:
            self.relay.close()
        for server in (self.context, self.generation):
            if server:
                server.kill()

    def ask(self, index=None, stream=None, leave=None, nobody=0.2):
        """A request that no cache knows; sometimes the first address of the header is of nobody."""
        index = self.random.randrange(len(self.requests)) if index is None else index
        self.salt += 1
        client = Client(self.generation.port, {**self.requests[index], "cache_salt": f"salt {self.salt}"},
                        ["127.0.0.1:1"] * (self.random.random() < nobody) + [self.address], self.secrets[1],
                        self.random.random() < 0.4 if stream is None else stream, leave)
        client.index = index
        self.clients.append(client)
        return client

    def ask_some(self, least=4, most=8):
        for _ in range(self.random.randint(least, most)):
            self.ask()
            if self.random.random() < 0.5:
                time.sleep(self.random.uniform(0, 0.1))

    def wait_until_busy(self):
        """The context server computes for somebody."""
        end = time.monotonic() + 10
        while self.context.gauges()["weft_kv_cache_used_blocks"] == 0:
            if time.monotonic() > end:
                self.test.fail("the context server computes nothing" + self.logs())

    def pause(self, most=0.8):
        time.sleep(self.random.uniform(0, most))

    # ---- What must hold

    def logs(self):
        text = ""
        for server in (self.context, self.generation):
            text += f"\n--- {server.role}\n{server.log()[-3000:]}"
            if server.answers("/ready"):
                text += str({name: value for name, value in server.metrics().items()
                             if re.match(r"weft_(kv_transfer|kv_cache_\w*blocks|num_requests)", name)})
        return text

    def check(self, killed=False):
        """All requests so far are answered; `killed`: or their connection ended."""
        for client in self.clients:
            client.join(max(0.0, client.began + LIMIT - time.monotonic()) + 1)
            may_be = ("answer", "connection") if killed else ("answer",)
            if client.leave is not None:
                may_be += ("left",)
            self.test.assertIn(client.outcome, may_be, f"request {client.index}: {client.message}{self.logs()}")
            if client.outcome == "answer":
                self.test.assertEqual(client.choices, self.wanted[client.index],
                                      f"request {client.index} has another answer{self.logs()}")
        self.clients = []

    def check_end(self, fetches=True):
        """Blocks are fetched again (or never were), nothing is left, and both servers answer."""
        end = time.monotonic() + BACK_SECONDS
        while True:
            client = self.ask(index=2, stream=False)
            self.check()
            if not fetches:
                self.test.assertEqual(client.cached, 0, "blocks of a server that is to be refused" + self.logs())
            if client.cached > 0 or not fetches:
                break
            self.test.assertLess(time.monotonic(), end, "the context server is not used any more" + self.logs())
            time.sleep(0.2)
        self.check_gauges()
        for server in (self.context, self.generation):
            self.test.assertIsNone(server.process.poll(), self.logs())
            self.test.assertTrue(server.answers("/health") and server.answers("/ready"), self.logs())
            self.test.assertNotRegex(server.log(), "weft error|check failed|terminate called|Sanitizer")

    def count(self, totals):
        """What the servers that are there now have counted."""
        for server in (self.context, self.generation):
            for name, value in server.metrics().items():
                if name.startswith("weft_kv_transfer_"):
                    totals[name] = totals.get(name, 0) + value

    def check_gauges(self):
        end = time.monotonic() + BACK_SECONDS
        for server in (self.context, self.generation):
            while (gauges := server.gauges()) != self.start_values[server]:
                if time.monotonic() > end:
                    self.test.fail(f"left in the {server.role} server: {gauges}{self.logs()}")
                time.sleep(0.1)

    # ---- Faults

    def context_is_killed(self):
        self.start()
        self.ask_some()
        if self.random.random() < 0.5:
            self.wait_until_busy()
        else:
            self.pause()
        self.context.kill()
        self.pause()
        self.ask_some(1, 3)
        self.context.start()
        self.check()
        self.check_end()

    def prompts_take_long(self):
        """Longer than a server may be silent, and nothing goes wrong."""
        self.start(steps=(16,))
        for _ in range(40):
            self.ask(self.random.choice((6, 7)), nobody=0)
        self.check()
        self.test.assertNotRegex(self.generation.log(), "said nothing|closed the connection")
        self.check_end()

    def context_ends(self):
        """In good order, as for a new version of the program."""
        self.start()
        self.ask_some()
        self.wait_until_busy()
        self.pause(0.3)
        self.context.signal(signal.SIGTERM)
        self.ask_some(1, 3)
        self.test.assertEqual(self.context.process.wait(timeout=30), 0, self.logs())
        self.context.start()
        self.check()
        self.check_end()

    def context_is_stopped(self):
        self.start()
        self.ask_some()
        self.pause()
        self.context.signal(signal.SIGSTOP)
        self.ask_some(1, 2)
        time.sleep(self.random.choice((0.5, 3, 8)))
        self.context.signal(signal.SIGCONT)
        self.check()
        self.check_end()

    def generation_is_killed(self):
        self.start()
        for index in (5, 6, 7, 7):  # long ones
            self.ask(index)
        self.wait_until_busy()
        self.pause(0.3)
        self.generation.kill()
        self.check(killed=True)
        self.start_values.pop(self.generation)
        end = time.monotonic() + BACK_SECONDS
        while (gauges := self.context.gauges()) != self.start_values[self.context]:
            self.test.assertLess(time.monotonic(), end, f"left in the context server: {gauges}{self.logs()}")
            time.sleep(0.1)
        self.generation.start()
        self.start_values[self.generation] = self.generation.gauges()
        self.ask_some()
        self.check()
        self.check_end()

    def generation_is_stopped(self):
        self.start()
        self.ask_some()
        self.pause()
        self.generation.signal(signal.SIGSTOP)
        time.sleep(self.random.choice((0.5, 3, 8)))
        self.generation.signal(signal.SIGCONT)
        self.check()
        self.check_end()

    def clients_leave(self):
        self.start()
        for _ in range(self.random.randint(6, 10)):
            if self.random.random() < 0.5:
                self.ask(stream=True, leave=self.random.randint(0, 10))
            else:
                self.ask(stream=False, leave=self.random.uniform(0, 0.6))
        self.ask_some(2, 4)
        self.check()
        self.check_end()

    def offset(self):
        """Where in a connection's bytes: in the greeting, in the first messages, or far behind."""
        return self.random.choice((self.random.randrange(200), self.random.randrange(20_000),
                                   self.random.randrange(2_000_000)))

    def through(self, fault, faulty):
        self.start(fault=fault, faulty=faulty)
        for _ in range(2):
            self.ask_some()
            self.pause(1.5)
        self.check()
        self.relay.faulty = 0  # from now on connections are good; one that is not may be there still
        self.check_end()

    def connections_are_cut(self):
        ends = [self.offset() for _ in range(4)]

        def fault(connection, direction, data, offset):
            return None if offset + len(data) > ends[connection] else data

        self.through(fault, self.random.randint(1, 4))

    def bytes_are_late(self):
        long = self.random.random() < 0.5

        def fault(connection, direction, data, offset):
            time.sleep(random.random() * 0.02)
            if long and random.random() < 0.02:
                time.sleep(random.choice((1, 4, 7)))
            return data

        self.through(fault, 1)

    def a_bit_flips(self):
        at, direction_of = self.offset(), self.random.choice(("there", "back"))

        def fault(connection, direction, data, offset):
            if direction == direction_of and offset <= at < offset + len(data):
                changed = bytearray(data)
                changed[at - offset] ^= 1 << at % 8
                return bytes(changed)
            return data

        self.through(fault, self.random.randint(1, 3))

    def bytes_are_lost(self):
        at, direction_of = self.offset(), self.random.choice(("there", "back"))
        count = self.random.choice((1, 7, 1000, 1 << 30))  # the last: from there on nothing

        def fault(connection, direction, data, offset):
            if direction != direction_of:
                return data
            return b"".join((data[:max(0, at - offset)], data[max(0, at + count - offset):]))

        self.through(fault, self.random.randint(1, 3))

    def context_memory_is_small(self):
        self.start(context=("--kv-cache-memory", MODELS[self.model]["small"]))
        self.ask_some(8, 12)
        self.check()
        self.check_end()

    def generation_memory_is_small(self):
        self.start(generation=("--kv-cache-memory", MODELS[self.model]["small"]))
        self.ask_some(8, 12)
        self.check()
        self.check_end()

    def strangers_come(self):
        self.start()
        host, port = self.address.split(":")
        strangers = []
        for _ in range(self.random.choice((20, 300))):
            one = socket.create_connection((host, int(port)), timeout=5)
            one.setblocking(False)
            strangers.append(one)
            bytes_ = self.random.choice((b"", b"GET / HTTP/1.1\r\n\r\n", self.random.randbytes(300), b"\xff" * 4096,
                                         bytes(4096), b"\x10\0\0\0\0\0\0\0" + self.random.randbytes(16)))
            try:
                one.sendall(bytes_)
            except OSError:
                pass
            if self.random.random() < 0.3:
                one.close()
        self.ask_some()
        self.check()
        self.check_end()
        for one in strangers:
            one.close()

    def secrets_differ(self):
        files = []
        for name in ("one", "other"):
            files.append(servers.folder / f"secret-{name}")
            files[-1].write_text(f"the {name} secret of sixteen characters and more\n")
        self.secrets = tuple(file.read_text().strip() for file in files)
        self.start(context=("--kv-transfer-secret-file", files[0]),
                   generation=("--kv-transfer-secret-file", files[1]))
        self.ask_some()
        self.check()
        self.check_end(fetches=False)
        self.test.assertRegex(self.context.log(), "secret")

    def caches_differ(self):
        self.start(context=("--kv-cache-dtype", self.random.choice(("bfloat16", "int8"))))
        self.ask_some()
        self.check()
        self.check_end(fetches=False)
        self.test.assertRegex(self.context.log(), "the servers differ: .*cache")


FAULTS = (Schedule.context_is_killed, Schedule.generation_is_killed, Schedule.connections_are_cut,
          Schedule.context_is_stopped, Schedule.clients_leave, Schedule.a_bit_flips, Schedule.context_memory_is_small,
          Schedule.bytes_are_lost, Schedule.strangers_come, Schedule.generation_memory_is_small,
          Schedule.bytes_are_late, Schedule.secrets_differ, Schedule.caches_differ, Schedule.generation_is_stopped,
          Schedule.context_ends, Schedule.prompts_take_long)
NETWORK_FAULTS = (Schedule.connections_are_cut, Schedule.a_bit_flips, Schedule.bytes_are_lost, Schedule.bytes_are_late,
                  Schedule.strangers_come)


class Faults(unittest.TestCase):
    maxDiff = 2000

    def test_schedules(self):
        first = int(os.environ.get("WEFT_FIRST_SCHEDULE", 1))
        last = int(os.environ.get("WEFT_SCHEDULES", len(FAULTS)))
        totals = {}
        wanted = {model: servers.answers_of_one_engine(model, requests_of(model)) for model in MODELS}
        for seed in range(first, last + 1):
            fault = FAULTS[(seed - 1) % len(FAULTS)]
            if CARRIER != "tcp" and fault in NETWORK_FAULTS:
                continue
            model = random.Random(f"model {seed}").choice(("llama-3.1", "llama-3.1", "deepseek-v3"))
            began = time.monotonic()
            with self.subTest(seed=seed, fault=fault.__name__, model=model):
                schedule = Schedule(self, seed, model, wanted[model])
                try:
                    fault(schedule)
                    schedule.count(totals)
                finally:
                    schedule.close()
            if last > len(FAULTS):
                print(f"{seed}: {fault.__name__}, {model}, {time.monotonic() - began:.1f} s", flush=True)
        if first == 1 and last >= len(FAULTS) and CARRIER == "tcp":  # all kinds of ends were reached
            for name in ("fetched_blocks", "complete_fetches", "failed_fetches", "cancelled_leases", "refused"):
                self.assertGreater(totals[f"weft_kv_transfer_{name}_total"], 0, totals)


if __name__ == "__main__":
    servers.main(__doc__)
