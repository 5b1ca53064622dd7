"""Condenses the vision-language oracle into tests/data/media: one folder per model with its settings, tokenizer and
images, and expected.json: integers in full, pixel tensors as shape, SHA-256 of the little-endian float32 bytes and
every 997th value.

  make_data.py ORACLE_FOLDER OUT_FOLDER      needs numpy
"""
import hashlib
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

TYPES = {"F32": np.float32, "I64": np.int64, "U8": np.uint8}
SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
            "tokenizer.json")


def tensors(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            yield name, np.frombuffer(raw[8 + size + first : 8 + size + last],
                                      TYPES[entry["dtype"]]).reshape(entry["shape"])


def condensed(value):
    flat = np.ascontiguousarray(value)
    out = {"shape": list(value.shape), "sha256": hashlib.sha256(flat.tobytes()).hexdigest()}
    if value.dtype == np.float32:
        out["every_997th"] = [float(x) for x in flat.reshape(-1)[::997]]
    return out


def main():
    oracle, out = Path(sys.argv[1]), Path(sys.argv[2])
    for folder in sorted(p.parent for p in oracle.glob("*/prompts.json")):
        target = out / folder.name
        prompts = json.loads((folder / "prompts.json").read_text())
        (target / "images").mkdir(parents=True, exist_ok=True)
        for part in [".", "llm", "vision_tower", "mm_projector"]:
            for name in SETTINGS:
                if (folder / part / name).is_file():
                    (target / part).mkdir(exist_ok=True)
                    shutil.copyfile(folder / part / name, target / part / name)
        for image in sorted((folder / "images").iterdir()):
            shutil.copyfile(image, target / "images" / image.name)
        expected = {"images": {}, "prompts": {}}
        for name, prompt in prompts.items():
            expected["prompts"][name] = {key: prompt[key] for key in ("text", "messages", "images", "videos")}
        for name, value in sorted(tensors(folder / "expected.safetensors")):
            prompt, key = name.split(".", 1)
            if prompt == "image":
                expected["images"][key.removesuffix(".rgb")] = condensed(value)
            elif value.dtype == np.float32 and key.startswith("pixel_values"):
                expected["prompts"][prompt][key] = condensed(value)
            elif value.dtype == np.int64 and key != "greedy":
                expected["prompts"][prompt][key] = value.tolist()
            elif key == "second_per_grid_ts":
                expected["prompts"][prompt][key] = value.tolist()
        (target / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


main()
