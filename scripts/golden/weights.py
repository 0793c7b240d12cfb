"""Weights that any program can compute from a tensor's name.

Element i of tensor `name` is offset + amplitude * (2u - 1), where u is the i-th draw (24 bits) of a
SplitMix64 stream whose seed is the FNV-1a hash (64 bits) of the name's UTF-8 bytes. 2u - 1 is exact in
float32, so the product is rounded once and every implementation gets the same bits.
"""

import numpy as np

MASK = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def name_seed(name: str) -> int:
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def unit_draws(seed: int, count: int) -> np.ndarray:
    steps = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + steps * np.uint64(GOLDEN_GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def tensor(name: str, shape: list[int], amplitude: float, offset: float) -> np.ndarray:
    draws = unit_draws(name_seed(name), int(np.prod(shape)))
    values = np.float32(offset) + np.float32(amplitude) * (np.float32(2) * draws - np.float32(1))
    return values.reshape(shape).astype(np.float32)


def amplitude_and_offset(name: str, shape: list[int]) -> tuple[float, float]:
    """A scale for each kind of tensor that keeps activations near 1, rounded to float32."""
    if len(shape) == 1 and name.endswith("weight"):
        amplitude, offset = 0.25, 1.0
    elif len(shape) == 1:
        amplitude, offset = 0.125, 0.0
    elif "relative_attention_bias" in name:
        amplitude, offset = 1.0, 0.0
    elif "embed" in name or name.endswith("shared.weight"):
        amplitude, offset = 1.0, 0.0
    elif name.endswith(".q.weight"):
        # T5 does not divide scores by sqrt(head size); its query projection is small in place of that.
        amplitude, offset = (3.0 / shape[1]) ** 0.5 / 4, 0.0
    else:
        amplitude, offset = (3.0 / shape[1]) ** 0.5, 0.0
    return float(np.float32(amplitude)), offset


def fill(model) -> list[dict]:
    """Overwrites every parameter of a PyTorch model; returns the recipe, sorted by name."""
    import torch

    recipe = []
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
        if name.endswith(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")):
            continue  # the same storage as shared.weight
        if name == "lm_head.weight" and parameter.data_ptr() == model.get_input_embeddings().weight.data_ptr():
            continue
        shape = list(parameter.shape)
        amplitude, offset = amplitude_and_offset(name, shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(tensor(name, shape, amplitude, offset)))
        recipe.append({"name": name, "shape": shape, "amplitude": amplitude, "offset": offset})
    return recipe
