"""Writes LoRA adapters of the tiny models with PEFT, and what they and Hearth's own make the models compute.

Needs requirements.txt and requirements-peft.txt. A directory peft-*/hearth holds an adapter that Hearth wrote
(HEARTH_WRITE_FIXTURES=1 swift test --filter PEFT); PEFT loads it and its outputs become hearth-expected.safetensors.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import BartForConditionalGeneration, BertModel, T5ForConditionalGeneration

import weights

SEQUENCES = 3
CASES = {
    "t5": (T5ForConditionalGeneration, dict(r=4, lora_alpha=12, target_modules=["q", "k", "v", "o", "wi", "wo"])),
    "bart": (BartForConditionalGeneration, dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "fc1"],
                                                use_rslora=True)),
    "bert": (BertModel, dict(r=3, lora_alpha=8, target_modules=["query", "key", "output.dense"])),
}


def sequences(expected, name):
    lengths = expected[f"{name}.lengths"][:SEQUENCES]
    rows = np.split(expected[f"{name}.ids"], np.cumsum(expected[f"{name}.lengths"])[:-1])[:SEQUENCES]
    return rows, lengths.astype(np.int32)


@torch.no_grad()
def outputs(model, expected) -> dict[str, np.ndarray]:
    """The logits, or BERT's last states, of the first sequences of the model's own fixture, each run alone."""
    model.eval()
    encoder, encoder_lengths = sequences(expected, "encoder")
    tensors = {"encoder.ids": np.concatenate(encoder), "encoder.lengths": encoder_lengths}
    rows = []
    if "decoder.ids" in expected:
        decoder, decoder_lengths = sequences(expected, "decoder")
        tensors |= {"decoder.ids": np.concatenate(decoder), "decoder.lengths": decoder_lengths}
        for source, target in zip(encoder, decoder):
            rows.append(model(
                input_ids=torch.from_numpy(source.astype(np.int64))[None],
                decoder_input_ids=torch.from_numpy(target.astype(np.int64))[None]).logits[0].numpy())
        return tensors | {"logits": np.concatenate(rows)}
    starts = np.cumsum(expected["encoder.lengths"])[:-1]
    types = np.split(expected["encoder.types"], starts)[:SEQUENCES]
    for source, segments in zip(encoder, types):
        rows.append(model(
            input_ids=torch.from_numpy(source.astype(np.int64))[None],
            token_type_ids=torch.from_numpy(segments.astype(np.int64))[None]).last_hidden_state[0].numpy())
    return tensors | {"encoder.types": np.concatenate(types), "encoder.final": np.concatenate(rows)}


def fill(model) -> None:
    """Every matrix of every pair by the weight formula: PEFT itself would start with products of zero."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            values = weights.unit_draws(weights.name_seed(name), parameter.numel()).astype(np.float32)
            parameter.data = torch.from_numpy(0.5 * (2 * values - 1)).reshape(parameter.shape)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("fixtures", type=Path)
    fixtures = parser.parse_args().fixtures
    for name, (family, settings) in CASES.items():
        base, target = fixtures / f"tiny-{name}", fixtures / f"peft-{name}"
        expected = load_file(base / "expected.safetensors")
        plain = outputs(family.from_pretrained(base), expected)
        model = get_peft_model(family.from_pretrained(base), LoraConfig(lora_dropout=0.1, **settings))
        fill(model)
        target.mkdir(exist_ok=True)
        model.save_pretrained(target)
        (target / "README.md").unlink(missing_ok=True)
        path = target / "adapter_config.json"
        config = json.loads(path.read_text())
        config["target_modules"].sort()  # a set in PEFT: its order is not repeatable
        config["base_model_name_or_path"] = f"tiny-{name}"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(outputs(model, expected), target / "expected.safetensors")
        ours = target / "hearth"
        if ours.is_dir():
            loaded = PeftModel.from_pretrained(family.from_pretrained(base), ours)
            held = {n.replace(".default", ""): p for n, p in loaded.named_parameters() if "lora_" in n}
            written = load_file(ours / "adapter_model.safetensors")
            assert set(held) == set(written), set(held) ^ set(written)
            for key, value in written.items():
                assert np.array_equal(held[key].detach().numpy(), value), key
            found = outputs(loaded, expected)
            final = "logits" if "logits" in found else "encoder.final"
            assert np.abs(found[final] - plain[final]).max() > 1e-2, "the adapter changes nothing"
            save_file({final: found[final]}, target / "hearth-expected.safetensors")


if __name__ == "__main__":
    main()
