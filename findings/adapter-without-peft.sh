#!/bin/sh
# One would guess: a directory that holds a LoRA beside its base (adapter_config.json, adapter_model.safetensors) either loads with the
#   adapter, or fails where peft, which applies it, is not installed.
# What happens (transformers 5.23.0 without peft): from_pretrained loads the base alone and says nothing. With peft installed the same
#   call applies the adapter.
# Why it matters here: an exporter's vectors would depend on an optional package being there. Adapters are looked for by their file,
#   merged with peft, and refused without it.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 2> /dev/null
cd "$place"
HF_HUB_OFFLINE=1 "$place/env/bin/python" - << 'PYTHON' 2> errors
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

torch.manual_seed(0)
sizes = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
base = BertForMaskedLM(BertConfig(**sizes)).eval()
base.save_pretrained("both")
query = "bert.encoder.layer.0.attention.self.query"
tensors = {f"base_model.model.{query}.lora_{name}.weight": torch.ones(shape) for name, shape in (("A", (2, 16)), ("B", (16, 2)))}
save_file(tensors, "both/adapter_model.safetensors")
adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "base_model_name_or_path": "both"}
Path("both/adapter_config.json").write_text(json.dumps(adapter))
loaded = AutoModelForMaskedLM.from_pretrained("both").eval()
ids = torch.tensor([[1, 2, 3]])
same = torch.equal(loaded(input_ids=ids).logits, base(input_ids=ids).logits)
print("the logits are the base's:", same)
assert same
PYTHON
if grep -qi adapter errors; then echo "transformers says something of the adapter now:"; cat errors; exit 1; fi
