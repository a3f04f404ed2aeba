"""Audits models: what they know and what they associate, each number with its interval.

    bias-clip audit runs/emoji --out audits/emoji
    bias-clip audit plain=runs/plain balanced=runs/balanced --out audits/both
    bias-clip audit hf://google/siglip-base-patch16-224 --suite fairface_datacomp=data/wds_fairface_test
    bias-clip audit mine --embeddings mine=images.npz,texts.npz --suite sispi=data/sispi

A model is the workdir of a run or a published checkpoint; with --embeddings, a name. Models after the
first are compared with it on the same items. Without --suite and --source the audit is on the emoji in
this package: minutes, no download, and nothing about real people. --source audits a data source of your
own by the groups of a column. Embeddings are cached by model and data: started again, the audit goes on.

Writes index.html, audit.json, audit.csv and audit.tex to --out. docs/audit.md explains each number.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_clip.cli.shared.flags import (
    Parser,
    read_call,
    read_changes,
    read_pairs,
    read_value,
    run_tool,
    write_json,
)

if TYPE_CHECKING:
    from bias_clip.evals.audit import Provenance
    from bias_clip.train.workdir.load_run import Trained


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, audits, and writes the page and its numbers."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Audits what the command line asks for.

    Raises:
      ValueError: a model or a suite that cannot be read, or arguments that contradict each other.
    """
    from bias_clip.evals.audit import list_texts, run_audit
    from bias_clip.report.audits.audit_folder import say, write_audit

    items = read_items(args)
    # The texts follow from the suites alone, so that no model is needed yet.
    if args.list_texts:
        texts = list_texts(items, attribute=args.attribute, baselines=not args.no_baselines)
        write_json(texts, args.list_texts)
        if args.list_texts != "-":
            print(f"{args.list_texts}: {len(texts):,} texts")
        return
    if not args.models:
        raise ValueError("got no model; give a run, a checkpoint, or a name with --embeddings.")
    models = read_models(args)
    audit = run_audit(
        models,
        items,
        num=args.resamples,
        seed=args.seed,
        min_items=args.min_items,
        attribute=args.attribute,
        baselines=not args.no_baselines,
        say=say,
    )
    write_audit(audit, args.out)


def read_items(args: argparse.Namespace) -> list:
    """Returns the suites of the command line with their data.

    Raises:
      ValueError: what the readers raise; both --suite and --source; --by without --source.
    """
    from bias_clip.data.sources import make_source
    from bias_clip.evals.audit.own_data import EMOJI, own_items, suite_item
    from bias_clip.evals.suites.layouts.data import read_lines

    if args.source:
        if args.suite or not args.by:
            raise ValueError("--source needs --by COLUMN, and goes without --suite.")
        name, arguments = read_call(args.source, flag="--source")
        queries = read_lines(Path(args.words), "a word per line") if args.words else []
        source = make_source(name=name, **arguments)
        about = {"source": {"name": name, **{k: repr(v) for k, v in arguments.items()}}}
        return own_items(
            source,
            about,
            by=args.by,
            label=args.label,
            cluster=args.cluster,
            words=queries,
            least=args.min_items,
        )
    if args.by or args.label or args.words or args.cluster:
        raise ValueError(
            "--by, --label, --cluster and --words are of --source, which is not given."
        )
    files = read_pairs(args.file, flag="--file", example="sobit.words=folder")
    arguments = read_pairs(args.argument, flag="--argument", example="retrieval_coco.split=test")
    paths = {name: path for name, _, path in (w.partition("=") for w in args.suite or EMOJI)}
    if len(paths) < len(args.suite):
        raise ValueError(f"--suite is {args.suite}; expected each suite once.")
    _check_owners([*files, *arguments], list(paths))
    items = []
    for name, path in paths.items():
        given = {
            key: read_value(value, flag="--argument")
            for key, value in _own(arguments, name).items()
        }
        items.append(suite_item(name, path or None, _own(files, name), given))
    return items


def _own(pairs: Mapping[str, str], suite: str) -> dict[str, str]:
    """The pairs SUITE.KEY=VALUE of one suite, by KEY."""
    return {
        key.partition(".")[2]: value
        for key, value in pairs.items()
        if key.partition(".")[0] == suite
    }


def _check_owners(keys: Sequence[str], suites: Sequence[str]) -> None:
    """Raises ValueError for a key of a suite that is not audited: it would have no effect."""
    others = [key for key in keys if key.partition(".")[0] not in suites]
    if others:
        raise ValueError(
            f"--file or --argument has {others}, of none of the suites {list(suites)}; correct the "
            "name before the dot, or add the suite."
        )


def read_models(args: argparse.Namespace) -> list:
    """Returns the models of the command line, by the names that they are given or have.

    Raises:
      ValueError: a model that cannot be loaded; embeddings of no model.
    """
    from bias_clip.evals.audit import table_model

    tables = read_pairs(args.embeddings, flag="--embeddings", example="mine=images.npz,texts.npz")
    models, named = [], set()
    for word in args.models:
        name, equals, path = word.partition("=")
        path = path if equals else word
        # Without a name of its own, a model is called by the last part of its path.
        name = name if equals else Path(word).name
        if name in tables:
            models.append(table_model(name, [Path(p) for p in tables[name].split(",")]))
            named.add(name)
            continue
        # Here and not above: models that are given as embeddings do not need the trainer's modules.
        from bias_clip.evals.audit import stage_model
        from bias_clip.report.audits.audit_folder import say
        from bias_clip.train.workdir.load_model import load_model
        from bias_clip.train.workdir.load_run import as_stage, identity

        found = load_model(path, changes=read_changes(own_words(args.set, name)))
        cache = args.cache or args.out / "cache"
        which = identity(found)
        model = stage_model(
            name,
            as_stage(found, args.batch_size),
            which,
            provenance=_provenance(path, found, which),
            cache=cache,
            batch_size=args.batch_size,
            say=say,
        )
        model.notes.extend(found.notes)
        models.append(model)
    # A misspelt name would otherwise be looked for as a run, and its embeddings ignored.
    unused = sorted(tables.keys() - named)
    if unused:
        raise ValueError(f"--embeddings of {unused}, which are not among the models {args.models}.")
    return models


def _provenance(path: str, found: "Trained", which: Mapping[str, Any]) -> "Provenance":
    """Which model a path holds: the path as it was typed, and what its parameters say."""
    import jax

    from bias_clip.evals.audit import Provenance

    parameters = sum(leaf.size for leaf in jax.tree.leaves(found.params))
    sha256 = {"parameters": which["params_sha256"]}
    if found.origin is None:
        averaged = "" if found.config.ema_decay is None else "averaged parameters"
        return Provenance(path, "run", averaged, found.step, parameters, sha256)
    details = f"{found.origin['family']} in the layout of {found.origin['layout']}"
    if "commit" in found.origin:
        details += f", commit {found.origin['commit']}"
    return Provenance(path, "published checkpoint", details, None, parameters, sha256)


def own_words(words: Sequence[str], name: str) -> list[str]:
    """Returns the words of --set for one model: those with its name, and those without any."""
    own = []
    for word in words:
        key, equals, value = word.partition("=")
        # A slash ends the name of a model; keys of --set have dots and no slash.
        whose, slash, rest = key.rpartition("/")
        if not slash or whose == name:
            own.append(f"{rest if slash else key}{equals}{value}")
    return own


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "models", nargs="*", metavar="[NAME=]MODEL", help="a run's workdir, a checkpoint, or a name"
    )
    add("--out", type=Path, default=Path("audit"), help="the folder to write")
    add(
        "--suite",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FOLDER",
        help="published suites and their data, such as sispi=data/sispi",
    )
    add(
        "--file",
        nargs="+",
        action="extend",
        default=[],
        metavar="SUITE.ROLE=PATH",
        help="your copy of a file that cannot be shipped, such as sobit.words=folder",
    )
    add(
        "--argument",
        nargs="+",
        action="extend",
        default=[],
        metavar="SUITE.KEY=VALUE",
        help="of the reader of a suite's data, such as celeba.split=val",
    )
    add(
        "--source",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="your own data: parquet, webdataset, ..., then its arguments",
    )
    add("--by", metavar="COLUMN", help="groups of your own data")
    add("--label", metavar="COLUMN", help="class names of your own data, for accuracy by group")
    add(
        "--cluster",
        metavar="COLUMN",
        help="what images share, such as a person: resampled together",
    )
    add("--words", metavar="FILE", help="what to search for in your own data, one per line")
    add(
        "--embeddings",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE,FILE",
        help=".npz, .npy or .parquet of images and of texts; see docs/audit.md",
    )
    add("--list-texts", metavar="FILE", help="write the texts that the suites need, and stop")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME/]KEY=VALUE",
        help="what a checkpoint does not state, such as tokenizer=FILE or siglip/tokenizer=FILE",
    )
    add("--cache", type=Path, help="folder of embeddings; default: cache in --out")
    add("--batch-size", type=int, default=128, help="images or texts embedded at a time")
    add("--resamples", type=int, default=2000, help="behind each interval; rankings take fewer")
    add("--seed", type=int, default=0, help="of the resamples")
    add("--min-items", type=int, default=5, help="images a number needs, or clusters of them")
    add(
        "--attribute",
        help="column that the baselines remove; default: gender, or the column of the groups",
    )
    add("--no-baselines", action="store_true", help="leave out projections and feature clipping")
    return parser


if __name__ == "__main__":
    main()
