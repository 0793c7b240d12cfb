"""Derives the small vocabularies of the fixtures from corpus.txt: a WordPiece list, a Unigram model
and a byte-level BPE."""

import argparse
import collections
import io
import re
from pathlib import Path

import sentencepiece
from tokenizers import ByteLevelBPETokenizer

WORD_PIECES = 420
UNIGRAM_PIECES = 320
BYTE_LEVEL_TOKENS = 420


def word_pieces(corpus: str) -> list[str]:
    """Special tokens, every character alone and as a continuation, frequent words, frequent endings."""
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFG0123456789.,;:!?'\"-()/#$%&éß東京北大。весна"))
    letters = [character for character in characters if character.isalnum()]
    continuations = ["##" + character for character in letters]
    words = re.findall(r"[a-z]{2,}", corpus.lower())
    counted = sorted(collections.Counter(words).items(), key=lambda item: (-item[1], item[0]))
    endings = collections.Counter(
        word[start:] for word in words for start in range(1, len(word) - 1) if len(word) - start >= 2)
    suffixes = ["##" + e for e, _ in sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:60]]
    pieces = special + characters + continuations + suffixes
    for word, _ in counted:
        if len(pieces) == WORD_PIECES:
            break
        pieces.append(word)
    assert len(pieces) == WORD_PIECES == len(set(pieces))
    return pieces


def unigram_model(corpus: str) -> bytes:
    """Trained as T5's was: pad 0, end 1, unknown 2, no start, nmt_nfkc, no byte fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.splitlines()), model_writer=model, model_type="unigram",
        vocab_size=UNIGRAM_PIECES, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0,
        num_threads=1, minloglevel=2)
    return model.getvalue()


def byte_level(corpus: str, directory: Path) -> None:
    """Trained as GPT-2's was, with BART's special tokens at BART's places; writes vocab.json and merges.txt."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        corpus.splitlines(), vocab_size=BYTE_LEVEL_TOKENS, show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(directory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the Tests/Fixtures directory")
    output = parser.parse_args().output
    corpus = (Path(__file__).parent / "corpus.txt").read_text()
    byte_level(corpus, output / "tiny-bart")
    for name in ("tiny-bert", "tiny-t5"):
        (output / name).mkdir(parents=True, exist_ok=True)
    (output / "tiny-bert" / "vocab.txt").write_text("\n".join(word_pieces(corpus)) + "\n")
    (output / "tiny-t5" / "spiece.model").write_bytes(unigram_model(corpus))


if __name__ == "__main__":
    main()
