#!/bin/sh
# One would guess: tokenizer.json, which save_pretrained writes, gives the ids that the tokenizer gave.
# What happens (transformers 5.23.0, tokenizers 0.23.3): split_special_tokens, which makes "[SEP]" in a text ordinary text, is an
#   attribute of the object alone. It goes to tokenizer_config.json, never to tokenizer.json, whose format has no place for it. So the
#   same file gives other ids in the tokenizers library, in Rust and in JavaScript.
# Why it matters here: the artifact has to carry the setting beside tokenizer.json (`split_special_tokens` of its manifest).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 2> /dev/null
cd "$place"
"$place/env/bin/python" - << 'PYTHON'
from pathlib import Path

from tokenizers import Tokenizer
from transformers import BertTokenizer

Path("vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "oil", "war", "[", "]", "sep"]))
tokenizer = BertTokenizer.from_pretrained(".", split_special_tokens=True)
tokenizer.save_pretrained("saved")
own = tokenizer.convert_ids_to_tokens(tokenizer("oil [SEP] war")["input_ids"])
file = Tokenizer.from_file("saved/tokenizer.json").encode("oil [SEP] war").tokens
print("transformers  ", own)
print("tokenizer.json", file)
assert own == ["[CLS]", "oil", "[", "sep", "]", "war", "[SEP]"]
assert file == ["[CLS]", "oil", "[SEP]", "war", "[SEP]"]
PYTHON
