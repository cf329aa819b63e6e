"""Replace personal data: e-mail and IP addresses, telephone, card, account and US social security numbers.

`personal_data.py` finds them.
"""

from __future__ import annotations

from typing import Literal

from llmpipe.core.config import schema
from llmpipe.stages.data.document import Document, SplitText
from llmpipe.stages.data.steps.base import Step


@schema
class PiiConfig:
    """Replace personal data by fixed placeholders.

    FineWeb replaces e-mail and public IP addresses; the other kinds are checked by their own rules (Luhn,
    mod 97, number plans), not by shape alone.
    """

    kinds: tuple[
        Literal["email", "ipv4", "ipv6", "phone", "card", "iban", "ssn", "address"], ...
    ] = ("email", "ipv4", "ipv6", "phone", "card", "iban", "ssn")  # fmt: skip
    """What is looked for. `address`, off by default, knows the spelling of English-speaking countries only."""
    phone_regions: tuple[str, ...] = ("US",)
    """Countries whose national spelling is understood anywhere. Numbers with +country, and those beside a word such as *phone* or
    *call*, are found in any spelling."""
    public_ip_only: bool = True
    """Leave private, loopback and documentation addresses alone, as FineWeb does."""


class Pii(Step[PiiConfig]):
    """Replace personal data by placeholders and count it by kind."""

    name = "pii"
    summary = "replace personal data"

    def __init__(self, config: PiiConfig) -> None:
        from llmpipe.stages.data.steps.personal_data import replace_all

        super().__init__(config)
        self._replace_all = replace_all

    def __call__(self, document: Document) -> None:
        """Replace and count what is found."""
        text = self._replace_all(document.text, self._config, document.pii)
        if document.pii:
            document.content = SplitText(text)
