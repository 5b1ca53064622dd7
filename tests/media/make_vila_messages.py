"""What the original VILA makes of a chat's messages, before and by its chat template: messages.json in the nvila
folders of tests/data/media. Its own functions run (extract_media and tokenize_conversation, and the line of
generate_content that writes the tiles of an image); the template is rendered with jinja2 as transformers'
apply_chat_template does.

  make_vila_messages.py VILA_REPOSITORY MEDIA_FOLDER      needs jinja2
"""
import ast
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence

from jinja2.sandbox import ImmutableSandboxedEnvironment


class Image:
    def __init__(self, path):
        self.path = path


class Video:
    pass


def function(file, name, names):
    """The function of a source file, without what the file imports."""
    [node] = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == name]
    node.returns = None
    for argument in node.args.args:
        argument.annotation = None
    exec(compile(ast.Module([node], []), str(file), "exec"), names)
    return names[name]


IMAGE = "<image>"
AUTO = SimpleNamespace(AUTO=1)
NAMES = {
    "Any": Any, "Dict": Dict, "List": List, "Optional": Optional, "Sequence": Sequence, "defaultdict": defaultdict,
    "Image": Image, "Video": Video, "PIL": SimpleNamespace(Image=SimpleNamespace(Image=Image)),
    "MEDIA_TOKENS": {"image": IMAGE, "video": "<vila/video>"},
    "make_list": lambda value: value if isinstance(value, list) else [value],
    "_extract_image": lambda image: image,
    "conversation_lib": SimpleNamespace(default_conversation=SimpleNamespace(sep_style=1), SeparatorStyle=AUTO),
    "tokenizer_image_token": lambda text, tokenizer, return_tensors: text,
}


class Tokenizer:
    def __init__(self, folder):
        source = json.loads((folder / "llm/tokenizer_config.json").read_text())["chat_template"]
        self.template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)

    def apply_chat_template(self, conversation, add_generation_prompt, tokenize):
        return self.template.render(messages=conversation, add_generation_prompt=add_generation_prompt)


# Messages and the images in them. Each with white space that the original removes, or keeps.
ONE = "images/wide.png"
CASES = {
    "blanks around": (["  \n Write a list.\t\n"], []),
    "image first": ([[ONE, "\n What is shown? \n"]], [ONE]),
    "image last": ([["What is shown here?\n", ONE]], [ONE]),
    "image alone": ([[ONE]], [ONE]),
    "image between": ([["In ", ONE, " there is\n\n"]], [ONE]),
    "several turns": ([[ONE, "What is it? "], " A circle.\n", "\nAnd its colour? \n"], [ONE]),
    "two images": ([[" ", "images/tall.jpg", " or ", "images/gray.png", "\n"]], ["images/tall.jpg", "images/gray.png"]),
    "spaces beyond ASCII": (["\u3000\u00a0\u2009\u200bWhat\u00a0is it?\u2028\x1f\x85\u205f"], []),
}


def client_content(value):
    if isinstance(value, str):
        return value
    return [{"type": "image"} if part.startswith("images/") else {"type": "text", "text": part} for part in value]


def main():
    repository, media_folder = Path(sys.argv[1]), Path(sys.argv[2])
    extract_media = function(repository / "llava/utils/media.py", "extract_media", NAMES)
    tokenize_conversation = function(repository / "llava/utils/tokenizer.py", "tokenize_conversation", NAMES)
    for folder in (media_folder / "nvila", media_folder / "nvila-lite"):
        dynamic = json.loads((folder / "config.json").read_text())["image_aspect_ratio"] == "dynamic"
        prompts = json.loads((folder / "expected.json").read_text())["prompts"]
        tiles = {p["images"][0]: p["num_tiles"][0] for p in prompts.values() if dynamic and len(p["images"]) == 1}
        cases = {}
        for name, (contents, images) in CASES.items():
            roles = ["human" if i % 2 == 0 else "gpt" for i in range(len(contents))]
            value = lambda c: c if isinstance(c, str) else [Image(p) if p.startswith("images/") else p for p in c]
            conversation = [{"from": role, "value": value(content)} for role, content in zip(roles, contents)]
            media = extract_media(conversation)
            assert [image.path for image in media["image"]] == images
            if dynamic and len(images) == 1:  # as in generate_content
                conversation[0]["value"] = conversation[0]["value"].replace(IMAGE, f"{IMAGE}\n" * tiles[images[0]])
            text = tokenize_conversation(conversation, Tokenizer(folder), add_generation_prompt=True)
            cases[name] = {
                "messages": [
                    {"role": "user" if role == "human" else "assistant", "content": client_content(content)}
                    for role, content in zip(roles, contents)
                ],
                "images": images, "videos": [], "text": text,
            }
        (folder / "messages.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
