#!/bin/sh
# One would guess: get_output_embeddings() of a masked-language model is the layer that makes its logits.
# What happens (transformers 5.23.0): DebertaV2ForMaskedLM with "legacy": false returns the head's dense layer, [hidden, hidden]. The
#   logits are a product with the word embeddings plus a bias, and no layer of their own.
# Why it matters here: an exporter that pools before that "decoder" exports vectors of 768 terms in place of 128,000. The decoder is
#   found by running the model instead.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 2> /dev/null
HF_HUB_OFFLINE=1 "$place/env/bin/python" - 2> /dev/null << 'PYTHON'
import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
seen = {}
for legacy in (True, False):
    model = DebertaV2ForMaskedLM(DebertaV2Config(**sizes, legacy=legacy)).eval()
    layer = model.get_output_embeddings()
    logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    seen[legacy] = (type(layer).__name__, list(layer.weight.shape), list(logits.shape))
    print(f"legacy={legacy}: get_output_embeddings() is {seen[legacy][0]} {seen[legacy][1]}, the logits are {seen[legacy][2]}")
assert seen[True][1] == [50, 16] and seen[False][1] == [16, 16] and seen[False][2][-1] == 50
PYTHON
