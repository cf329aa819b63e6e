"""Words and sentences, as the quality rules count them.

Only the standard library is needed here, so that the comparison with datatrove can lend it these functions in its own
environment.
"""

from __future__ import annotations

import re

# Addresses, numbers, abbreviations and words are one token, English clitics ('s, n't) and every other visible sign one
# of their own, much as in spaCy, which datatrove uses.
_TOKEN = re.compile(
    # The plain case comes first, for speed only (0.6 of the time): what stands below would give the same.
    r"(?![Cc]annot\b)[A-Za-z]++(?=[\s,]|\Z)"
    r"|https?://\S+|www\.\S+"
    r"|[\w.+-]{1,64}+@[\w-]{1,64}\.[\w.-]{1,64}"
    r"|@\w+"
    r"|[^\W\d]\w*(?:-\d\w*)+"  # Covid-19; a hyphen between letters or between numbers is a token
    r"|\d+(?:[.,:/]\d+)+"
    r"|(?:[A-Za-z]\.){2,}|[A-Z]\.(?= [A-Z])"
    r"|\b(?:Mr|Mrs|Ms|Dr|St|Inc|Jr|Sr|Co|Corp|Ltd|vs|No|Jan|Feb|Aug|Sept|Oct|Nov|Dec|Gov|Gen|Sen|Rep|Prof)\."
    r"|[Cc]an(?=not\b)|(?:do|does|did|is|are|was|were|has|have|had|could|would|should|wo|ca)(?=n['’]t\b)|n['’]t\b"
    r"|['’](?:s|re|ve|ll|d|m|S)\b"
    r"|\w+(?:\.\w+)*(?:['’](?!(?:s|re|ve|ll|d|m|S)\b)\w+)*"
    r"|\.{2,}|-{2,}|'{2,}"
    r"|[^\w\s]"
)
# An end of sentence: closing punctuation, perhaps a closing quote, then white space and no small letter.
# The look-behind and the possessive `++` keep it linear on a line of a million dots.
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]{0,2}\s++(?![a-z])")
_ABBREVIATION = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|vs|etc|e\.g|i\.e|Inc|No|Jr|Sr))\.\s+\Z"
)


# What datatrove's `utils/text.py` calls punctuation, beside the ends of sentences of other scripts and control signs.
# Signs that are missing there (°, ®, ', most currencies) make a word, so they are left out here as well.
_PUNCTUATION = frozenset(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
)


def split_tokens(text: str) -> list[str]:
    """Return words and punctuation signs in order: what datatrove calls words."""
    return _TOKEN.findall(text)


def count_sentences(line: str) -> int:
    """Count the sentences of a line; any line that is not empty has at least one."""
    if not line.strip():
        return 0
    ends = _SENTENCE_END.finditer(line)
    return 1 + sum(
        not _ABBREVIATION.search(line, max(0, end.end() - 12), end.end()) for end in ends
    )


def is_word(token: str) -> bool:
    """Whether a token has anything but punctuation in it."""
    return token[0].isalnum() or not _PUNCTUATION.issuperset(token)
