#!/bin/sh
# One would guess: SparseEncoder(prompts={"passage": "passage: "}, default_prompt_name="passage") puts the prompt before documents,
#   since encode_document looks for "document", "passage" and "corpus" in turn, and a default name is what counts otherwise.
# What happens (sentence-transformers 6.2.0): every model has prompts named "query" and "document", if only empty ones, and they are
#   saved. encode_document finds "document" first, and the empty text wins. The prompt and the default name are dead; only encode()
#   without a task uses them.
# Why it matters here: an exporter that applied default_prompt_name, as its name asks for, would give other vectors than the library.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 2> /dev/null
cd "$place"
HF_HUB_OFFLINE=1 "$place/env/bin/python" - 2> /dev/null << 'PYTHON'
from pathlib import Path

import torch
from sentence_transformers import SparseEncoder
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "passage", ":", "oil", "war"]
Path("vocab.txt").write_text("\n".join(words))
tokenizer = BertTokenizer.from_pretrained(".")
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=16, initializer_range=0.5,
)
BertForMaskedLM(config).save_pretrained("plain")
tokenizer.save_pretrained("plain")
model = SparseEncoder("plain", prompts={"passage": "passage : "}, default_prompt_name="passage", device="cpu")
print("prompts", model.prompts, "default", model.default_prompt_name)
document, plain, prompted = (
    call.to_dense() for call in (model.encode_document("oil"), model.encode("oil", prompt=""), model.encode("oil"))
)
print("encode_document is encode without a prompt:", torch.equal(document, plain))
print("encode is something else:", not torch.equal(prompted, plain))
assert model.prompts["document"] == "" and torch.equal(document, plain) and not torch.equal(prompted, plain)
PYTHON
