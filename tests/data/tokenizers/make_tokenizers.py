#!/usr/bin/env python3
"""Writes the folders here: small tokenizers in the files of other libraries, and in expected.json the ids and texts
that these libraries give.   make_tokenizers.py (needs sentencepiece, mistral-common and tiktoken)

Texts are encoded as they are: names of control tokens in them are characters."""
import base64
import glob
import json
import os
import random

import sentencepiece
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as messages

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
TEXTS = [
    "", " ", "  ", "\n", "Hello, world!", " Hello", "Hello ", "  two  spaces   here  ", "a\nb\n\nc\td\r\n",
    "The quick brown fox jumps over the lazy dog.", "naïve café — “quotes” …", "Zürich, Łódź, Ελλάδα, Москва",
    "日本語のテキスト、中文文本 한국어", "ｆｕｌｌ ｗｉｄｔｈ　①②③ ﬁ ﬂ ½ ™", "e\u0301 cafe\u0301 \u1100\u1161\u11a8 \u200b\u00ad\ufeff\u00a0x",
    "emoji 😀👍🏽👨‍👩‍👧 🇩🇪", "1234567890 3.14159 1,000,000 007", "def f(x):\n    return x ** 2  # square\n",
    "<s>[INST] control </s> <unk> <0x41> <|end|>", "▁already▁there", "aaaaaaaaaaaaaaaaaaaaa", "ababababab aaabaaab",
    "<tool>call</tool><tool> x", "foo<tool>bar", "\u0000\u0001\u007f", "don't they'll WE'RE", "http://x.y/z?a=b&c=%20",
]


def corpus():
    paths = sorted(glob.glob(f"{ROOT}/docs/*.md"))[:6] + [f"{ROOT}/bridge/src/gguf.rs"]
    return [line for path in paths for line in open(path, encoding="utf-8").read().splitlines() if line.strip()]


def more_texts():
    """Words in any order, so that pieces meet in many ways."""
    random.seed(3)
    words = sorted({word for line in corpus() for word in line.split()} | set(TEXTS))
    return [random.choice(["", " "]).join(random.sample(words, 12)) for _ in range(30)]


def save(folder, texts, encode, decode):
    cases = [{"text": text, "ids": encode(text), "decoded": decode(encode(text))} for text in texts]
    with open(f"{folder}/expected.json", "w", encoding="utf-8") as file:
        json.dump(cases, file, ensure_ascii=True, indent=0)
        file.write("\n")


def sentencepiece_folder(name, change=None, **settings):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    lines = corpus()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=f"{folder}/tokenizer", minloglevel=2, num_threads=1,
        max_sentence_length=10000, hard_vocab_limit=False, **settings)
    os.remove(f"{folder}/tokenizer.vocab")
    path = f"{folder}/tokenizer.model"
    model = messages.ModelProto()
    model.ParseFromString(open(path, "rb").read())
    model.trainer_spec.model_prefix = ""
    if change:
        change(model)
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    save(folder, TEXTS + more_texts(), processor.encode, processor.decode)


def unused_pieces(model):
    """Every seventh piece of more than one character is no longer used."""
    for piece in [p for p in model.pieces if p.type == p.NORMAL and len(p.piece) > 1][::7]:
        piece.type = piece.UNUSED


def equal_scores(model):
    """Pairs of one score: the leftmost comes first."""
    for piece in model.pieces:
        if piece.type == piece.NORMAL and len(piece.piece) in (2, 3):
            piece.score = -5.0


def tekken_folder():
    folder = os.path.join(HERE, "tekken")
    os.makedirs(folder, exist_ok=True)
    pattern = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}"
               r"\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|"
               r"\s+(?!\S)|\s+")
    tokens = [bytes([byte]) for byte in range(256)]
    # Pairs by frequency, as tokenizers are trained.
    words = [list(bytes([b]) for b in (" " + word).encode()) for line in corpus() + TEXTS for word in line.split()]
    while len(tokens) < 900:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        if best[0] + best[1] not in tokens:
            tokens.append(best[0] + best[1])
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at:at + 2] = [best[0] + best[1]]
                at += 1
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<pad>"]
    file = {
        "config": {"pattern": pattern, "num_vocab_tokens": len(tokens), "default_vocab_size": 20 + 880,
                   "default_num_special_tokens": 20, "version": "v3"},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
                  for rank, token in enumerate(tokens)],
        "special_tokens": [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(special)],
    }
    with open(f"{folder}/tekken.json", "w", encoding="utf-8") as out:
        json.dump(file, out, indent=0)
        out.write("\n")
    tokenizer = Tekkenizer.from_file(f"{folder}/tekken.json")
    save(folder, TEXTS + more_texts(), lambda text: tokenizer.encode(text, bos=False, eos=False),
         lambda ids: tokenizer.decode(ids, special_token_policy=SpecialTokenPolicy.KEEP))


sentencepiece_folder("llama-bpe", model_type="bpe", vocab_size=700, byte_fallback=True, split_digits=True,
                     normalization_rule_name="identity", remove_extra_whitespaces=False,
                     allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>", "aaa"],
                     control_symbols=["[INST]"])
sentencepiece_folder("unigram", model_type="unigram", vocab_size=600, user_defined_symbols=["<tool>", "aaa"])
sentencepiece_folder("unigram-bytes", model_type="unigram", vocab_size=700, byte_fallback=True, add_dummy_prefix=False,
                     normalization_rule_name="identity", remove_extra_whitespaces=False)
sentencepiece_folder("bpe-nfkc-cf", model_type="bpe", vocab_size=500, normalization_rule_name="nmt_nfkc_cf")
sentencepiece_folder("bpe-unused", unused_pieces, model_type="bpe", vocab_size=600, byte_fallback=True,
                     normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False)
sentencepiece_folder("unigram-unused", unused_pieces, model_type="unigram", vocab_size=500,
                     normalization_rule_name="identity")
sentencepiece_folder("bpe-equal-scores", equal_scores, model_type="bpe", vocab_size=500,
                     normalization_rule_name="identity")
tekken_folder()
