"""How a model reads texts, as the tokenizer files of transformers and open_clip.

A reader who gets another tokenizer than the model had loses quality without noticing. So the files are
copied, or made from what this package ships; a rule that the layout cannot say is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from bias_clip.data.text import Vocabulary, load_vocabulary, vocabulary_files
from bias_clip.pretrained.exports.export_images import Written
from bias_clip.pretrained.exports.export_siglip_tokens import hugging_face_siglip, open_clip_siglip
from bias_clip.pretrained.exports.refused_texts import need, other_form, refused

_CONFIG = "tokenizer_config.json"
_CLIP_FORMS = {"clip_transformers": "hugging_face", "clip": "open_clip"}
# Tells CLIP's vocabulary from another of the same size.
_PROBE = "A photo of two girls' antique bicycles, 1927: naïve?"


def hugging_face_tokens(rules: Mapping[str, Any], *, clip: bool) -> Written:
    """Returns the files that `AutoTokenizer` reads.

    Args:
      rules: arguments of `make_text_fn`.
      clip: whether the model is written as CLIP; else as SigLIP.

    Raises:
      ValueError: transformers' tokenizer of that family has no such rule or vocabulary.
    """
    if not clip:
        return hugging_face_siglip(rules)
    vocabulary = load_vocabulary(rules["tokenizer"])
    files: dict[str, Any] = dict(vocabulary_files(rules["tokenizer"]))
    return _hugging_face_clip(rules, vocabulary, files)


def open_clip_tokens(rules: Mapping[str, Any], *, clip: bool) -> Written:
    """Returns the files beside the weights, and under "text_cfg" what the config says of them.

    Args: as `hugging_face_tokens`.

    Raises:
      ValueError: open_clip has no such rule or vocabulary.
    """
    if not clip:
        return open_clip_siglip(rules)
    vocabulary = load_vocabulary(rules["tokenizer"])
    need("open_clip", rules, "bos", True)
    need("open_clip", rules, "lower", False)
    if vocabulary.token_id("[SEP]") >= 0:
        return _open_clip_bert(rules)
    if not _is_clip(vocabulary):
        raise refused("open_clip", "tokenizer", rules["tokenizer"], "CLIP's vocabulary or BERT's")
    forms = {"clip": "lower", "open_clip": "whitespace", "open_clip_canonical": "canonicalize"}
    form = rules.get("form", "plain")
    notes: tuple[str, ...] = ()
    if form == "clip_transformers":
        form, notes = "clip", (other_form("open_clip", "mends HTML entities and broken Unicode"),)
    if form not in forms:
        raise refused("open_clip", "form", form, f"one of {sorted(forms)}")
    # Its own default needs no word in the config.
    said = {} if form == "clip" else {"tokenizer_kwargs": {"clean": forms[form]}}
    return Written({"text_cfg": said}, notes)


def big_vision_tokens(rules: Mapping[str, Any]) -> Written:
    """Returns the vocabulary's files, and a note of the rules, for which the layout has no file.

    Args: as `hugging_face_tokens`.

    Raises:
      ValueError: the vocabulary cannot be read.
    """
    files: dict[str, Any] = dict(vocabulary_files(rules["tokenizer"]))
    kept = ", ".join(f"{name}={value!r}" for name, value in rules.items() if name != "tokenizer")
    return Written(files, (f"The layout has no file of rules for texts; they are: {kept}.",))


def _hugging_face_clip(
    rules: Mapping[str, Any], vocabulary: Vocabulary, files: dict[str, Any]
) -> Written:
    need("hugging_face", rules, "lower", False)
    need("hugging_face", rules, "bos", True)
    need("hugging_face", rules, "eos_id", None)
    form = rules.get("form", "plain")
    if form not in _CLIP_FORMS:
        raise refused("hugging_face", "form", form, f"one of {sorted(_CLIP_FORMS)}")
    if not {"vocab.json", "tokenizer.json"} & set(files):
        raise refused("hugging_face", "tokenizer", rules["tokenizer"], "byte pairs, as CLIP's")
    said = "keeps HTML entities and broken Unicode as they are"
    notes = () if form == "clip_transformers" else (other_form("transformers", said),)
    start, end = _names(vocabulary)
    # Padding stands behind the end of the text, where CLIP does not look.
    pad = next(
        (name for name in (end, "!") if vocabulary.token_id(name) == rules.get("pad", 1)), end
    )
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": rules["length"]}
    config |= {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    return Written({**files, _CONFIG: config}, notes)


def _open_clip_bert(rules: Mapping[str, Any]) -> Written:
    files: dict[str, Any] = dict(vocabulary_files(rules["tokenizer"]))
    if "vocab.txt" not in files:
        raise refused("open_clip", "tokenizer", rules["tokenizer"], "BERT's vocab.txt")
    forms = {"open_clip": "whitespace", "open_clip_canonical": "canonicalize", "clip": "lower"}
    form = rules.get("form", "plain")
    if form not in forms:
        raise refused("open_clip", "form", form, f"one of {sorted(forms)}")
    said = {
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"clean": forms[form], "strip_sep_token": rules.get("eos_id") == 0},
    }
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    config["model_max_length"] = rules["length"]
    return Written({**files, _CONFIG: config, "text_cfg": said}, ())


def _names(vocabulary: Vocabulary) -> tuple[str, str]:
    """First and last token of a text. The files of transformers name them with bars."""
    barred = ("<|startoftext|>", "<|endoftext|>")
    plain = ("<start_of_text>", "<end_of_text>")
    built_in = vocabulary is load_vocabulary("clip")
    return barred if built_in or vocabulary.token_id(barred[1]) >= 0 else plain


def _is_clip(vocabulary: Vocabulary) -> bool:
    clip = load_vocabulary("clip")
    # Sizes first, as the cheap test; a vocabulary of the same size may still be another.
    same = vocabulary.size == clip.size
    return same and vocabulary.encode(_PROBE.lower()) == clip.encode(_PROBE.lower())
