"""Batches to measure on: 16 x 128 tokens, and the real lengths of MRPC and STS-B.

Only lengths matter to speed, so a workload is a list of batches of encoder lengths; each worker draws its own
token ids. Both sides get the same batches in the same order.
"""
import json
import os
import random
import re

BATCH = 16
DECODER_TOKENS = 4
MAXIMUM_TOKENS = 128

# A word of letters and digits is one token for each six characters begun, every other visible character is one,
# and the closing token is one. On the training texts of both sets this rule's mean is within 6 % of the T5
# SentencePiece model's (MRPC 57.6 against 54.4 tokens a pair, STS-B 28.3 against 28.4, without the closing token).
CHARACTERS_PER_TOKEN = 6
TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_")

SETS = {
    "mrpc": ("mrpc/msr_paraphrase_train.txt", "utf-8-sig", 3, 1),
    "stsb": ("stsb/sts-train.csv", "utf-8", 5, 0),
}


def token_count(text):
    """Tokens of a text by the rule above, cut at the greatest length."""
    pieces = sum(-(-len(word) // CHARACTERS_PER_TOKEN) for word in TOKEN.findall(text))
    return min(pieces + 1, MAXIMUM_TOKENS)


def fixed(batches):
    """Batches of 16 sequences of 128 tokens."""
    return {
        "name": "16x128",
        "decoder_tokens": DECODER_TOKENS,
        "batches": [[MAXIMUM_TOKENS] * BATCH for _ in range(batches)],
    }


def real(name, data, batches, seed):
    """Shuffled batches of the training pairs of a set, or None when the file is absent."""
    path, encoding, column, header_rows = SETS[name]
    path = os.path.join(data, path)
    if not os.path.isfile(path):
        return None
    lengths = []
    with open(path, encoding=encoding, newline="") as rows:
        for number, row in enumerate(rows):
            fields = row.rstrip("\r\n").split("\t")
            if number >= header_rows and len(fields) >= column + 2:
                lengths.append(token_count(" ".join(fields[column:column + 2])))
    random.Random(seed).shuffle(lengths)
    chosen = [lengths[index * BATCH:(index + 1) * BATCH] for index in range(batches)]
    if any(len(batch) < BATCH for batch in chosen):
        raise SystemExit(f"scripts/benchmark: {path} has {len(lengths)} pairs, under {batches} batches of {BATCH}")
    return {"name": name, "decoder_tokens": DECODER_TOKENS, "batches": chosen}


def write(workload, path):
    """Writes a workload for the workers."""
    with open(path, "w") as file:
        json.dump(workload, file)
    return path
