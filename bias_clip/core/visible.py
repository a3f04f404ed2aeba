"""The visible text of a caption: without markup and without invisible characters.

Scraped captions contain soft hyphens, zero-width blanks, direction marks, tags and entities, all of
which split words: `wo&shy;man`, `wo<b>man</b>`. Code that searches captions for words, or checks
whether a caption is empty, uses this form. Tokenizers do not: a model sees unchanged captions.
"""

import html
import re

# HTML elements that do not split a word when they open or close; all others act as a blank.
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|nobr|q|rb|rp|rt|"
    "ruby|s|samp|small|span|strike|strong|sub|sup|time|tt|u|var|wbr"
)
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|caption|center|dd|details|div|dl|dt|figcaption|"
    "figure|footer|form|h[1-6]|head|header|hr|html|iframe|img|input|label|li|main|nav|object|ol|"
    "option|p|pre|script|section|select|style|svg|table|tbody|td|tfoot|th|thead|title|tr|ul|video"
)


def _tags(names: str) -> re.Pattern[str]:
    # `[^<>]*` and not `.*`: no backtracking on a caption of many "<".
    return re.compile(rf"</?(?:{names})(?:\s[^<>]*)?/?>", re.IGNORECASE)


_INLINE_TAGS, _BLOCK_TAGS = _tags(_INLINE), _tags(_BLOCK)
_COMMENTS = re.compile(r"<!--[^<>]*-->")

# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), what annotates other characters,
# and the control characters that are not blanks.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)
_BLANK = re.compile("[\\s\u2800]*")  # the empty pattern of Braille is a letter that shows nothing


def visible_text(text: str) -> str:
    """Returns the text without HTML tags, entities and invisible characters.

    Inline tags vanish; block tags and `<br>` become a blank. Text that looks like a tag but is not HTML
    ("<3", "<dog>") stays. Entities are resolved twice because scraped text is often escaped twice.

        visible_text("a police&shy;<b>wo</b>man<br>at work")   # "a policewoman at work"
    """
    # The fast path of nearly every caption: there is nothing to remove.
    if text.isascii() and text.isprintable() and "&" not in text and "<" not in text:
        return text
    if "&" in text:
        # Entities before tags: "&lt;b&gt;" is a tag that was escaped.
        text = html.unescape(html.unescape(text))
    if "<" in text:
        # Comments first, because they may contain tags.
        text = _INLINE_TAGS.sub("", _BLOCK_TAGS.sub(" ", _COMMENTS.sub("", text)))
    return _INVISIBLE.sub("", text)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty or only blanks, see `visible_text`."""
    return _BLANK.fullmatch(visible_text(text)) is not None
