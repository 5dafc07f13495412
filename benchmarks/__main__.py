"""All benchmarks, one after the other, each in a process of its own: what ``make bench`` runs.

Writes NAME.json, NAME.md and the plots to the output directory. A benchmark that takes too long for one sitting can be
run on its own (``--only``), and ``--resume`` leaves out those that have left their results.

Command: ``python -m benchmarks``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .processes import module
from .report import say
from .workload import collection_path

_NAMES = (
    "scorer",
    "scorer-reordered",
    "choice",
    "bounds",
    "scorer-large",
    "indexing",
    "resident",
    "filters",
    "encoder",
    "startup",
    "quality",
)
_DEMO = Path("benchmarks/data/demo")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="DIR")
    parser.add_argument("--only", default=",".join(_NAMES), metavar="LIST", help="of %(default)s")
    parser.add_argument("--resume", action="store_true", help="leave out what has results in the output directory")
    parser.add_argument("--documents", default="100000,1000000", metavar="N,N", help="collections of the scorer")
    parser.add_argument("--large", default="3000000", metavar="N", help="collection of scorer-large")
    parser.add_argument("--k", default="10,100,1000", metavar="K,K")
    parser.add_argument("--engines", metavar="NAME,NAME", help="engines of the scorer (default: all installed)")
    parser.add_argument("--checkpoint", default="models/default", metavar="DIR")
    parser.add_argument("--pair", metavar="DIR", help="an exported pair (default: export the checkpoint)")
    parser.add_argument(
        "--set",
        action="append",
        metavar="DIR[:SPLIT]",
        help=f"BEIR sets for the quality (default: {_DEMO}); repeatable",
    )
    parser.add_argument(
        "--runtime-python", metavar="FILE", help="Python of an environment with the runtime alone, for startup"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that everything runs, not to measure")
    args = parser.parse_args(argv)
    wanted = args.only.split(",")
    if args.resume:
        wanted = [name for name in wanted if not (args.output / f"{name}.json").exists()]
    unknown = set(wanted) - set(_NAMES)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(_NAMES)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    args.output.mkdir(parents=True, exist_ok=True)
    failed = []
    if args.pair is None and {"encoder", "startup", "quality"} & set(wanted):
        args.pair = str(args.output / "work" / "pair")
        if not _run("export", [_splade_edge("export", args.checkpoint, "--output", args.pair, "--force")]):
            failed.append("export")
    failed += [name for name in _NAMES if name in wanted and not _run(name, _commands(name, args))]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _commands(name: str, args: argparse.Namespace) -> list[list[str]]:
    """The command of a benchmark, after those that make what it needs."""
    written = ["--json", str(args.output / f"{name}.json"), "--markdown", str(args.output / f"{name}.md")]
    # The scorer's collection of a million documents is the one that is indexed.
    work = ["--work", str(args.output / "work" / ("quality" if name == "quality" else "synthetic"))]
    synthetic = args.output / "work" / "synthetic"
    documents = "10000" if args.quick else args.documents
    engines = ["--engines", args.engines] if args.engines else []
    rounds = ["--rounds", "2", "--budget", "0.5"] if args.quick else []
    if name in ("scorer", "scorer-large"):
        size = documents if name == "scorer" else "20000" if args.quick else args.large
        ks = args.k if name == "scorer" else "10,1000"
        sizes = ["--documents", size, "--k", ks, *rounds]
        return [module("scorer", *sizes, *engines, "--output", str(args.output / name), *work, *written)]
    if name == "scorer-reordered":
        sources = [collection_path(synthetic, int(number)) for number in documents.split(",")]
        reordered = [str(source.with_name(source.name + "-reordered")) for source in sources]
        generate = [
            module("workload", str(source), "--documents", number)
            for source, number in zip(sources, documents.split(","), strict=True)
            if not (source / "meta.json").exists()
        ]
        reorder = [module("derived", "reorder", *map(str, pair)) for pair in zip(sources, reordered, strict=True)]
        collections = [part for path in reordered for part in ("--collection", path)]
        options = ["--k", args.k, *rounds, *engines, "--output", str(args.output / name)]
        return [*generate, *reorder, module("scorer", *collections, *options, *work, *written)]
    if name == "choice":
        return [module(name, "--documents", documents, "--queries", "20" if args.quick else "100", *work, *written)]
    if name == "bounds":
        collection = collection_path(synthetic, int(documents.split(",")[-1]))
        index = synthetic / "indexes" / f"{collection.name}-splade-edge" / "index"
        # the scorer's engine has made the index
        build = module(
            "scorer", "--documents", str(documents.split(",")[-1]), "--engines", "splade-edge", "--queries", "1", *work
        )
        return [build, module(name, str(collection), str(index), *written)]
    if name in ("indexing", "resident"):
        sizes = ["--documents", "50000", "--memory", "32M"] if args.quick else ["--documents", "1000000"]
        return [module(name, *sizes, *work, *written)]
    if name == "filters":
        return [module(name, "--documents", "50000" if args.quick else "1000000", *work, *written)]
    index = str(args.output / "work" / "demo-index")
    make = _splade_edge("index", args.pair, str(_DEMO / "corpus.jsonl"), "--output", index, "--force")
    if name == "encoder":
        rounds = ["--rounds", "2" if args.quick else "20"]
        checkpoint = str(Path(args.checkpoint) / "query")
        queries = str(_DEMO / "queries.jsonl")
        options = ["--pair", args.pair, "--checkpoint", checkpoint, *rounds]
        return [make, module(name, index, queries, *options, *written)]
    if name == "startup":
        repeat = ["--repeat", "2" if args.quick else "7"]
        python = ["--python", args.runtime_python] if args.runtime_python else []
        return [make, module(name, index, *repeat, *python, *written)]
    sets = args.set or [str(_DEMO)]
    return [module(name, *sets, "--pair", args.pair, "--checkpoint", args.checkpoint, *work, *written)]


def _splade_edge(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "splade_edge.runtime.cli.main", *arguments]


def _run(name: str, commands: list[list[str]]) -> bool:
    start = time.perf_counter()
    say(f"== {name}")
    done = all(subprocess.run(command, check=False).returncode == 0 for command in commands)
    say(f"== {name}: {'done' if done else 'FAILED'} after {time.perf_counter() - start:.0f} s")
    return done


if __name__ == "__main__":
    sys.exit(main())
