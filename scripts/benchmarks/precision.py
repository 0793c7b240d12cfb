"""A frozen backbone in float32, float16, bfloat16 and int8: rates, memory, distance from float32 and change of metric.

Times are those in which the measuring thread had a core, medians of rounds that alternate between the precisions.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import report

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BEGIN, END = "<!-- precision begin -->", "<!-- precision end -->"
PRECISIONS = ["float32", "float16", "bfloat16", "int8"]
STSB = ["--task", "regress", "--format", "tsv", "--text-column", "6", "--pair-column", "7", "--label-column", "5",
        "--no-header"]


def lines(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"precision.py: {' '.join(command)} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def product_table(products):
    first = products[0]
    rows = [[p["product"], f"{p['blas']:.0f}", f"{p['float32']:.0f}", f"{p['bfloat16']:.0f}", f"{p['int8']:.0f}",
             f"{100 * p['int8'] / p['byte_peak']:.0f} %", f"{p['int8'] / p['float32']:.1f}x",
             f"{p['int8'] / p['blas']:.1f}x"] for p in products]
    caption = (f"One core; peak {first['multiply_add_peak']:.0f} GFLOP/s of multiply-adds, {first['byte_peak']:.0f} GOP/s of "
               f"byte products ({first['instruction']}).")
    return caption + "\n\n" + report.table(
        ["rows x outputs x inputs", "OpenBLAS GFLOP/s", "float32", "bfloat16", "int8 GOP/s", "of its peak", "int8 : float32",
         "int8 : OpenBLAS"], rows)


def model_rows(name, figures, metric):
    base = next(f for f in figures if f["precision"] == "float32")
    for f in figures:
        kept = f"{f['float32_matrices']} matrices, {f['float32_columns']} columns" if f["precision"] == "int8" else ""
        yield [name, f["precision"], f"{f['bytes'] / 2**20:.0f} MiB", f"{1000 * f['seconds']:.0f} ms",
               f"{base['seconds'] / f['seconds']:.2f}x", f"{100 * f['relative_error']:.2f} %", kept,
               metric.get(f["precision"], "")]


def train(hearth, model, data, precision, seed, epochs):
    with tempfile.TemporaryDirectory() as work:
        command = [hearth, "train", "--model", model, "--data", os.path.join(data, "stsb/sts-train.csv"), "--validation",
                   os.path.join(data, "stsb/sts-test.csv"), "--epochs", str(epochs), "--seed", str(seed), "--precision",
                   precision, "--json", "--output", os.path.join(work, "run")] + STSB
        metrics = lines(command)[-1]["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "spearman")


def metrics_of(arguments, model):
    result = {}
    for precision in PRECISIONS:
        values = [train(arguments.hearth, model, arguments.data, precision, seed, arguments.epochs)
                  for seed in range(1, arguments.seeds + 1)]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        result[precision] = f"{statistics.mean(values):.4f}{spread}"
        print(f"precision.py: STS-B in {precision}: {result[precision]}", file=sys.stderr)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, help="hearth-benchmark")
    parser.add_argument("--hearth", help="hearth; without it no metric is measured")
    parser.add_argument("--model", action="append", default=[], help="model directory, several times")
    parser.add_argument("--text", help="file with texts, one a line, for models with a tokenizer")
    parser.add_argument("--metric-model", help="encoder whose side network is trained on STS-B in each precision")
    parser.add_argument("--data", default=os.environ.get("HEARTH_DATA", os.path.join(ROOT, "../shared/data")))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--document", help="Markdown file whose part between the precision marks is replaced")
    arguments = parser.parse_args()
    models = arguments.model or [m for m in [os.path.join(ROOT, ".demo/minilm")] if os.path.isdir(m)]
    products, rows = None, []
    for model in models or [None]:
        command = [arguments.benchmark, "precision", "--rounds", str(arguments.rounds)]
        if model:
            command += ["--model", model]
        if arguments.text:
            command += ["--text", arguments.text]
        found = lines(command)
        products = products or [f for f in found if "product" in f]
        measures = arguments.hearth and model and model == arguments.metric_model
        metric = metrics_of(arguments, model) if measures else {}
        rows += model_rows(os.path.basename(model or ""), [f for f in found if "precision" in f], metric)
    text = product_table(products)
    if rows:
        text += "\n\n" + report.table(
            ["backbone", "precision", "memory", "forward", "float32 : it", "error of the last tap", "kept in float32",
             "STS-B Spearman"], rows)
    print(text)
    if arguments.document:
        report.replace(arguments.document, text, BEGIN, END)


if __name__ == "__main__":
    main()
