#!/bin/sh
# One would guess: AutoTokenizer reads tokenizer.json, so a directory's tokenizer does what that file says.
# What happens (transformers 5.23.0, tokenizers 0.23.3): where tokenizer_config.json names BertTokenizer, the normalizer, the
#   pre-tokenizer and the post-processor are built anew from the class and the vocabulary; those of tokenizer.json are dropped in
#   silence. transformers 4 honoured them. PreTrainedTokenizerFast still does.
# Why it matters here: the artifact carries a tokenizer.json. Which of the two the encoder was trained with decides every vector,
#   and only the user can know it: hence --tokenizer class|file.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 2> /dev/null
cd "$place"
"$place/env/bin/python" - << 'PYTHON'
import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "Red", "-", "cat", "red-cat"]
file = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
file.normalizer = normalizers.NFC()
file.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
file.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
seen = {"tokenizer.json": file.encode("Red red-cat").tokens}
for kind in ("BertTokenizer", "PreTrainedTokenizerFast"):
    folder = Path(kind)
    folder.mkdir()
    file.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **names}))
    seen[kind] = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(
        AutoTokenizer.from_pretrained(folder)("Red red-cat")["input_ids"]
    )
for name, tokens in seen.items():
    print(f"{name:24} {tokens}")
assert seen["tokenizer.json"] == seen["PreTrainedTokenizerFast"] == ["[CLS]", "Red", "red-cat"]
assert seen["BertTokenizer"] == ["[CLS]", "red", "red", "-", "cat", "[SEP]"]
PYTHON
