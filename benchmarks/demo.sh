#!/bin/sh
# What `make demo` shows: a checkpoint pair in, answers out. Run it from the repository's root with splade-edge on PATH.
set -eu

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
run() {
    printf '$ splade-edge'
    for word in "$@"; do
        case $word in *' '*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    splade-edge "$@"
}

say '1. Export the default pair to ONNX and OpenVINO, fp32 and int8, compared with sentence-transformers'
run export models/default --output demo/pair --force

say '2. Index the sample corpus: 200 paragraphs'
run index demo/pair benchmarks/data/demo/corpus.jsonl --output demo/index --force

say '3. Search'
run search demo/index 'which country rationed gasoline' -k 3
run search demo/index 'first working railway steam locomotive' -k 3
run search demo/index 'who discovered oxygen' -k 3
run search demo/index 'how do packets find their way through a network' -k 3
run search demo/index 'when did Kenya become an independent country' -k 2 --explain

say '4. How good are the answers? 30 questions with known answers'
run eval demo/index --queries benchmarks/data/demo/queries.jsonl --qrels benchmarks/data/demo/qrels/test.tsv

say 'demo/index is all a device needs: copy it there, install the runtime (runtime/README.md), and search.'
