"""FineWeb's own rules: punctuation at line ends, short lines, repeated lines, lists.

Source: Penedo et al. 2024, arXiv:2406.17557, section 3.6; datatrove's `fineweb_quality_filter.py`.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, Drop, SplitText, at_least, at_most
from llmpipe.stages.data.steps.base import Fraction, Step
from llmpipe.stages.data.steps.gopher_repetition import count_repeated

# Signs that end a sentence, in any script: the Unicode property Sentence_Terminal, which is what datatrove takes for
# the paper's "terminal punctuation" (two of its signs were added in Unicode 16). Closing quotes are not among them.
_LINE_ENDS = tuple(
    "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗"
    "！．？｡𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸𑽃𑽄𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈"
)


@schema
class FineWebConfig:
    """FineWeb's own rules. Source: arXiv:2406.17557, section 3.6, and datatrove `fineweb_quality_filter.py`."""

    min_line_punctuation: Fraction = 0.12
    """Share of lines that end in punctuation (10.14 % of tokens removed)."""
    max_short_lines: Fraction = 0.67
    """Share of lines of at most `short_line_chars` (3.73 %)."""
    short_line_chars: Annotated[int, Gt(0)] = 30
    """What a short line is."""
    max_dup_line_chars: Fraction = 0.01
    """Share of characters in lines that stood before (12.47 %). The paper says 0.1, datatrove's code 0.01."""
    max_newlines_per_word: Annotated[float, Ge(0)] = 0.3
    """Most line breaks per word: lists. datatrove only."""


class FineWeb(Step[FineWebConfig]):
    """Drop pages whose lines do not look like running text."""

    name = "fineweb"
    summary = "drop pages whose lines are no running text"

    def __call__(self, document: Document) -> Drop | None:
        """Say why a document is dropped, if it is."""
        config, content = self._config, document.content or SplitText("")
        lines = content.lines
        if not lines:
            return Drop("empty")
        text = content.text
        punctuated = sum(line.endswith(_LINE_ENDS) for line in lines) / len(lines)
        short = sum(len(line) <= config.short_line_chars for line in lines) / len(lines)
        repeated = count_repeated(lines)[1] / max(1, len(text) - text.count("\n"))
        newlines = text.count("\n") / max(1, len(content.tokens))
        return (
            at_least("line_punctuation", punctuated, config.min_line_punctuation)
            or at_most("short_lines", short, config.max_short_lines)
            or at_most("dup_line_chars", repeated, config.max_dup_line_chars)
            or at_most("list", newlines, config.max_newlines_per_word)
        )
