#!/bin/sh
# One would guess: a truncation limit of 1, where the template alone adds [CLS] and [SEP], raises, or gives one token.
# What happens (tokenizers 0.23.3): limits of 0 and 1 neither raise nor cut. The whole text comes back, however long it is. A limit of
#   2 gives the two special tokens.
# Why it matters here: a query_length of 1 in a checkpoint would mean "no limit" to the encoder, and a graph would be given texts
#   beyond its positions. Such lengths are refused at export and at open.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3 2> /dev/null
"$place/env/bin/python" - << 'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers, processors

tokenizer = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2}, unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
)
seen = {}
for limit in (0, 1, 2, 3):
    tokenizer.enable_truncation(limit)
    seen[limit] = len(tokenizer.encode("a " * 100).ids)
    print(f"limit {limit}: {seen[limit]} tokens")
assert seen == {0: 102, 1: 102, 2: 2, 3: 3}
PYTHON
