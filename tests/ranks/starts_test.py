#!/usr/bin/env python3
"""Commands under mpirun that cannot start, and commands that load nothing: what is wrong is said once, by rank 0, all
ranks end, and the launcher's exit status is rank 0's.

  starts_test.py --weft PROGRAM --plugin libweft_mpi.so [TEST...]
"""
import json
import shutil
import socket
import subprocess
import unittest

import jobs

LLAMA = jobs.GOLDEN / "llama-3.1"
ONE = {"custom_id": "one", "prompt": "The sky is", "max_tokens": 4, "temperature": 0}


def requests(text=None):
    file = jobs.folder / "requests.jsonl"
    file.write_text(text if text is not None else json.dumps(ONE) + "\n")
    return file


def batch(*options, model=LLAMA):
    return ("batch", "--model", model, "--requests", requests(), "--threads", 1, *options)


def for_rank_1(name, lines):
    """A program that is weft, but on rank 1 runs these lines of shell first; "$@" are its words."""
    script = jobs.folder / name
    script.write_text('#!/bin/bash\nif [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then\n' + lines + "\nfi\n" +
                      f'exec "{jobs.arguments.weft}" "$@"\n')
    script.chmod(0o755)
    return script


class Starts(unittest.TestCase):

    def told_once(self, message, *words, status=1, program=None, ranks=2):
        """All ranks end with one line from weft, which matches."""
        weft = jobs.arguments.weft
        jobs.arguments.weft = str(program or weft)
        try:
            got, out, log = jobs.run(ranks, *words)
        finally:
            jobs.arguments.weft = weft
        self.assertEqual(out, "")
        lines = jobs.lines_of_weft(log)
        self.assertEqual(len(lines), 1, log)
        self.assertRegex(lines[0], message)
        self.assertEqual(got, status, log)

    # ---- Ranks that differ

    def test_instruction_sets(self):
        program = for_rank_1("other_isa", "  export WEFT_ISA=ref")
        self.told_once(r"^weft: the ranks differ: instruction set is \w+ on rank 0 \(.+\) and ref on rank 1 \(.+\)$",
                       *batch("--tp-size", 2), program=program)

    def test_types(self):
        program = for_rank_1("other_dtype", '  set -- "$@" --dtype bfloat16')
        self.told_once(r"the ranks differ: --dtype is float32 on rank 0 \(.+\) and bfloat16 on rank 1 \(.+\)$",
                       *batch("--tp-size", 2, "--dtype", "float32"), program=program)

    def test_checkpoints(self):
        program = for_rank_1("other_model", '  set -- "${@//llama-3.1/qwen3}"')
        self.told_once(r"the ranks differ: checkpoint is [0-9a-f]{16} on rank 0 \(.+\) and [0-9a-f]{16} on rank 1",
                       *batch("--tp-size", 2), program=program)

    def test_a_checkpoint_that_one_rank_lacks(self):
        program = for_rank_1("no_model", '  set -- "${@//llama-3.1/absent}"')
        self.told_once(r"the ranks differ: checkpoint is [0-9a-f]{16} on rank 0 .+ and there is no model at .*absent",
                       *batch("--tp-size", 2), program=program)

    def test_an_option_that_one_rank_does_not_know(self):
        program = for_rank_1("odd_option", '  set -- "$@" --colour red')
        self.told_once(r"^weft: rank 1 \(.+\): .*--colour", *batch("--tp-size", 2), program=program)

    # ---- What is wrong on all ranks

    def test_no_checkpoint(self):
        self.told_once(r"rank 0 \(.+\) \(and 1 more\): there is no model at ",
                       *batch("--tp-size", 2, model=jobs.folder / "absent"))

    def test_a_checkpoint_without_a_file_of_weights(self):
        copy = jobs.folder / "no-weights"
        shutil.copytree(LLAMA, copy)
        (copy / "model.safetensors").unlink()
        self.told_once(r"^weft: .*no-weights", *batch("--tp-size", 2, model=copy))

    def test_numbers_of_ranks_that_are_not_equal(self):
        self.told_once(r"2 processes were started for 4 ranks \(--tp-size 4 times --pp-size 1\)",
                       *batch("--tp-size", 4))
        self.told_once(r"2 processes were started for 1 rank ", *batch())

    def test_a_share_that_the_model_does_not_have(self):
        self.told_once(r"rank 0 \(.+\)", *batch("--pp-size", 8), ranks=8)

    def test_an_option_out_of_range(self):
        self.told_once(r"^weft: .*--rank-deadline", *batch("--tp-size", 2, "--rank-deadline", 0), status=2)

    def test_an_option_that_there_is_not(self):
        self.told_once(r"^weft: .*--colour", *batch("--tp-size", 2, "--colour", "red"), status=2)

    def test_an_option_that_is_refused(self):
        self.told_once(r"--device cuda: this build has no GPU kernels", *batch("--tp-size", 2, "--device", "cuda"))

    # ---- What is wrong on rank 0

    def test_no_file_of_requests(self):
        self.told_once(r"^weft: no file .*absent", "batch", "--model", LLAMA, "--requests", jobs.folder / "absent",
                       "--tp-size", 2)

    def test_a_folder_for_answers_that_there_is_not(self):
        self.told_once(r"^weft: cannot write .*", *batch("--tp-size", 2, "--out", jobs.folder / "absent" / "out.jsonl"))

    def test_a_model_that_generates_nothing(self):
        self.told_once(r"^weft: .*BertForSequenceClassification", *batch("--tp-size", 2,
                                                                         model=jobs.GOLDEN / "bert-wordpiece-gamma"))

    def test_a_busy_port(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.told_once(r"^weft: port \d+ on 127.0.0.1 is in use", "serve", LLAMA, "--port",
                           taken.getsockname()[1], "--tp-size", 2)

    def test_a_chat_template_that_rank_0_lacks(self):
        self.told_once(r"^weft: .*absent", *batch("--tp-size", 2, "--chat-template", jobs.folder / "absent"))

    def test_a_line_of_requests_that_is_wrong_is_answered_with_an_error(self):
        status, out, log = jobs.run(2, "batch", "--model", LLAMA, "--requests", requests("garbage\n"), "--tp-size", 2)
        self.assertEqual((status, jobs.lines_of_weft(log)), (0, []), log)
        self.assertIn("not valid JSON", json.loads(out)["error"]["message"])

    # ---- Other commands

    def same_as_alone(self, *words, tp=("--tp-size", 2), stdin=None):
        results = [subprocess.run(jobs.command(ranks, *words, *tp), input=stdin, capture_output=True, timeout=60)
                   for ranks in (0, 2)]
        for result in results:
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotEqual(results[0].stdout, b"")
        self.assertEqual(results[0].stdout, results[1].stdout)
        self.assertEqual(jobs.lines_of_weft(results[1].stderr.decode()), [])

    def test_commands_that_load_nothing_speak_once(self):
        self.same_as_alone("--version", tp=())
        self.same_as_alone("batch", "--help", tp=())
        self.same_as_alone("models", tp=())
        status, out, _ = jobs.run(2, "inspect", LLAMA)
        self.assertEqual((status, out.count("architecture ")), (0, 1), out)

    def test_plan(self):
        status, out, log = jobs.run(2, "plan", LLAMA, "--tp-size", 2)
        self.assertEqual((status, out.count("LlamaForCausalLM"), jobs.lines_of_weft(log)), (0, 1, []), log)
        self.assertIn("all_reduce", out)

    def test_a_trace_is_refused(self):
        words = ("plan", LLAMA, "--tp-size", 2, "--trace", jobs.folder / "trace.safetensors", "--requests", requests())
        for ranks in (0, 2):
            status, _, log = jobs.run(ranks, *words)
            lines = jobs.lines_of_weft(log)
            self.assertEqual((status, len(lines)), (1, 1), log)
            self.assertIn("--trace shows the values of one rank's ops", lines[0])

    def test_a_prompt_on_standard_input(self):
        self.same_as_alone("run", LLAMA, "--raw", "--temperature", 0, "--max-tokens", 8, stdin=b"The sky is")

    def test_a_conversation_on_standard_input(self):
        template = jobs.folder / "template.jinja"
        template.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
        self.same_as_alone("chat", LLAMA, "--chat-template", template, "--temperature", 0, "--max-tokens", 8,
                           stdin=b"The sky is\nand the sea\n")

    def test_benches_that_need_two_engines_are_refused(self):
        for options in (["--details"], ["--speculative-config", '{"method": "ngram"}']):
            self.told_once(r"^weft: .* loads several engines, and ranks in processes run one", "bench", LLAMA,
                           "--tp-size", 2, *options)

    def test_bench(self):
        status, out, log = jobs.run(2, "bench", LLAMA, "--tp-size", 2, "--prompt-tokens", 16, "--output-tokens", 4,
                                    "--batch-sizes", 2, "--repeat", 1, "--limits", "off", "--json")
        self.assertEqual((status, jobs.lines_of_weft(log)), (0, []), log)
        json.loads(out)


if __name__ == "__main__":
    jobs.main(__doc__)
