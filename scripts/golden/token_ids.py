"""Writes the ids that the reference tokenizers give for tricky texts.

WordPiece: transformers' BertTokenizer over tiny-bert/vocab.txt. Unigram: libsentencepiece itself, between
special tokens, over tiny-t5/spiece.model and, when its path is given, over T5's own vocabulary.
Byte-level BPE: transformers' BartTokenizer over tiny-bart.
written.json holds what the models of these directories write for some of the texts.
target-ids.json holds what T5's and BART's decoders read for those ids as labels.
"""

import argparse
import json
import re
from pathlib import Path

import sentencepiece
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartTokenizer, BertTokenizer

TEXTS = [
    "",
    " ",
    "the house is wonderful.",
    "The House IS Wonderful",
    "translate English to German: The house is wonderful.",
    "  leading and   many    blanks  ",
    "tabs\tand\nnew lines\r\nand\u00a0hard\u2003blanks\u3000wide",
    "vertical\x0btab form\x0cfeed next\x85line",
    "controls \x00\x01\x02 between \x7f words\x1b[0m",
    "a\x00b",
    "zero\u200bwidth\u200djoiner\ufeffmark\u2060word\u00adhyphen",
    "replacement \ufffd character\ufffdinside",
    "private \ue000 use",
    "café naïve crème brûlée",
    "CAFÉ NAÏVE CRÈME BRÛLÉE ÅÄÖ",
    "cafe\u0301 nai\u0308ve decomposed",
    "two\u0301\u0323 marks\u0323\u0301 in both orders",
    "Straße ß ẞ Brücke",
    "İstanbul ıI dotted and dotless",
    "ΣΊΣΥΦΟΣ final sigma",
    "Ångström Å \u212b",
    "ǖǘǚǜ doubly composed",
    "Москва и весна: зимой снег",
    "ЙЁйё",
    "東京は大きい。北京也很大。",
    "mixed東京text北大",
    "\u3400\u4dbf\uf900\U00020000\U0002a6df\U0002f800 ideographs of every block",
    "ひらがな カタカナ ガギグ",
    "한국어 각 힣",
    "हिन्दी क्षि",
    "العربية مُشَكَّل",
    "עברית עִם נִקּוּד",
    "ไทย ที่",
    "emoji 😀 👩‍👩‍👧‍👦 🇩🇪 ❤️",
    "full\uff37\uff49\uff44\uff54\uff48 ＡＢＣ１２３",
    "ligatures ﬁ ﬂ ŉ ① ² ™",
    "punctuation!!!???...;;;:::",
    "don't stop - it's the dog's (big) [box] {now}",
    "$100 + 5% = 3^2 ~ `code` <tag> a|b a\\b a_b a&b a@b #1 \"q\" 'q' a*b",
    "en–dash em—dash “quotes” ‘single’ «angle» … ¿qué? ¡hola! § ¶ • ·",
    "3.8",
    "1990-2024, 37 percent, 1,000,000.5",
    "a" * 99,
    "a" * 100,
    "a" * 101,
    "é" * 100,
    "the" * 33,
    "learninglearning walkinghousehold",
    "zzzqqqxxx jjj",
    "[MASK] and [SEP] in the [CLS] text [UNK] [PAD]",
    "[mask] [sep] lower case",
    "x[SEP]y[MASK]z",
    "</s> <pad> <unk> <s>",
    "<extra_id_0> the house <extra_id_1> is<extra_id_2>wonderful <extra_id_99>",
    "<extra_id_100> <extra_id_> <extra_id_0",
    "<extra_id_10><extra_id_1>0",
    "▁the ▁house",
    "\U0010ffff \U000e0001 non-characters \ufdd0 \uffff",
    "unassigned \u0378 and new \U0001fae8",
    "stsb sentence1: A plane is taking off. sentence2: An air plane is taking off.",
    "positive", "negative", "equivalent", "not_equivalent", "entailment", "not_entailment", "Hello world",
]
PAIRS = [
    ("a plane is taking off.", "an air plane is taking off."),
    ("", "the second only"),
    ("the first only", ""),
    ("", ""),
    ("the house is wonderful and the garden is green", "a cat"),
    ("a cat", "the house is wonderful and the garden is green"),
    ("one two three four five six seven", "seven six five four three two one"),
]
LENGTHS = [5, 6, 7, 8, 9, 10, 11, 12, 16]
SETTINGS = {
    "uncased": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "uncased, accents kept": {"do_lower_case": True, "strip_accents": False},
    "cased, accents stripped": {"do_lower_case": False, "strip_accents": True},
    "uncased, ideographs joined": {"do_lower_case": True, "tokenize_chinese_chars": False},
}


def write_json(path: Path, cases: list) -> None:
    """One case a line, ASCII only, so that invisible characters can be seen and no editor changes them."""
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


def cases() -> list[tuple[str, str | None, int]]:
    found = [(text, None, 512) for text in TEXTS]
    found += [(TEXTS[4], None, length) for length in LENGTHS[:4]]
    found += [(first, second, 512) for first, second in PAIRS]
    found += [(first, second, length) for first, second in PAIRS[4:] for length in LENGTHS]
    return found


def word_piece(directory: Path) -> list:
    found = []
    for name, options in SETTINGS.items():
        backend = BertTokenizer(vocab=str(directory / "vocab.txt"), **options).backend_tokenizer
        for text, pair, length in cases() if name == "uncased" else cases()[:len(TEXTS)]:
            # The backend is asked directly, since transformers takes an empty second text for none.
            backend.no_truncation()
            whole = backend.encode(text, pair)
            backend.enable_truncation(length, strategy="longest_first")
            encoded = backend.encode(text, pair)
            found.append({
                "settings": name, "text": text, "pair": pair, "maxLength": length, "ids": encoded.ids,
                "types": encoded.type_ids, "truncated": len(whole.ids) - len(encoded.ids),
                "decoded": backend.decode(whole.ids),
            })
    return found


def unigram(model: Path) -> list:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    sentinels = {f"<extra_id_{i}>": processor.piece_size() + 99 - i for i in range(100)}
    special = {**sentinels, "<pad>": 0, "</s>": 1, "<unk>": 2}
    pattern = re.compile("(" + "|".join(sorted(map(re.escape, special), key=len, reverse=True)) + ")")
    found = []
    for text in TEXTS + [text for pair in PAIRS for text in pair]:
        ids = []
        for part in pattern.split(text):
            if part:
                ids += [special[part]] if part in special else processor.encode(part)
        # As transformers does: special tokens are dropped first, what is left is decoded as one text.
        decoded = processor.decode([i for i in ids if i < processor.piece_size() and i > 2])
        found.append({"text": text, "ids": ids + [1], "decoded": decoded})
    return found


def byte_level(directory: Path) -> list:
    tokenizer = BartTokenizer(
        vocab=str(directory / "vocab.json"), merges=str(directory / "merges.txt")).backend_tokenizer
    found = []
    for text, pair, length in cases():
        if pair is not None and length < 6:
            continue  # four special tokens and one of each text
        tokenizer.no_truncation()
        whole = tokenizer.encode(text, pair)
        tokenizer.enable_truncation(length, strategy="longest_first")
        encoded = tokenizer.encode(text, pair)
        found.append({
            "text": text, "pair": pair, "maxLength": length, "ids": encoded.ids,
            "truncated": len(whole.ids) - len(encoded.ids), "decoded": tokenizer.decode(whole.ids),
        })
    return found


def targets(directory: Path, labels: list[list[int]]) -> list:
    """Decoder inputs that transformers' models make of label ids."""
    configuration = AutoConfig.from_pretrained(directory)
    model = AutoModelForSeq2SeqLM.from_config(configuration)
    return [
        {"labels": ids, "decoder": model.prepare_decoder_input_ids_from_labels(torch.tensor([ids]))[0].tolist()}
        for ids in labels
    ]


@torch.no_grad()
def written(directory: Path, texts: list[str], decode) -> list:
    """What transformers' model writes for texts whose ids are known, within 16 tokens."""
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    whole = [c for c in json.loads((directory / "token-ids.json").read_text()) if not c.get("truncated")]
    cases = {c["text"]: c["ids"] for c in whole if c.get("pair") is None}
    found = []
    for beams, penalty in [(1, 1.0), (4, 1.0), (3, 2.0), (5, -0.5)]:
        for text in texts:
            ids = torch.tensor([cases[text]])
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, min_new_tokens=0, num_beams=beams,
                do_sample=False, length_penalty=penalty, early_stopping=False, no_repeat_ngram_size=0,
                forced_bos_token_id=None, forced_eos_token_id=None)[0, 1:].tolist()
            found.append({"text": text, "beams": beams, "lengthPenalty": penalty, "output": decode(output)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the Tests/Fixtures directory")
    parser.add_argument("--t5", type=Path, help="T5's spiece.model (32,000 pieces)")
    arguments = parser.parse_args()
    tiny_bert, tiny_t5 = arguments.output / "tiny-bert", arguments.output / "tiny-t5"
    write_json(tiny_bert / "token-ids.json", word_piece(tiny_bert))
    write_json(arguments.output / "tiny-bart" / "token-ids.json", byte_level(arguments.output / "tiny-bart"))
    write_json(tiny_t5 / "token-ids.json", unigram(tiny_t5 / "spiece.model"))
    for directory in (tiny_t5, arguments.output / "tiny-bart"):
        found = [c for c in json.loads((directory / "token-ids.json").read_text()) if c.get("pair") is None]
        cases = {c["text"]: c["ids"] for c in found if c.get("truncated", 0) == 0}
        made = targets(directory, list(cases.values()))
        write_json(directory / "target-ids.json", [{"text": t, **m} for t, m in zip(cases, made)])
    lines = [text for text in TEXTS if text.isprintable() and 0 < len(text) < 60]
    bart = arguments.output / "tiny-bart"
    bpe = BartTokenizer(vocab=str(bart / "vocab.json"), merges=str(bart / "merges.txt")).backend_tokenizer
    write_json(bart / "written.json", written(bart, lines, bpe.decode))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_t5 / "spiece.model"))
    pieces = processor.piece_size()
    write_json(tiny_t5 / "written.json", written(
        tiny_t5, lines, lambda ids: processor.decode([i for i in ids if 2 < i < pieces])))
    if arguments.t5:
        directory = arguments.output / "t5-vocabulary"
        directory.mkdir(exist_ok=True)
        write_json(directory / "token-ids.json", unigram(arguments.t5))


if __name__ == "__main__":
    main()
