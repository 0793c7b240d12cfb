"""Writes losses and gradients of full fine-tuning, LoRA (PEFT's) and Houlsby's adapters on the tiny models.

Every fixture `techniques/MODEL-TECHNIQUE.safetensors` holds the samples, the summed loss, `value.NAME` of every leaf
that the technique adds and `gradient.NAME` of every leaf that it trains, under Hearth's names.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import (
    BartConfig, BartForConditionalGeneration, BertConfig, BertModel, T5Config, T5ForConditionalGeneration)

import weights
from models import draw_ids, make_t5, split

ENCODER_LENGTHS = [5, 1, 9, 17]
DECODER_LENGTHS = [3, 1, 7, 4]
RANK, ALPHA, REDUCTION = 4, 6.0, 8

T5_PARTS = {"q": "query", "k": "key", "v": "value", "o": "output", "wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"}
BART_PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output", "fc1": "up", "fc2": "down"}
LORA_TARGETS = {
    "tiny-t5": ["q", "v"], "tiny-t5-gated": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
    "tiny-bart": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], "tiny-bert": ["query", "value", "dense"],
}


def t5_name(name: str) -> str | None:
    if name == "shared.weight":
        return "words"
    if name == "lm_head.weight":
        return "languageModelHead.weight"
    if found := re.fullmatch(r"(encoder|decoder)\.final_layer_norm\.weight", name):
        return f"{found[1]}.norm.weight"
    if found := re.fullmatch(r"(encoder|decoder)\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight", name):
        return f"{found[1]}.relativeBias"
    found = re.fullmatch(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(.*)", name)
    if not found:
        return None
    stack, layer, part, rest = found.groups()
    place = ["selfAttention", "crossAttention" if stack == "decoder" else "feedForward", "feedForward"][int(part)]
    if rest == "layer_norm.weight":
        return f"{stack}.{layer}.{place}.norm.weight"
    module, _, field = rest.rpartition(".")
    return f"{stack}.{layer}.{place}.{T5_PARTS[module.split('.')[1]]}.{field}"


def bart_name(name: str) -> str | None:
    name = name.removeprefix("model.")
    if name == "shared.weight":
        return "words"
    if found := re.fullmatch(r"(encoder|decoder)\.embed_positions\.weight", name):
        return f"{found[1]}.positions"
    if found := re.fullmatch(r"(encoder|decoder)\.layernorm_embedding\.(\w+)", name):
        return f"{found[1]}.embeddingNorm.{found[2]}"
    found = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
    if not found:
        return None
    stack, layer, rest, field = found.groups()
    prefix = f"{stack}.{layer}"
    norms = {
        "self_attn_layer_norm": "selfAttention.norm", "encoder_attn_layer_norm": "crossAttention.norm",
        "final_layer_norm": "feedForward.norm"}
    if rest in norms:
        return f"{prefix}.{norms[rest]}.{field}"
    if rest in ("fc1", "fc2"):
        return f"{prefix}.feedForward.{BART_PARTS[rest]}.{field}"
    module, part = rest.split(".")
    place = {"self_attn": "selfAttention", "encoder_attn": "crossAttention"}[module]
    return f"{prefix}.{place}.{BART_PARTS[part]}.{field}"


def bert_name(name: str) -> str | None:
    fixed = {
        "embeddings.word_embeddings.weight": "words", "embeddings.position_embeddings.weight": "encoder.positions",
        "embeddings.token_type_embeddings.weight": "encoder.types",
        "embeddings.LayerNorm.weight": "encoder.embeddingNorm.weight",
        "embeddings.LayerNorm.bias": "encoder.embeddingNorm.bias"}
    if name in fixed:
        return fixed[name]
    found = re.fullmatch(r"encoder\.layer\.(\d+)\.(.*)\.(weight|bias)", name)
    if not found:
        return None
    layer, rest, field = found.groups()
    places = {
        "attention.self.query": "selfAttention.query", "attention.self.key": "selfAttention.key",
        "attention.self.value": "selfAttention.value", "attention.output.dense": "selfAttention.output",
        "attention.output.LayerNorm": "selfAttention.norm", "intermediate.dense": "feedForward.up",
        "output.dense": "feedForward.down", "output.LayerNorm": "feedForward.norm"}
    return f"encoder.{layer}.{places[rest]}.{field}"


NAMES = {"tiny-t5": t5_name, "tiny-t5-gated": t5_name, "tiny-bart": bart_name, "tiny-bert": bert_name}


class Bottleneck(torch.nn.Module):
    """Houlsby's: x + up(relu(down(x)))."""

    def __init__(self, width: int):
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, width // REDUCTION), torch.nn.Linear(width // REDUCTION, width)

    def forward(self, x):
        return x + self.up(F.relu(self.down(x)))


def load(name: str, directory: Path):
    configuration = json.loads((directory / "config.json").read_text())
    if name.startswith("tiny-t5"):
        model = make_t5(configuration)
    elif name == "tiny-bart":
        model = BartForConditionalGeneration(BartConfig(**configuration))
    else:
        model = BertModel(BertConfig(**configuration), add_pooling_layer=False)
    state = {key: torch.from_numpy(value) for key, value in load_file(directory / "model.safetensors").items()}
    model.load_state_dict(state, strict=False)
    return model.eval()


def fill(parameter, name: str, amplitude: float):
    values = weights.tensor(name, list(parameter.shape), amplitude, 0.0)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(values))


def sub_layers(name: str, model):
    """The modules whose output is what a sub-layer adds, with Hearth's name of the sub-layer."""
    for path, module in model.named_modules():
        if re.search(r"(SelfAttention|EncDecAttention|DenseReluDense|self_attn|encoder_attn|fc2)$", path) or re.search(
                r"layer\.\d+\.(attention\.)?output\.dense$", path):
            leaf = next(key for key, _ in module.named_parameters() if "relative" not in key)
            yield ".".join(NAMES[name](f"{path}.{leaf}").split(".")[:3]), module


def prepare(name: str, technique: str, model, trained: dict):
    """Applies a technique and records the trained leaves under Hearth's names; returns the model to call."""
    if technique == "full":
        for key, parameter in model.named_parameters():
            if ours := NAMES[name](key):
                trained[ours] = parameter
        return model
    model.requires_grad_(False)
    if technique == "houlsby":
        for place, module in list(sub_layers(name, model)):
            bottleneck = Bottleneck(model.config.hidden_size)
            for key, parameter in bottleneck.named_parameters():
                fill(parameter, f"{place}.adapter.{key}", 0.3)
                trained[f"{place}.adapter.{key}"] = parameter
            module.register_forward_hook(
                lambda _, __, output, bottleneck=bottleneck: (bottleneck(output[0]), *output[1:])
                if isinstance(output, tuple) else bottleneck(output))
        return model
    model = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=LORA_TARGETS[name]))
    for key, parameter in model.named_parameters():
        if found := re.fullmatch(r"base_model\.model\.(.*)\.lora_([AB])\.default\.weight", key):
            ours = NAMES[name](f"{found[1]}.weight").removesuffix("weight") + f"lora{found[2]}"
            fill(parameter, ours, 0.2)
            trained[ours] = parameter
    return model


def run(name: str, technique: str, head: str, directory: Path) -> dict[str, np.ndarray]:
    model, trained = load(name, directory), {}
    configuration = model.config
    called = prepare(name, technique, model, trained)
    is_bert = name == "tiny-bert"
    vocabulary, width = configuration.vocab_size, configuration.hidden_size
    classes = {"classes": 3, "value": 1, "languageModel": 0}[head]
    if classes:
        linear = torch.nn.Linear(width, classes)
        for key, parameter in linear.named_parameters():
            fill(parameter, f"head.{key}", 0.3)
            trained[f"head.{key}"] = parameter
    encoder_ids = draw_ids("technique.encoder", sum(ENCODER_LENGTHS), 1, vocabulary)
    out = {"encoder.ids": encoder_ids, "encoder.lengths": np.array(ENCODER_LENGTHS, dtype=np.int32)}
    targets, labels = [None] * len(ENCODER_LENGTHS), None
    if is_bert:
        types = np.concatenate([(np.arange(n) >= (n + 1) // 2).astype(np.int32) for n in ENCODER_LENGTHS])
        out["encoder.types"] = types
    else:
        lengths = DECODER_LENGTHS if head == "languageModel" else [1] * len(ENCODER_LENGTHS)
        decoder_ids = draw_ids("technique.decoder", sum(lengths), 1, vocabulary)
        for start in np.cumsum([0] + lengths[:-1]):
            decoder_ids[start] = configuration.decoder_start_token_id
        out |= {"decoder.ids": decoder_ids, "decoder.lengths": np.array(lengths, dtype=np.int32)}
        targets = split(decoder_ids, lengths)
        if head == "languageModel":
            words = draw_ids("technique.labels", sum(lengths), 1, vocabulary)
            words[1] = -1  # a token without a target
            out["labels"], labels = words, split(words, lengths)
    total = 0.0
    # One sample at a time, so that no padding or mask takes part.
    for index, ids in enumerate(split(encoder_ids, ENCODER_LENGTHS)):
        ids = torch.from_numpy(ids.astype(np.int64))[None]
        if is_bert:
            segments = torch.from_numpy(split(types, ENCODER_LENGTHS)[index].astype(np.int64))[None]
            state = called(input_ids=ids, token_type_ids=segments).last_hidden_state[0].mean(0)
        else:
            target = torch.from_numpy(targets[index].astype(np.int64))[None]
            output = called(input_ids=ids, decoder_input_ids=target, output_hidden_states=True, use_cache=False)
            # The last of the hidden states is behind the final norm.
            state = output.decoder_hidden_states[-1][0, 0]
        if head == "languageModel":
            wanted = torch.from_numpy(labels[index].astype(np.int64))
            loss = F.cross_entropy(output.logits[0], wanted, reduction="sum", ignore_index=-1)
        elif head == "value":
            loss = ((linear(state)[0] - (0.5 * index - 0.7)) ** 2)
        else:
            loss = F.cross_entropy(linear(state)[None], torch.tensor([index % classes]), reduction="sum")
        loss.backward()
        total += loss.item()
    out["loss"] = np.array([total], dtype=np.float32)
    for ours, parameter in trained.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        out[f"gradient.{ours}"] = gradient.numpy().astype(np.float32)
        if technique != "full" or ours.startswith("head."):
            out[f"value.{ours}"] = parameter.detach().numpy()
    return out


CASES = [
    ("tiny-t5", "full", "languageModel"), ("tiny-t5", "lora", "classes"), ("tiny-t5", "houlsby", "languageModel"),
    ("tiny-t5-gated", "full", "languageModel"), ("tiny-t5-gated", "lora", "languageModel"),
    ("tiny-t5-gated", "houlsby", "value"),
    ("tiny-bart", "full", "languageModel"), ("tiny-bart", "lora", "languageModel"),
    ("tiny-bart", "houlsby", "classes"),
    ("tiny-bert", "full", "classes"), ("tiny-bert", "lora", "classes"), ("tiny-bert", "houlsby", "value"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fixtures", type=Path, help="the Tests/Fixtures directory")
    fixtures = parser.parse_args().fixtures
    torch.set_num_threads(1)
    directory = fixtures / "techniques"
    directory.mkdir(exist_ok=True)
    for name, technique, head in CASES:
        save_file(
            run(name, technique, head, fixtures / name), directory / f"{name}-{technique}-{head}.safetensors")


if __name__ == "__main__":
    main()
