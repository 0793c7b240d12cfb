"""Writes tiny random models and what the reference implementation computes with them."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    BartConfig, BartForConditionalGeneration, BertConfig, BertModel, T5Config, T5ForConditionalGeneration)

import weights

ENCODER_LENGTHS = [5, 1, 9, 3, 37]
DECODER_LENGTHS = [3, 1, 7, 2, 26]


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def draw_ids(purpose: str, count: int, lowest: int, vocabulary: int) -> np.ndarray:
    draws = weights.unit_draws(weights.name_seed(purpose), count).astype(np.float64)
    return (lowest + np.floor(draws * (vocabulary - lowest))).astype(np.int32)


def split(packed: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return np.split(packed, np.cumsum(lengths)[:-1])


class Taps:
    """Records what enters the first block of a stack and what leaves each block, before the final norm."""

    def __init__(self, blocks):
        self.values = [[] for _ in range(len(blocks) + 1)]
        self.handles = [blocks[0].register_forward_pre_hook(self.enter, with_kwargs=True)]
        for index, block in enumerate(blocks):
            self.handles.append(block.register_forward_hook(self.leave(index + 1)))

    def record(self, index, value):
        self.values[index].append(value[0].detach().numpy().copy())

    def enter(self, module, arguments, keywords):
        self.record(0, arguments[0] if arguments else keywords["hidden_states"])

    def leave(self, index):
        def hook(module, arguments, output):
            self.record(index, output[0] if isinstance(output, tuple) else output)

        return hook

    def tensors(self, stack: str) -> dict[str, np.ndarray]:
        for handle in self.handles:
            handle.remove()
        return {f"{stack}.hidden.{i}": np.concatenate(rows) for i, rows in enumerate(self.values)}


@torch.no_grad()
def run_t5(model, encoder_lengths, decoder_lengths) -> dict[str, np.ndarray]:
    vocabulary = model.config.vocab_size
    encoder_ids = draw_ids("encoder.ids", sum(encoder_lengths), 1, vocabulary)
    decoder_ids = draw_ids("decoder.ids", sum(decoder_lengths), 1, vocabulary)
    for start in np.cumsum([0] + decoder_lengths[:-1]):
        decoder_ids[start] = model.config.decoder_start_token_id
    encoder_taps, decoder_taps = Taps(model.encoder.block), Taps(model.decoder.block)
    finals = {"encoder.final": [], "decoder.final": [], "logits": []}
    # One sequence at a time, so that no padding or mask takes part.
    for source, target in zip(split(encoder_ids, encoder_lengths), split(decoder_ids, decoder_lengths)):
        encoded = model.encoder(input_ids=torch.from_numpy(source.astype(np.int64))[None])[0]
        decoded = model.decoder(
            input_ids=torch.from_numpy(target.astype(np.int64))[None], encoder_hidden_states=encoded,
            use_cache=False)[0]
        scaled = decoded * model.model_dim**-0.5 if model.config.scale_decoder_outputs else decoded
        finals["encoder.final"].append(encoded[0].numpy())
        finals["decoder.final"].append(decoded[0].numpy())
        finals["logits"].append(model.lm_head(scaled)[0].numpy())
        whole = model(
            input_ids=torch.from_numpy(source.astype(np.int64))[None],
            decoder_input_ids=torch.from_numpy(target.astype(np.int64))[None]).logits[0].numpy()
        assert np.array_equal(whole, finals["logits"][-1]), "the parts differ from the whole model"
        for taps in (encoder_taps, decoder_taps):  # drop what the check recorded
            for rows in taps.values:
                rows.pop()
    expected = {
        "encoder.ids": encoder_ids, "encoder.lengths": np.array(encoder_lengths, dtype=np.int32),
        "decoder.ids": decoder_ids, "decoder.lengths": np.array(decoder_lengths, dtype=np.int32),
        **encoder_taps.tensors("encoder"), **decoder_taps.tensors("decoder"),
        **{name: np.concatenate(rows) for name, rows in finals.items()},
    }
    if vocabulary > 64:  # the true-width fixture has no vocabulary worth generating from
        expected["greedy.ids"], expected["beam.ids"] = generate(model, split(encoder_ids, encoder_lengths))
    return expected


@torch.no_grad()
def run_bart(model, encoder_lengths, decoder_lengths) -> dict[str, np.ndarray]:
    vocabulary = model.config.vocab_size
    encoder_ids = draw_ids("encoder.ids", sum(encoder_lengths), 4, vocabulary)
    decoder_ids = draw_ids("decoder.ids", sum(decoder_lengths), 4, vocabulary)
    for start in np.cumsum([0] + decoder_lengths[:-1]):
        decoder_ids[start] = model.config.decoder_start_token_id
    taps = Taps(model.model.encoder.layers), Taps(model.model.decoder.layers)
    logits = []
    for source, target in zip(split(encoder_ids, encoder_lengths), split(decoder_ids, decoder_lengths)):
        logits.append(model(
            input_ids=torch.from_numpy(source.astype(np.int64))[None],
            decoder_input_ids=torch.from_numpy(target.astype(np.int64))[None], use_cache=False).logits[0].numpy())
    recorded = {**taps[0].tensors("encoder"), **taps[1].tensors("decoder")}
    greedy, beams = generate(model, split(encoder_ids, encoder_lengths))
    return {
        "encoder.ids": encoder_ids, "encoder.lengths": np.array(encoder_lengths, dtype=np.int32),
        "decoder.ids": decoder_ids, "decoder.lengths": np.array(decoder_lengths, dtype=np.int32),
        **recorded, "logits": np.concatenate(logits), "greedy.ids": greedy, "beam.ids": beams,
    }


@torch.no_grad()
def generate(model, sources) -> list[np.ndarray]:
    """What greedy search and a beam of 4 write within 12 tokens; one row a text, padded with -1."""
    found = []
    for beams in (1, 4):
        rows = np.full((len(sources), 13), -1, dtype=np.int32)
        for row, source in enumerate(sources):
            ids = torch.from_numpy(source.astype(np.int64))[None]
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=0, num_beams=beams,
                do_sample=False, use_cache=False, length_penalty=1.0, early_stopping=False, no_repeat_ngram_size=0,
                forced_bos_token_id=None, forced_eos_token_id=None)[0].numpy()
            rows[row, :len(written)] = written
        found.append(rows)
    return found


@torch.no_grad()
def run_bert(model, lengths) -> dict[str, np.ndarray]:
    ids = draw_ids("encoder.ids", sum(lengths), 1, model.config.vocab_size)
    types = np.concatenate([(np.arange(n) >= (n + 1) // 2).astype(np.int32) for n in lengths])
    taps, pooled = Taps(model.encoder.layer), []
    for tokens, segments in zip(split(ids, lengths), split(types, lengths)):
        output = model(
            input_ids=torch.from_numpy(tokens.astype(np.int64))[None],
            token_type_ids=torch.from_numpy(segments.astype(np.int64))[None])
        pooled.append(output.pooler_output.numpy())
    return {
        "encoder.ids": ids, "encoder.types": types, "encoder.lengths": np.array(lengths, dtype=np.int32),
        **taps.tensors("encoder"), "pooled": np.concatenate(pooled),
    }


def state(model, recipe) -> dict[str, np.ndarray]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {entry["name"]: parameters[entry["name"]].detach().numpy() for entry in recipe}


def make_t5(configuration: dict):
    model = T5ForConditionalGeneration(T5Config(**configuration)).eval()
    if not configuration["tie_word_embeddings"]:
        # This version of transformers ties at construction whatever the configuration says, and unties
        # when a checkpoint brings its own head.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    return model


T5_COMMON = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "decoder_start_token_id": 0,
    "dropout_rate": 0.1, "eos_token_id": 1, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
    "pad_token_id": 0,
}
TINY_T5 = {
    **T5_COMMON, "d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 3, "num_decoder_layers": 2,
    "num_heads": 4, "relative_attention_num_buckets": 32, "feed_forward_proj": "relu",
    "tie_word_embeddings": True, "vocab_size": 448,
}
TINY_T5_GATED = {
    **T5_COMMON, "d_model": 40, "d_kv": 16, "d_ff": 72, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 3, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "vocab_size": 100,
}
T5_BASE_SHAPE = {
    **T5_COMMON, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 1, "num_decoder_layers": 1,
    "num_heads": 12, "relative_attention_num_buckets": 32, "feed_forward_proj": "relu",
    "tie_word_embeddings": True, "vocab_size": 64,
}
TINY_BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 96, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0,
    "position_embedding_type": "absolute", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

BART_COMMON = {
    "architectures": ["BartForConditionalGeneration"], "model_type": "bart", "activation_function": "gelu",
    "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "dropout": 0.1,
    "attention_dropout": 0.0, "activation_dropout": 0.0, "is_encoder_decoder": True,
}
TINY_BART = {
    **BART_COMMON, "d_model": 48, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 96, "decoder_ffn_dim": 80, "max_position_embeddings": 64,
    "scale_embedding": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the Tests/Fixtures directory")
    output = parser.parse_args().output
    torch.set_num_threads(1)

    for name, configuration in [("tiny-t5", TINY_T5), ("tiny-t5-gated", TINY_T5_GATED)]:
        directory = output / name
        directory.mkdir(parents=True, exist_ok=True)
        model = make_t5(configuration)
        recipe = weights.fill(model)
        write_json(directory / "config.json", configuration)
        save_file(state(model, recipe), directory / "model.safetensors", metadata={"format": "pt"})
        save_file(run_t5(model, ENCODER_LENGTHS, DECODER_LENGTHS), directory / "expected.safetensors")

    directory = output / "t5-base-shape"
    directory.mkdir(parents=True, exist_ok=True)
    model = make_t5(T5_BASE_SHAPE)
    write_json(directory / "config.json", T5_BASE_SHAPE)
    write_json(directory / "weights.json", weights.fill(model))
    save_file(run_t5(model, [5, 1, 9, 3], [2, 1, 4, 1]), directory / "expected.safetensors")

    directory = output / "tiny-bart"
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = len(json.loads((directory / "vocab.json").read_text()))
    configuration = {**TINY_BART, "vocab_size": vocabulary}
    model = BartForConditionalGeneration(BartConfig(**configuration)).eval()
    recipe = weights.fill(model)
    bias = weights.tensor("final_logits_bias", [1, vocabulary], 0.125, 0.0)
    model.final_logits_bias.copy_(torch.from_numpy(bias))
    write_json(directory / "config.json", configuration)
    save_file(
        {**state(model, recipe), "final_logits_bias": bias}, directory / "model.safetensors",
        metadata={"format": "pt"})
    save_file(run_bart(model, ENCODER_LENGTHS, DECODER_LENGTHS), directory / "expected.safetensors")

    directory = output / "tiny-bert"
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = len((output / "tiny-bert" / "vocab.txt").read_text().splitlines())
    configuration = {**TINY_BERT, "vocab_size": vocabulary}
    model = BertModel(BertConfig(**configuration), add_pooling_layer=True).eval()
    recipe = weights.fill(model)
    write_json(directory / "config.json", configuration)
    save_file(
        {**state(model, recipe), "embeddings.position_ids": np.arange(64, dtype=np.int64)[None]},
        directory / "model.safetensors", metadata={"format": "pt"})
    save_file(run_bert(model, ENCODER_LENGTHS), directory / "expected.safetensors")


if __name__ == "__main__":
    main()
