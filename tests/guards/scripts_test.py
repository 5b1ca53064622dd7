"""scripts/check_layers, scripts/check_lines and scripts/list_skipped on small trees that break their rules."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TABLE = """# Architecture

| folder | what it is | may include |
|---|---|---|
| tests | all of it | any |
| apps | commands | api base |
| api | front door | base include |
| base | files | |
| include | public headers | |
"""
TREE = {
    "docs/architecture.md": TABLE,
    "src/api/api.h": '#include <vector>\n#include "base/files.h"\n#include "weft/plugin.h"\n',
    "src/api/CMakeLists.txt": "weft_library(api SOURCES api.cc PUBLIC base PRIVATE include LINK stdc++)\n",
    "src/base/files.h": "",
    "src/base/CMakeLists.txt": "weft_library(base SOURCES files.cc)\n",
    "apps/main.cc": '#include "local.h"\n#include "api/api.h"\n',
    "tests/a_test.cc": '#include "api/api.h"\n#include "base/files.h"\n',
    "include/weft/plugin.h": "",
}


class Scripts(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = Path(self.folder.name)

    def write(self, files):
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run_script(self, name, *arguments):
        """(exit status, what it printed)"""
        run = subprocess.run([sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True, check=False)
        return run.returncode, run.stdout + run.stderr

    def layers(self, changed):
        self.write(TREE | changed)
        return self.run_script("check_layers", self.root)

    def test_layers_accepts(self):
        status, said = self.layers({})
        self.assertEqual(status, 0, said)

    def test_layers_refuses(self):
        for changed, expected in (
            ({"src/base/files.h": '#pragma once\n#include "api/api.h"\n'},
             "src/base/files.h:2: base may not include api/api.h"),
            ({"src/base/files.h": '#  include <weft/plugin.h>\n'},
             "src/base/files.h:1: base may not include weft/plugin.h"),
            ({"include/weft/plugin.h": '#include "base/files.h"\n'},
             "include/weft/plugin.h:1: include may not include base/files.h"),
            ({"apps/main.cc": '#include "../src/base/files.h"\n'},
             "apps/main.cc:1: ../src/base/files.h: an include names"),
            ({"src/extra/a.cc": "\n"}, "src/extra/a.cc: folder extra is not in the table"),
            ({"src/base/CMakeLists.txt": "weft_library(base SOURCES files.cc PRIVATE api)\n"},
             "src/base/CMakeLists.txt: base may not link api"),
            ({"docs/architecture.md": TABLE.replace("| files | |", "| files | api |")},
             "base names api, which is no row below"),
            ({"docs/architecture.md": TABLE + "| comm | ranks | |\n"},
             "comm: in the table of docs/architecture.md, but not"),
            ({"docs/architecture.md": "# Architecture\n"}, "no table"),
        ):
            with self.subTest(expected):
                status, said = self.layers(changed)
                self.assertEqual(status, 1)
                self.assertIn(expected, said)
                (self.root / "src/extra/a.cc").unlink(missing_ok=True)

    def test_lines(self):
        long = "x" * 121
        names = {
            "a.py": (f"{long}\n", True), "a.cmake": (f"# {long}\n", True),
                 "run": (f"#!/usr/bin/env bash\n{long}\n", True),
            "a.cc": (f"int a;  // {long}\n", True), "b.cc": (f'const char* b = R"({long})";\n', False),
            "a.md": (f"{long}\n", True), "b.md": (f"| {long} |\n\n```\n{long}\n```\n", False),
            "c.py": ("é" * 120 + "\n", False), "data.txt": (f"{long}\n", False),
        }
        self.write({name: text for name, (text, _) in names.items()})
        for name, (_, wrong) in names.items():
            with self.subTest(name):
                status, said = self.run_script("check_lines", self.root / name)
                self.assertEqual(status, int(wrong), said)

    def test_skipped(self):
        self.write({"report.xml": """<testsuite>
            <testcase name="real/A" status="notrun"><skipped message=""/>
              <system-out>[ RUN ] A\n/x/a_test.cc:7: Skipped\nno weights\n\n[  SKIPPED ] A\n</system-out></testcase>
            <testcase name="real/B" status="notrun"><skipped message=""/>
              <system-out>/x/a_test.cc:7: Skipped\nno weights\n</system-out></testcase>
            <testcase name="python/C" status="notrun"><skipped message=""/>
              <system-out>c: no package\n</system-out></testcase>
            <testcase name="ran" status="run"><system-out>: Skipped\nnever\n</system-out></testcase></testsuite>"""})
        self.assertEqual(self.run_script("list_skipped", self.root / "report.xml"),
                         (0, "skipped: real/A, real/B: no weights\nskipped: python/C: c: no package\n"))


if __name__ == "__main__":
    unittest.main()
