"""Steps of PyTorch + transformers + PEFT on T5 and BART with random weights, one at a time, on request.

Line protocol on standard input and output: after set-up `{"ready": true, ...}`; `step` runs one step and answers
`{"seconds": ..., "forward": ..., "backward": ..., "update": ...}`; `workload PATH` changes the batches; `memory` answers
what the process holds; `quit` ends.

Scenarios: forward (whole model with its head, no gradients), parallel-live (frozen backbone under no_grad, side
network trained), parallel-cached (the same side network from activations that are already in memory), lora (PEFT on the
query and value projections), houlsby (bottlenecks of d/16 behind every sub-layer) and full. Float32, AdamW in its fused
form (the faster one here). `--dropout` sets the model's rates where its own configuration has dropout; the side network
has none. Full batches carry no padding mask, because PyTorch is faster without one.
"""
import argparse
import json
import os
import sys
import time

import machine

SHAPES = {  # width, hidden, layers a stack, heads, head size
    "t5-small": (512, 2048, 6, 8, 64),
    "t5-base": (768, 3072, 12, 12, 64),
    "t5-large": (1024, 4096, 24, 16, 64),
    "bart-base": (768, 3072, 6, 12, 64),
    "bart-large": (1024, 4096, 12, 16, 64),
}
VOCABULARIES = {"t5": 32128, "bart": 50265}
REDUCTION = 8
FIRST_ORDINARY_TOKEN = 2  # after padding and the end of the text


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", required=True,
                        choices=["forward", "parallel-live", "parallel-cached", "lora", "houlsby", "full"])
    parser.add_argument("--workload", required=True)
    parser.add_argument("--shape", default="t5-base", choices=sorted(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side-heads", type=int, default=0, help="0: as many as the backbone has")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rank", type=int, default=8, help="of LoRA; alpha is twice that")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


OPTIONS = arguments()
os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)

import torch  # noqa: E402  (the thread count has to be known first)
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402
from transformers import BartConfig, BartForConditionalGeneration  # noqa: E402
from transformers import T5Config, T5ForConditionalGeneration  # noqa: E402
from transformers.models.bart.modeling_bart import shift_tokens_right  # noqa: E402

FAMILY = OPTIONS.shape.split("-")[0]
VOCABULARY = VOCABULARIES[FAMILY]


def t5_configuration(width, hidden, layers, heads, head_size, vocabulary, dropout=0.0):
    return T5Config(
        d_model=width, d_ff=hidden, num_layers=layers, num_decoder_layers=layers, num_heads=heads, d_kv=head_size,
        vocab_size=vocabulary, dropout_rate=dropout, feed_forward_proj="relu", decoder_start_token_id=0)


def bart_configuration(width, hidden, layers, heads, vocabulary, dropout=0.0, positions=1024):
    """BART's own defaults: dropout of what is embedded and of what a sub-layer adds, none inside attention."""
    return BartConfig(
        d_model=width, encoder_ffn_dim=hidden, decoder_ffn_dim=hidden, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, vocab_size=vocabulary, dropout=dropout,
        max_position_embeddings=positions)


def make_model(shape, dropout):
    """The whole model with its language-model head."""
    width, hidden, layers, heads, _ = shape
    if FAMILY == "t5":
        return T5ForConditionalGeneration(t5_configuration(*shape, VOCABULARY, dropout))
    return BartForConditionalGeneration(bart_configuration(width, hidden, layers, heads, VOCABULARY, dropout))


class Bottleneck(nn.Module):
    """Houlsby's adapter behind a module: `x + up(relu(down(x)))` over the module's (first) output."""

    def __init__(self, inner, width):
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(width, width // 16), nn.Linear(width // 16, width)
        for projection in (self.down, self.up):
            nn.init.normal_(projection.weight, std=0.01)
            nn.init.zeros_(projection.bias)

    def __getattr__(self, name):
        # The model asks its attention for sizes; everything that is not here is the wrapped module's.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *inputs, **named):
        outputs = self.inner(*inputs, **named)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        first = first + self.up(F.relu(self.down(first)))
        return (first,) + tuple(outputs[1:]) if isinstance(outputs, tuple) else first


def add_bottlenecks(model, width):
    """Bottlenecks behind every attention and feed-forward of both stacks."""
    if FAMILY == "t5":
        for block in list(model.encoder.block) + list(model.decoder.block):
            for layer in block.layer:
                for name in ("SelfAttention", "EncDecAttention", "DenseReluDense"):
                    if hasattr(layer, name):
                        setattr(layer, name, Bottleneck(getattr(layer, name), width))
        return
    for layer in list(model.model.encoder.layers) + list(model.model.decoder.layers):
        for name in ("self_attn", "encoder_attn", "fc2"):
            if hasattr(layer, name):
                setattr(layer, name, Bottleneck(getattr(layer, name), width))


class Batch:
    """Padded token ids of one mini-batch; the masks are None when nothing is padded."""

    def __init__(self, lengths, decoder_tokens, generator):
        longest = max(lengths)
        self.samples = len(lengths)
        self.ids = torch.zeros(len(lengths), longest, dtype=torch.long)
        mask = torch.zeros(len(lengths), longest, dtype=torch.long)
        for row, length in enumerate(lengths):
            self.ids[row, :length] = torch.randint(FIRST_ORDINARY_TOKEN, VOCABULARY, (length,), generator=generator)
            mask[row, :length] = 1
        self.labels = torch.randint(
            FIRST_ORDINARY_TOKEN, VOCABULARY, (len(lengths), decoder_tokens), generator=generator)
        self.mask = self.additive_mask = None
        if min(lengths) < longest:
            self.mask = mask
            self.additive_mask = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


class SideNetwork(nn.Module):
    """Parallel Adapters: the backbone at width d/8 beside it; `h = g * down(tap) + (1 - g) * h`, then a block."""

    def __init__(self, shape, side_heads):
        super().__init__()
        width, hidden, layers, heads, _ = shape
        narrow, heads = width // REDUCTION, side_heads or heads
        if FAMILY == "t5":
            model = T5ForConditionalGeneration(
                t5_configuration(narrow, hidden // REDUCTION, layers, heads, narrow // heads, vocabulary=32))
            self.stacks = nn.ModuleList([model.encoder.block, model.decoder.block])
            self.norms = nn.ModuleList([model.encoder.final_layer_norm, model.decoder.final_layer_norm])
        else:
            core = BartForConditionalGeneration(
                bart_configuration(narrow, hidden // REDUCTION, layers, heads, vocabulary=32, positions=8)).model
            self.stacks = nn.ModuleList([core.encoder.layers, core.decoder.layers])
            self.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.downs = nn.ModuleList(
            [nn.ModuleList([nn.Linear(width, narrow) for _ in range(layers + 1)]) for _ in range(2)])
        self.gates = nn.ParameterList([nn.Parameter(torch.zeros(layers)) for _ in range(2)])
        self.up = nn.Linear(narrow, width)

    def run(self, stack, taps, **named):
        gates = torch.sigmoid(self.gates[stack])
        states = self.downs[stack][0](taps[0])
        for layer, block in enumerate(self.stacks[stack]):
            gate = gates[layer]
            states = gate * self.downs[stack][layer + 1](taps[layer + 1]) + (1 - gate) * states
            states = block(states, **named)
            states = states[0] if isinstance(states, tuple) else states
        return self.norms[stack](states)

    def forward(self, encoder_taps, decoder_taps, batch):
        source, target = encoder_taps[0].shape[1], decoder_taps[0].shape[1]
        causal = torch.triu(torch.full((target, target), torch.finfo(torch.float32).min), 1)
        if FAMILY == "bart":
            mask = batch.additive_mask
            encoded = self.run(0, encoder_taps, attention_mask=mask)
            decoded = self.run(
                1, decoder_taps, attention_mask=causal[None, None].expand(batch.samples, 1, target, target),
                encoder_hidden_states=encoded, encoder_attention_mask=mask)
            return self.up(decoded)
        bias = self.stacks[0][0].layer[0].SelfAttention.compute_bias(source, source)
        cross_bias = torch.zeros(1, bias.shape[1], target, source)
        if batch.additive_mask is not None:
            bias, cross_bias = bias + batch.additive_mask, cross_bias + batch.additive_mask
        encoded = self.run(0, encoder_taps, position_bias=bias)
        bias = self.stacks[1][0].layer[0].SelfAttention.compute_bias(target, target) + causal
        decoded = self.run(
            1, decoder_taps, position_bias=bias, encoder_hidden_states=encoded,
            encoder_decoder_position_bias=cross_bias)
        return self.up(decoded)


class Scenario:
    """One model (or side network) with its batches; `step` runs one step on the next batch."""

    def __init__(self, options):
        self.kind, self.shape, self.seed = options.scenario, SHAPES[options.shape], options.seed
        self.model = self.side = self.head = None
        if self.kind == "parallel-cached":
            self.head = torch.randn(VOCABULARY, self.shape[0]) * 0.02
        else:
            self.model = make_model(self.shape, options.dropout).eval()
        if self.kind.startswith("parallel"):
            self.side = SideNetwork(self.shape, options.side_heads).train()
        if self.model is not None and self.kind != "full":
            self.model.requires_grad_(False)
        if self.kind == "lora":
            from peft import LoraConfig, get_peft_model
            names = ["q", "v"] if FAMILY == "t5" else ["q_proj", "v_proj"]
            self.model = get_peft_model(
                self.model,
                LoraConfig(r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules=names))
        if self.kind == "houlsby":
            add_bottlenecks(self.model, self.shape[0])
        if self.kind in ("lora", "houlsby", "full"):
            self.model.train()
        trained = self.side if self.side is not None else self.model
        self.parameters = [p for p in trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True) if self.parameters else None

    def use(self, workload):
        """Draws the token ids (and, for cached steps, the activations) of every batch of a workload."""
        generator = torch.Generator().manual_seed(self.seed)
        self.position, self.taps = 0, None
        self.batches = [
            Batch(lengths, workload["decoder_tokens"], generator) for lengths in workload["batches"]]
        if self.kind == "parallel-cached":
            def draw(batch, tokens):
                shape = (batch.samples, tokens, self.shape[0])
                return [torch.randn(shape, generator=generator) for _ in range(self.shape[2] + 1)]
            self.taps = [(draw(b, b.ids.shape[1]), draw(b, b.labels.shape[1])) for b in self.batches]

    def decoder_ids(self, batch):
        if FAMILY == "t5":
            return self.model._shift_right(batch.labels)
        return shift_tokens_right(batch.labels, 1, 2)

    def backbone_taps(self, batch):
        core = self.model if FAMILY == "t5" else self.model.model
        with torch.no_grad():
            encoder = core.encoder(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
            decoder = core.decoder(
                input_ids=self.decoder_ids(batch), encoder_hidden_states=encoder.last_hidden_state,
                encoder_attention_mask=batch.mask, output_hidden_states=True, use_cache=False)
        return encoder.hidden_states, decoder.hidden_states

    def loss(self, batch, taps):
        if self.side is None:
            return self.model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels, use_cache=False).loss
        encoder_taps, decoder_taps = taps or self.backbone_taps(batch)
        states = self.side(encoder_taps, decoder_taps, batch) + decoder_taps[-1]
        # T5 scales the states before a tied head; without it logits grow so large that gradients are denormal.
        head = self.head if self.head is not None else self.model.lm_head.weight
        logits = (states * (self.shape[0] ** -0.5 if FAMILY == "t5" else 1.0)) @ head.t()
        return F.cross_entropy(logits.view(-1, VOCABULARY), batch.labels.view(-1))

    def step(self):
        """Runs one step; returns its seconds, also by part, and how many samples it had."""
        index = self.position % len(self.batches)
        self.position += 1
        batch, taps = self.batches[index], self.taps[index] if self.taps else None
        start = time.perf_counter()
        if self.kind == "forward":
            with torch.no_grad():
                self.model(
                    input_ids=batch.ids, attention_mask=batch.mask, use_cache=False,
                    decoder_input_ids=self.decoder_ids(batch))
            return {"seconds": time.perf_counter() - start, "samples": batch.samples}
        loss = self.loss(batch, taps)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end = time.perf_counter()
        return {"seconds": end - start, "samples": batch.samples, "forward": forward - start,
                "backward": backward - forward, "update": end - backward}


def answer(message):
    print(json.dumps(message), flush=True)


def main():
    torch.set_num_threads(OPTIONS.threads)
    torch.manual_seed(OPTIONS.seed)
    transformers.logging.set_verbosity_error()
    scenario = Scenario(OPTIONS)

    def use(path):
        with open(path) as file:
            workload = json.load(file)
        scenario.use(workload)
        return {"workload": workload["name"], "batches": len(workload["batches"])}

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if OPTIONS.scenario == "lora":
        import peft
        versions["peft"] = peft.__version__
    answer({
        "ready": True, **use(OPTIONS.workload), "versions": versions, "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "trainable_parameters": sum(p.numel() for p in scenario.parameters)})
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "step":
            answer(scenario.step())
        elif command == "workload":
            answer(use(rest))
        elif command == "memory":
            answer(machine.process_memory())
        elif command == "quit":
            return
        else:
            answer({"error": f"unknown command '{command}'"})


if __name__ == "__main__":
    main()
