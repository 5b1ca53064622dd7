"""What make_golden.py and compare_hidden.py share: a checkpoint as transformers computes it, in float32 with eager
attention on a CPU."""

import sys
from pathlib import Path

try:
    import torch
    import transformers
except ImportError as missing:
    sys.exit(f"{Path(sys.argv[0]).name} needs torch, transformers, safetensors and numpy: {missing}")


EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}  # the plain form of everything
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def leave(*words):
    """A usage error: one sentence, no trace."""
    sys.exit(f"{Path(sys.argv[0]).name}: " + " ".join(str(word) for word in words))


def architecture_class(name):
    found = getattr(transformers, name, None)
    if found is None or not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        leave(f"transformers {transformers.__version__} has no model class {name}")
    return found


def sub_configs(config):
    """The config and those of its parts (text_config, vision_config)."""
    yield config
    for name in getattr(type(config), "sub_configs", {}):
        if getattr(config, name, None) is not None:
            yield from sub_configs(getattr(config, name))


def use_long_factors(config):
    """transformers changes between longrope's factor lists from prompt to prompt, by length; weft keeps the long ones
    whenever its longest sequence is longer than the original length. So the reference gets the long ones for all."""
    for part in sub_configs(config):
        rope = getattr(part, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            rope["short_factor"] = list(rope["long_factor"])


def load_reference(folder):
    """The checkpoint's model in evaluation mode, of the class that its config.json names."""
    torch.set_num_threads(1)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as problem:
        leave(f"transformers cannot read {folder}: {str(problem).splitlines()[0]}")
    if not config.architectures:
        leave(f"{folder}/config.json names no architecture")
    if getattr(config, "quantization_config", None):
        leave(f"{folder} has quantised weights, which transformers does not compute with in float32")
    use_long_factors(config)
    cls = architecture_class(config.architectures[0])
    return cls.from_pretrained(folder, config=config, dtype=torch.float32, **EAGER).eval()
