"""Word lists and the matcher: boundaries, plurals, the longest term, faults named by line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.curation.captions import Lists, column_names
from bias_clip.curation.word_lists import (
    LISTS,
    make_matcher,
    parse_word_list,
    plural_forms,
    read_word_list,
)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("A Man, smiling.", {"man"}),
        ("MEN at the bar", {"man"}),
        ("the men’s race", {"man"}),
        ("policeman, human, mandarin, salesmanship", set()),
        ("a man-made lake", set()),
        ("x_man", set()),
        ("old-man-with_hat.jpg", {"man"}),
        ("a fire  engine", {"engine"}),
        ("a fire-engine", {"engine"}),
        ("an engine on fire", {"fire"}),
        ("two fire engines", {"engine"}),
        ("fire, engine", {"fire"}),
        ("Éclair and cafe\u0301s", {"food"}),
        ("ＣＡＦÉ", {"food"}),
        ("мужчины", set()),
        ("Мужчина!", {"man"}),
        ("लड़का", {"boy"}),
        ("लड़काी", set()),
        ("a monarch", set()),
    ],
)
def test_terms_are_found_between_word_boundaries_in_any_case_and_script(caption, found):
    terms = {
        "man": ["man", "мужчина"],
        "fire": ["=fire"],
        "engine": ["fire engine"],
        "food": ["café", "éclair"],
        "boy": ["लड़का"],
        "arch": ["arch"],
    }
    assert make_matcher(terms)(caption) == found


@pytest.mark.parametrize(
    ("term", "plural"),
    [
        *[("nurse", "nurses"), ("boss", "bosses"), ("coach", "coaches"), ("lady", "ladies")],
        *[("boy", "boys"), ("man", "men"), ("policewoman", "policewomen"), ("person", "people")],
        *[("wife", "wives"), ("child", "children"), ("hero", "heroes"), ("german", "germans")],
        *[("head of state", "heads of state"), ("mother in law", "mothers in law")],
        *[("woman doctor", "women doctors"), ("police officer", "police officers")],
    ],
)
def test_plurals(term, plural):
    assert plural in plural_forms(term)
    assert make_matcher({"x": [term]})(f"two {plural}.") == {"x"}


def test_a_form_that_is_listed_is_no_other_terms_plural():
    match = make_matcher(
        {"man": ["=mr"], "woman": ["mrs"], "glass": ["glass"], "lens": ["glasses"]}
    )
    assert [match(c) for c in ("Mr X", "Mrs X", "glasses")] == [{"man"}, {"woman"}, {"lens"}]
    assert make_matcher({"man": ["=he"]})("hes") == frozenset()
    with pytest.raises(ValueError, match="speaks for 'a' and 'b'"):
        make_matcher({"a": ["x-y"], "b": ["X Y"]})


def test_the_longest_term_uses_its_words_up():
    match = make_matcher({"officer": ["officer"], "police": ["police officer"]}, ["officer mess"])
    assert match("a police officer") == {"police"}
    assert match("a police officer and an officer") == {"police", "officer"}
    assert match("the officer mess") == frozenset()


WORDS = st.lists(
    st.sampled_from("red fox red-fox foxes man men big".split()), min_size=1, max_size=3
)
TERMS = st.lists(WORDS.map(" ".join), min_size=1, max_size=5, unique=True)


@settings(max_examples=100, deadline=None)
@given(few=TERMS, more=TERMS, caption=st.lists(WORDS.map(" ".join), max_size=4).map(" ".join))
def test_a_longer_list_keeps_the_captions_it_had(few, more, caption):
    if make_matcher({"x": few})(caption):
        assert make_matcher({"x": few + more})(caption)


@settings(max_examples=100, deadline=None)
@given(
    terms=TERMS,
    before=st.sampled_from(["", "a ", "(", "no. "]),
    after=st.sampled_from(["", "!", " x"]),
)
def test_every_term_and_plural_is_found_where_it_stands_alone(terms, before, after):
    for term in terms:
        for form in (term, *plural_forms(term.replace("-", " "))):
            assert make_matcher({"x": terms})(f"{before}{form.upper()}{after}") == {"x"}


@pytest.mark.parametrize("name", sorted(path.stem for path in LISTS.glob("*.txt")))
def test_the_lists_of_the_package_find_their_own_terms(name):
    words = read_word_list(name)
    match = make_matcher(words.terms, words.ignore)
    for owner, terms in words.terms.items():
        for term in terms:
            assert match(f"see {term.removeprefix('=')} there") == {owner}, term
    for term in words.ignore:
        assert match(f"see {term.removeprefix('=')} there") == frozenset(), term


def test_the_lists_of_the_package_go_together():
    lists = Lists(*((read_word_list(name),) for name in ("gender", "occupations", "proxies")))
    names = column_names(lists)
    assert names.attributes == ("man",)
    assert len(names.labels) > 100
    assert len(names.proxies) > 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: x\n\na: y", r"f\.txt:3: 'a' comes twice, first at f\.txt:1"),
        ("a: x, y\nb: z,\n   X", r"f\.txt:2: the term 'X' of 'b' comes twice, first at f\.txt:1"),
        ("a: x-y, x y", r"f\.txt:1: the term 'x y'"),
        ("a: # none", r"f\.txt:1: 'a' has no terms"),
        ("a: x,, y", r"f\.txt:1: 'a' has an empty term"),
        ("# c\njust words", r"f\.txt:2: got 'just words', expected 'name: term"),
        (": x", r"f\.txt:1"),
        ("  x, y", r"f\.txt:1: continues nothing"),
        ("# nothing", r"f\.txt is empty"),
        ("ignore: x", r"f\.txt is empty"),
    ],
)
def test_a_faulty_list_is_named_by_file_and_line(text, message):
    with pytest.raises(ValueError, match=message):
        parse_word_list(text, "f.txt")


def test_lists_of_files_continue_over_lines_and_are_known_by_their_hash(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a: x y, # one\n   =z\nignore: w\n")
    first = read_word_list(path)
    assert (first.name, first.terms, first.ignore) == ("mine", {"a": ("x y", "=z")}, ("w",))
    path.write_text("a: x y, =z\nignore: w\n")
    assert read_word_list(path).sha256 != first.sha256
    with pytest.raises(ValueError, match=r"no word list 'gendr'.*'gender'"):
        read_word_list("gendr")
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="UTF-8"):
        read_word_list(path)
