"""How a SigLIP reads texts, as the tokenizer files of transformers and open_clip.

SigLIP 1 has a SentencePiece vocabulary of unigrams, and transformers drops punctuation. SigLIP 2 has Gemma's, and
transformers keeps it. Both lower all letters.
"""

from collections.abc import Mapping
from typing import Any

from bias_clip.data.text import Vocabulary, load_vocabulary, vocabulary_files
from bias_clip.pretrained.exports.export_images import Written
from bias_clip.pretrained.exports.gemma_json import gemma_files
from bias_clip.pretrained.exports.refused_texts import need, other_form, refused
from bias_clip.pretrained.tokenizer import CLEAN, is_gemma

_CONFIG = "tokenizer_config.json"
# Of published SigLIPs, by the library that they were loaded from.
_FORMS = {
    False: ("siglip", "ascii_lower", *(f"{clean}|siglip" for clean in CLEAN.values())),
    True: (
        "letter_lower",
        "plain",
        "ascii_lower",
        *(f"{clean}|letter_lower" for clean in CLEAN.values()),
    ),
}


def hugging_face_siglip(rules: Mapping[str, Any]) -> Written:
    """Returns the files that `AutoTokenizer` reads.

    Args:
      rules: arguments of `make_text_fn`.

    Raises:
      ValueError: transformers' tokenizer of SigLIP or SigLIP 2 has no such rule or vocabulary.
    """
    vocabulary = load_vocabulary(rules["tokenizer"])
    gemma = is_gemma(vocabulary)
    files = _files("hugging_face", rules, vocabulary)
    said = "lowers all letters" if gemma else "lowers all letters and drops ASCII punctuation"
    own = "letter_lower" if gemma else "siglip"
    # Only this pair is exactly what the library will do; any other is close, and the note says how.
    same = rules.get("form") == own and not rules.get("lower", True)
    return Written(files, () if same else (other_form("transformers", said),))


def open_clip_siglip(rules: Mapping[str, Any]) -> Written:
    """Returns the files beside the weights, and under "text_cfg" what the config says of them.

    open_clip cleans a caption and then calls transformers' tokenizer.

    Args: as `hugging_face_siglip`.

    Raises:
      ValueError: open_clip has no such rule or vocabulary.
    """
    vocabulary = load_vocabulary(rules["tokenizer"])
    gemma = is_gemma(vocabulary)
    files = _files("open_clip", rules, vocabulary)
    # open_clip's clean is the first of two forms, transformers' own the second.
    first = rules.get("form", "plain").split("|")[0]
    clean = next((name for name, form in CLEAN.items() if form == first), None)
    said = {
        # Any name selects transformers' tokenizer of the folder; this one says whose rule it is.
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2" if gemma else "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": clean or "whitespace"},
    }
    mends = "mends HTML entities and broken Unicode, and lowers all letters"
    notes = () if clean else (other_form("open_clip", mends),)
    return Written({**files, "text_cfg": said}, notes)


def _files(layout: str, rules: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    gemma = is_gemma(vocabulary)
    files: dict[str, Any] = dict(vocabulary_files(rules["tokenizer"]))
    if not gemma and "spiece.model" not in files:
        expected = "SentencePiece in spiece.model, or Gemma's vocabulary; copy other files by hand"
        raise refused(layout, "tokenizer", rules["tokenizer"], expected)
    form = rules.get("form", "plain")
    if form not in _FORMS[gemma] or (form == "plain" and not rules.get("lower", True)):
        raise refused(layout, "form", form, repr(_FORMS[gemma][0]))
    need(layout, rules, "bos", False)
    need(layout, rules, "eos", "sticky")
    pad = 0 if gemma else vocabulary.eos
    if rules.get("pad", 1) != pad:
        raise refused(layout, "pad", rules.get("pad", 1), f"{pad}" if gemma else f"{pad}, the EOS")
    if gemma:
        return gemma_files(files, rules["length"])
    config = {
        "tokenizer_class": "SiglipTokenizer",
        "model_max_length": rules["length"],
        "do_lower_case": True,
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        # Else transformers takes "</s>" inside a caption for the end; SentencePiece reads it as text.
        "split_special_tokens": True,
        # SigLIP reads padding as text: a mask of it, which transformers would make, gives other embeddings.
        "model_input_names": ["input_ids"],
    }
    return {**files, _CONFIG: config}
