"""Writes the canonical decompositions of the Unicode Character Database as a Swift table.

Swift's standard library compares strings by canonical equivalence but does not give the decomposed form,
which BERT needs to strip accents. Each entry is one step: a scalar and the one or two scalars that it stands
for. Hangul syllables are left out, since they follow from arithmetic.
"""

import argparse
import sys
import unicodedata
from pathlib import Path

LINE_LENGTH = 104


def entries() -> list[str]:
    found = []
    for scalar in range(sys.maxunicode + 1):
        mapping = unicodedata.decomposition(chr(scalar))
        if mapping and not mapping.startswith("<"):
            found.append(f"{scalar:X}=" + "+".join(part.lstrip("0") for part in mapping.split()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the Swift file to write")
    output = parser.parse_args().output
    table = entries()
    lines = []
    line = ""
    for entry in table:
        if line and len(line) + len(entry) + 1 > LINE_LENGTH:
            lines.append(line)
            line = ""
        line += (" " if line else "") + entry
    lines.append(line)
    text = " \\\n".join(f"    {line}" for line in lines)
    output.write_text(
        f"// Written by scripts/golden/decompositions.py from Unicode {unicodedata.unidata_version}; do not edit.\n\n"
        "/// The Unicode Character Database's canonical decompositions, one step each, without Hangul.\n"
        "enum CanonicalDecompositionTable {\n"
        f"  /// {len(table)} entries `scalar=first` or `scalar=first+second`, hexadecimal, ascending.\n"
        '  static let text = """\n' + text + '\n    """\n}\n')


if __name__ == "__main__":
    main()
