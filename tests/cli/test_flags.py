"""One grammar: what the words mean, how numbers are shown, and how errors end."""

import json

import pytest

from bias_clip.cli.shared import choices
from bias_clip.cli.shared.flags import (
    Parser,
    add_json,
    add_set,
    add_source,
    add_workdirs,
    read_call,
    read_pair,
    read_set,
    run_tool,
    show,
)


def test_a_call_is_a_name_and_python_values():
    words = ["emoji", "split=train", "n=3", "f=0.5", "t=(1, 'a')", "b=True", "p=a=b"]
    values = {"split": "train", "n": 3, "f": 0.5, "t": (1, "a"), "b": True, "p": "a=b"}
    assert read_call(words, flag="--source") == ("emoji", values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["emoji", "train"], "--source: got 'train', expected key=value"),
        (["emoji", "=x"], "expected key=value"),
        (["emoji", "a=1", "a=2"], "'a' is given twice"),
        (["emoji", "a=true"], "got true; write True"),
    ],
)
def test_what_is_no_call_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        read_call(words, flag="--source")


def test_a_name_may_hold_an_equals_sign_where_the_value_is_a_number():
    assert read_pair("role=cook=0.5", flag="--targets", last=True) == ("role=cook", "0.5")


def test_overrides_are_read_alike_in_all_tools():
    given = ["total=1_000 steps", "mesh.fsdp=2"]
    assert read_set(given) == given
    with pytest.raises(ValueError, match=r"--set: got 'total', expected key=value"):
        read_set(["total"])


def parser():
    made = Parser(prog="tool", description="Does it.")
    made.add_argument("--shares", nargs="+", default=["a", "50%"], help="shares")
    made.add_argument("--seed", type=int, default=0, help="seed")
    made.add_argument("--fast", action="store_true", help="fast")
    add_set(made)
    add_json(made)
    return made


def test_help_shows_the_defaults_that_say_something(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert "shares (default: a 50%)" in out
    assert "seed (default: 0)" in out
    assert "fast\n" in out
    assert out.count("default") == 2


def test_set_may_come_once_or_often():
    given = parser().parse_args(["--set", "a=1", "b=2", "--set", "c=3"]).set
    assert given == ["a=1", "b=2", "c=3"]
    assert parser().parse_args([]).set == []  # the default is not the list that was extended


def test_a_wrong_line_is_one_line_and_status_2(capsys):
    for words, message in (
        (["--sedd=1"], "unrecognized arguments: --sedd=1"),
        (["--see=1"], "unrecognized arguments: --see=1"),
        (["--json"], "--json needs a FILE to write, or - for stdout"),
    ):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args(words)
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"error: {message}; see tool --help\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("two\nlines"), "error: two lines"),
        (FileNotFoundError(2, "No such file", "a.json"), "error: [Errno 2] No such file: 'a.json'"),
        (
            ModuleNotFoundError("no", name="pyarrow.parquet"),
            'error: this needs pyarrow.parquet, which is not installed: pip install "bias_clip[train]"',
        ),
        (RuntimeError("ours"), "error: ours"),
    ],
)
def test_what_was_to_be_expected_is_one_line(error, message):
    def work(_):
        raise error

    with pytest.raises(SystemExit, match=r"^error") as ended:
        run_tool(parser(), work, [], errors=(RuntimeError,))
    assert ended.value.code == message


@pytest.mark.parametrize("error", [KeyError("x"), ModuleNotFoundError("no", name="mine")])
def test_a_fault_of_ours_keeps_its_stack(error):
    def work(_):
        raise error

    with pytest.raises(type(error)):
        run_tool(parser(), work, [])


def test_the_status_of_the_work_is_the_tool_s():
    run_tool(parser(), lambda _: 0, [])
    with pytest.raises(SystemExit) as ended:
        run_tool(parser(), lambda _: 75, [])
    assert ended.value.code == 75


def test_json_goes_to_a_file_or_alone_to_stdout(tmp_path, capsys):
    numbers = {"a": float("nan"), "b": [1.5, float("inf")]}
    path = tmp_path / "x.json"
    show("text", numbers, str(path))
    assert capsys.readouterr().out == "text\n"
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None]}
    show("text", numbers, "-")
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None]}


def test_workdir_and_source_are_lists_of_words():
    made = Parser()
    add_workdirs(made)
    add_source(made)
    args = made.parse_args("--workdir a b --workdir c --source emoji split=x --step 1".split())
    assert [str(path) for path in args.workdir] == ["a", "b", "c"]
    assert (args.source, args.step) == (["emoji", "split=x"], [1])


def test_choices_are_those_of_the_library():
    from bias_clip.balancing import balanced_draw, problem
    from bias_clip.curation import captions
    from bias_clip.curation.quality import measures
    from bias_clip.data import record_shards
    from bias_clip.data.tables import embeddings, embeddings_writer
    from bias_clip.evals import concat
    from bias_clip.stages import kmeans

    assert captions.BOTH == choices.BOTH
    assert tuple(captions.MERGE_RULES) == choices.MERGE_RULES
    assert balanced_draw.DRAWS == choices.DRAWS
    assert (problem.TOLERANCES, problem.UNKNOWNS) == (choices.TOLERANCES, choices.UNKNOWNS)
    assert embeddings.MODALITIES == choices.MODALITIES
    assert embeddings_writer.DTYPES == choices.DTYPES
    assert measures.PARTS == choices.MEASURES
    assert (record_shards.FORMS, record_shards.CHECKS) == (choices.SHARD_FORMS, choices.CHECKS)
    assert (concat.FORMS, kmeans.EMPTY) == (choices.FORMS, choices.EMPTY)
