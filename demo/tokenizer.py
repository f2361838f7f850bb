"""Train the demo model's tokenizer: byte-level BPE on a weighted mix of the seven domains.

`python -m demo.tokenizer --data build/corpora --out build/demo-tokenizer`

Digits stand alone, so that numbers are spelt the same everywhere. Same data, same bytes.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"
VOCAB_SIZE = 8192
CONTEXT = 512

# Millions of bytes of training text per domain. Chinese has thousands of signs and gets
# more, templated maths says the same again and gets less.
MIX: Mapping[str, float] = {
    "code": 3.0,
    "english": 3.0,
    "french": 3.0,
    "chinese": 6.0,
    "gsm": 0.7,
    "aime": 0.7,
    "science": 3.0,
}

# Contractions, words with at most one sign before them, single digits, runs of other
# signs, line ends, indentation.
WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

log = logging.getLogger("demo.tokenizer")


def documents(data: Path, domain: str, *, split: str) -> Iterator[str]:
    """Texts of a domain's documents, in the order of the corpus."""
    with (data / domain / f"{split}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def balanced_sample(data: Path, mix: Mapping[str, float]) -> Iterator[str]:
    """Leading documents of each domain, up to the domain's millions of bytes in `mix`.

    Raises:
        ValueError: A domain of the mix has no training text.
    """
    for domain, megabytes in mix.items():
        left = megabytes * 1e6
        for text in documents(data, domain, split="train"):
            if left <= 0:
                break
            left -= len(text.encode())
            yield text
        if left == megabytes * 1e6:
            raise ValueError(
                f"{data / domain / 'train.jsonl'} is empty, but the tokenizer needs every domain. "
                "Build the corpora first: python -m demo.corpora.build"
            )


def train_tokenizer(texts: Iterator[str], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `vocab_size` entries that puts BOS before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS}:1 $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def bytes_per_token(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str]) -> float:
    """UTF-8 bytes of the texts over their tokens, BOS left out; 0 without text."""
    num_bytes = num_tokens = 0
    for text in texts:
        num_bytes += len(text.encode())
        num_tokens += len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    return num_bytes / max(num_tokens, 1)


def save(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as any transformers release reads them."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Train, save, and log the held-out bytes per token of each domain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("build/corpora"))
    parser.add_argument("--out", type=Path, default=Path("build/demo-tokenizer"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = train_tokenizer(balanced_sample(arguments.data, MIX))
    save(tokenizer, arguments.out)
    for domain in MIX:
        texts = documents(arguments.data, domain, split="heldout")
        log.info("%-8s %.2f bytes per token", domain, bytes_per_token(tokenizer, texts))


if __name__ == "__main__":
    main()
