"""FineWeb's own rules: punctuation at line ends, short lines, repeated lines, lists.

Source: Penedo et al. 2024, arXiv:2406.17557, section 3.6; datatrove's `fineweb_quality_filter.py`.
"""

from __future__ import annotations

from llmpipe.stages.data.config import FineWebConfig
from llmpipe.stages.data.document import Document, Drop, Text
from llmpipe.stages.data.steps.gopher_repetition import count_repeated

# Signs that end a sentence, in any script: the Unicode property Sentence_Terminal, which is what datatrove takes for
# the paper's "terminal punctuation" (two of its signs were added in Unicode 16). Closing quotes are not among them.
_LINE_ENDS = tuple(
    "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗"
    "！．？｡𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸𑽃𑽄𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈"
)


class FineWeb:
    """Drop pages whose lines do not look like running text."""

    def __init__(self, config: FineWebConfig) -> None:
        self._config = config

    def __call__(self, document: Document) -> Drop | None:
        """Say why a document is dropped, if it is."""
        config, content = self._config, document.content or Text("")
        lines = content.lines
        if not lines:
            return Drop("empty")
        punctuated = sum(line.endswith(_LINE_ENDS) for line in lines) / len(lines)
        if punctuated < config.min_line_punctuation:
            return Drop("line_punctuation", punctuated, config.min_line_punctuation)
        short = sum(len(line) <= config.short_line_chars for line in lines) / len(lines)
        if short > config.max_short_lines:
            return Drop("short_lines", short, config.max_short_lines)
        repeated = count_repeated(lines)[1] / max(1, len(content.text.replace("\n", "")))
        if repeated > config.max_dup_line_chars:
            return Drop("dup_line_chars", repeated, config.max_dup_line_chars)
        newlines = content.text.count("\n") / max(1, len(content.tokens))
        if newlines > config.max_newlines_per_word:
            return Drop("list", newlines, config.max_newlines_per_word)
        return None
