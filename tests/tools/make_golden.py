#!/usr/bin/env python3
"""Makes a golden case (tests/data/README.md): a tiny checkpoint of random weights of any architecture that transformers
has, and what transformers computes with it, in float32 with eager attention on a CPU.

  make_golden.py --architecture Olmo2ForCausalLM --out tests/data/golden/olmo2
  make_golden.py --architecture GraniteForCausalLM --out DIR --set residual_multiplier=0.3 --set logits_scaling=0.5
  make_golden.py --checkpoint tests/data/golden/qwen3 --out DIR --dtype bfloat16
                                                       an existing one, its values computed anew

Sizes are small unless --set says otherwise, windows and chunks shorter than the prompts. Prompts and tokenizer are
those of another case (--like). Norm weights are about 1 (or 0, where the model adds 1), biases not 0, and the first
layer's input has a root mean square of 0.5. Norm epsilons are 1e-3, large enough that a wrong one shows.

Text models and classifiers are covered; of a vision-language model the prompts without an image. Not covered: encoders
with decoders, audio, and new cases with images, since the settings of their processors cannot be guessed (--checkpoint
takes cases that have pixel values). Tensors have the names that transformers saves, which for vision-language models
may be others than in published files.
"""

import argparse
import inspect
import json
import re
import shutil
from pathlib import Path

from reference import EAGER, architecture_class, leave, load_reference, torch, transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden"
RESULTS = (
    "logits",
    "rows",
    "greedy",
    "gap",
    "position_ids",
    "rope_delta",
)  # of a prompt; the rest goes into the model
# Parts of a model that an image's features come from.
VISION = re.compile(r"(^|\.)(vision|visual|multi_modal_projector|image_newline)")
GREEDY_STEPS = 32
SMALL = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    bos_token_id=499,
    eos_token_id=501,
    pad_token_id=507,
    rms_norm_eps=1e-3,
    layer_norm_eps=1e-3,
    layer_norm_epsilon=1e-3,
    norm_eps=1e-3,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
    num_experts=8,
    num_local_experts=8,
    n_routed_experts=8,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    first_k_dense_replace=1,
    kv_lora_rank=32,
    q_lora_rank=24,
    qk_rope_head_dim=8,
    qk_nope_head_dim=16,
    v_head_dim=16,
    type_vocab_size=2,
)
SMALL_WHERE_SET = dict(sliding_window=24, attention_chunk_size=32)  # None there means that the model has none
SMALL_VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
)


def parse_value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def shrink(config_class, vision=False):
    """The constructor's values that make a config small: of the keys that the class knows."""
    default = config_class()
    small = {k: v for k, v in (SMALL_VISION if vision else SMALL).items() if hasattr(default, k)}
    small |= {k: v for k, v in SMALL_WHERE_SET.items() if not vision and getattr(default, k, None) is not None}
    if "qk_rope_head_dim" in small:  # latent attention: its rope reads head_dim, and all heads have keys of their own
        small |= dict(head_dim=small["qk_rope_head_dim"], num_key_value_heads=small["num_attention_heads"])
    for name in getattr(config_class, "sub_configs", {}):
        if (part := getattr(default, name, None)) is not None:
            small[name] = shrink(type(part), vision="vision" in name)
    return small


def with_settings(values, settings):
    for key, value in settings.items():
        *way, last = key.split(".")
        at = values
        for part in way:
            at = at.setdefault(part, {})
        at[last] = value
    return values


def make_config(cls, settings):
    if cls.config_class is None:
        leave(f"{cls.__name__} has no configuration class")
    config = cls.config_class(**with_settings(shrink(cls.config_class), settings))
    if getattr(config, "is_encoder_decoder", False):
        leave(f"{cls.__name__} is an encoder with a decoder, which golden cases do not cover")
    if cls.main_input_name != "input_ids":
        leave(f"{cls.__name__} reads {cls.main_input_name}; golden cases have token ids")
    for key in settings:
        if not key.partition(".")[0] in vars(config) and key.partition(".")[0] not in ("rope_scaling", "rope_theta"):
            leave(f"--set {key}: {type(config).__name__} has no such key")
    config.architectures = [cls.__name__]
    return config


def fill(model, generator):
    """Random values for everything that the checkpoint will hold."""
    norms = [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() or "norm" in name.rpartition(".")[2]
    ]
    tied = model.config.get_text_config().tie_word_embeddings
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            owner, _, kind = name.rpartition(".")
            if owner in norms and kind != "bias":
                start = tensor.float().mean().item()  # 1, or 0 where the model adds 1
                weight = 1 + 0.2 * noise
                if tied and owner == norms[-1]:  # or the token before would always be the likeliest next one
                    weight *= torch.randint(2, tensor.shape, generator=generator) * 2 - 1
                tensor.copy_(weight - 1 + start)
            elif tensor.dim() < 2:
                tensor.copy_(0.2 * noise)
            else:
                fan_in = (
                    tensor.shape[1]
                    if "embed" in name
                    else tensor[0].numel() if tensor.dim() != 3 else tensor.shape[-1]
                )
                tensor.copy_(noise / fan_in**0.5)


def first_layer(model):
    for name, module in model.named_modules():
        if re.search(r"(^|\.)(layers?|h|blocks)\.0$", name) and "vision" not in name:
            return module
    leave("no module named layers.0: where the first layer is, is not known")


def level_embeddings(model, ids):
    """Scales the embeddings so that the first layer's input has a root mean square of 0.5."""
    seen = []
    layer = first_layer(model)
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).clone()), with_kwargs=True
    )
    with torch.no_grad():
        try:
            model(input_ids=ids)
        except RuntimeError as problem:
            leave(f"the sizes do not fit together, --set others: {str(problem).splitlines()[0]}")
        model.get_input_embeddings().weight.mul_(0.5 / seen[0].pow(2).mean().sqrt())
    hook.remove()


def published_config(path):
    """config.json with the keys of published checkpoints (transformers 4): rope_theta and rope_scaling instead of
    rope_parameters."""
    config = json.loads(path.read_text())
    for part in [config, *(v for v in config.values() if isinstance(v, dict))]:
        rope = part.get("rope_parameters")
        if not isinstance(rope, dict) or "rope_theta" not in rope:
            continue  # none, or one for each kind of layer, which has no older form
        del part["rope_parameters"]
        part["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            part["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        if original := rope.get("original_max_position_embeddings"):
            if rope.get("rope_type") == "longrope":  # Phi-3 has it beside rope_scaling
                part["original_max_position_embeddings"] = original
                del rope["original_max_position_embeddings"]
        part["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    for part in [config, *(v for v in config.values() if isinstance(v, dict))]:
        if "num_local_experts" in part:  # some families' files have the one name and some the other
            part["num_experts"] = part["num_local_experts"]
        part.pop("layer_types", None)  # as old files: the family's rule; the reloaded model is compared with this one
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def new_checkpoint(args, out, prompts):
    cls = architecture_class(args.architecture)
    config = make_config(cls, args.settings)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = cls._from_config(config, **EAGER).float().eval()
    fill(model, torch.Generator().manual_seed(args.seed))
    level_embeddings(model, prompts["long" if "long" in prompts else next(iter(prompts))]["input_ids"][None])
    model.to(getattr(torch, args.dtype)).save_pretrained(out)
    with_layers = (out / "config.json").read_text()
    published_config(out / "config.json")
    again, kept = (
        json.loads(json.dumps(c))
        for c in (transformers.AutoConfig.from_pretrained(out).to_dict(), model.config.to_dict())
    )
    if any(again.get(k) != kept.get(k) for k in ("layer_types", "rope_parameters", "text_config")):
        (out / "config.json").write_text(with_layers)  # what the older keys cannot say


def copy_checkpoint(args, out):
    """Another case's checkpoint; its float32 tensors in --dtype, but for those that an image's features depend on."""
    source = Path(args.checkpoint)
    shutil.copytree(source, out, dirs_exist_ok=True)
    wanted = getattr(torch, args.dtype)
    for file in source.glob("*.safetensors"):
        if file.name == "expected.safetensors":
            continue
        with safe_open(str(file), "pt") as f:
            metadata = f.metadata()
        tensors = load_file(str(file))
        changed = {k: v.to(wanted) for k, v in tensors.items() if v.dtype == torch.float32 and not VISION.search(k)}
        save_file(tensors | changed, str(out / file.name), metadata)
    config = json.loads((source / "config.json").read_text())
    for part in [config, *(v for v in config.values() if isinstance(v, dict))]:
        for key in ("torch_dtype", "dtype"):
            if part.get(key) == "float32":
                part[key] = args.dtype
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_prompts(case):
    """{name: {"input_ids": tensor, ...}} with all that goes into the model, and the texts, of a golden case."""
    prompts = {}
    with safe_open(str(case / "expected.safetensors"), "pt") as f:
        texts = {k: v for k, v in (f.metadata() or {}).items() if k.endswith((".text", ".text_pair"))}
        for name in f.keys():
            prompt, _, what = name.rpartition(".")
            if what not in RESULTS and not name.startswith("image."):
                prompts.setdefault(prompt, {})[what] = f.get_tensor(name)
    return dict(sorted(prompts.items())), texts


@torch.no_grad()
def logits_of(model, prompt, extra=()):
    extra, length = torch.tensor(list(extra), dtype=torch.int64), len(prompt["input_ids"])
    taken = inspect.signature(model.forward).parameters
    given = {}
    for name, value in prompt.items():
        if name not in taken:
            continue
        if (
            not value.is_floating_point() and value.shape[-1] == length and value.dim() <= 2
        ):  # one number for each token
            value = torch.cat([value.reshape(1, -1), extra[None] if name == "input_ids" else 0 * extra[None]], 1)
        given[name] = value.to(model.dtype) if value.is_floating_point() else value
    return model(**given).logits[0]


def kept_rows(count, step):
    return sorted({*range(min(4, count)), *range(0, count, step), *range(max(0, count - 4), count)})


def expected_values(model, prompts, step, steps):
    generates = not type(model).__name__.endswith("Classification")
    values, spread = {}, []
    for name, prompt in prompts.items():
        kept = ("input_ids", "image_features") if generates else ("input_ids", "token_type_ids")
        values |= {f"{name}.{what}": prompt[what] for what in kept if what in prompt}
        logits = logits_of(model, prompt)
        if not generates:
            values[f"{name}.logits"] = logits
            continue
        spread.append(check_stable(model, name, prompt, logits))
        rows = kept_rows(len(logits), step)
        values[f"{name}.logits"], values[f"{name}.rows"] = logits[rows].contiguous(), torch.tensor(rows)
        greedy, gaps = [], []
        for _ in range(steps):
            best = logits_of(model, prompt, greedy)[-1].topk(2)
            greedy.append(best.indices[0].item()), gaps.append((best.values[0] - best.values[1]).item())
        values[f"{name}.greedy"], values[f"{name}.gap"] = torch.tensor(greedy), torch.tensor(gaps)
        print(
            f"{name}: {len(prompt['input_ids'])} tokens, logits' deviation {logits.std():.3g}, "
            f"{len(set(greedy))} different "
            f"greedy tokens, smallest gap {min(gaps):.2g}, float64 differs by {spread[-1]:.1g} deviations"
        )
    return values


def check_stable(model, name, prompt, logits):
    """The same in float64 differs little, or a correct float32 engine could not meet the values (a router's tie)."""
    exact = logits_of(model.double(), prompt)
    model.float()
    apart = ((exact - logits).abs().max() / logits.std()).item()
    if apart > 3e-5:
        leave(
            f"prompt {name}: float32 and float64 differ by {apart:.2g} of the logits' deviation; try another --seed"
        )
    return apart


@torch.no_grad()
def show_effects(args, out, prompts):
    """What each --set is worth: how far the logits move without it. 0: the case does not test it."""
    name = "long" if "long" in prompts else next(iter(prompts))
    model = load_reference(out)
    logits, weights = logits_of(model, prompts[name]), model.state_dict()
    for key in args.settings:
        config = make_config(type(model), {k: v for k, v in args.settings.items() if k != key})
        other = type(model)._from_config(config, **EAGER).float().eval()
        try:
            other.load_state_dict(weights, strict=False)
            moved = ((logits_of(other, prompts[name]) - logits).abs().max() / logits.std()).item()
            print(f"--set {key}: without it the logits of {name} move by {moved:.2g} deviations")
        except RuntimeError:
            print(f"--set {key}: changes shapes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--architecture", help="a model class of transformers")
    what.add_argument("--checkpoint", help="instead: an existing golden case, its values computed anew")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the config; VALUE is JSON or text, KEY may be dotted",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of the stored weights; default: bfloat16, of --checkpoint float32",
    )
    parser.add_argument(
        "--like", default=str(GOLDEN / "llama-3.1"), help="golden case whose prompts and tokenizer are taken"
    )
    parser.add_argument(
        "--greedy",
        type=int,
        default=GREEDY_STEPS,
        metavar="N",
        help="greedy tokens of each prompt; default: %(default)s",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=20,
        metavar="N",
        help="logits are kept of the first and last 4 positions and every Nth",
    )
    args = parser.parse_args()
    if args.checkpoint and args.set:
        parser.error("--set is for --architecture")
    args.dtype = args.dtype or ("float32" if args.checkpoint else "bfloat16")
    args.settings = {}
    for setting in args.set:
        key, equals, value = setting.partition("=")
        if not equals:
            parser.error(f"--set {setting}: KEY=VALUE is wanted")
        args.settings[key] = parse_value(value)
    like, out = Path(args.checkpoint or args.like), Path(args.out)
    if not (like / "expected.safetensors").is_file():
        leave(f"{like} is no golden case: it has no expected.safetensors")
    if out.exists() and not out.is_dir():
        leave(f"--out {out} is a file; a folder is wanted")
    prompts, texts = read_prompts(like)
    if args.checkpoint:
        copy_checkpoint(args, out)
    else:
        new_checkpoint(args, out, prompts)
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            if (like / file).is_file():
                shutil.copy(like / file, out / file)
    save_file(
        expected_values(load_reference(out), prompts, args.rows, args.greedy),
        str(out / "expected.safetensors"),
        texts,
    )
    if not args.checkpoint:
        show_effects(args, out, prompts)
        settings = "".join(f" --set '{setting}'" for setting in args.set)
        (out / "README.md").write_text(
            f"# {out.name}\n\nMade by tests/tools/make_golden.py with transformers {transformers.__version__}:\n\n"
            f"    make_golden.py --architecture {args.architecture} --seed {args.seed} --dtype {args.dtype} "
            f"--rows {args.rows}{settings}\n"
        )
    for file in out.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
