"""Personal data in the spellings people write: telephone numbers of the twenty largest countries, and the other kinds.

The telephone formats are written by hand from the published numbering plans (ITU-T's national numbering plans and each regulator's
pages), not taken from the library that the step uses: `#` is any digit, `[2-9]` one of a range, `{a|b}` one of several. Digits are drawn
at random, so some numbers belong to nobody.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from _pii_harmless import LANGUAGES, SENTENCES, digits, with_luhn


@dataclass(frozen=True)
class Country:
    """A country's numbers: its code, where they are written and read."""

    code: str
    calling_code: str
    mobile: tuple[str, ...]
    """Spellings inside the country, the trunk prefix included where people write it."""
    fixed: tuple[str, ...]
    abroad: tuple[str, ...]
    """Spellings behind the country code."""
    words: tuple[str, ...]
    """What stands before a number in its languages."""


# The twenty most populous countries (UN World Population Prospects 2024).
COUNTRIES = (
    Country("IN", "91", ("{6|7|8|9}#### #####", "0{6|7|8|9}#########", "{6|7|8|9}#########", "{7|8|9}###-###-###"), ("011-[2-6]### ####", "022 [2-6]### ####", "(080) [2-6]#######", "044-[2-6]#######"), ("{6|7|8|9}#### #####", "{6|7|8|9}#########", "11 [2-6]### ####", "22-[2-6]#######"), ("Phone: {}", "Mobile no. {}", "Call {} for details", "फ़ोन: {}", "मोबाइल नंबर {}", "संपर्क करें: {}")),
    Country("CN", "86", ("1{3|5|8}# #### ####", "1{3|5|8}#########", "1{3|5|8}#-####-####"), ("010-[5-8]### ####", "(021) [5-8]#######", "0755-[2-8]#######"), ("1{3|5|8}# #### ####", "1{3|5|8}#########", "10 [5-8]### ####", "21-[5-8]#######"), ("电话：{}", "手机：{}", "联系电话 {}", "Tel: {}", "客服热线：{}", "传真：{}")),
    Country("US", "1", ("({212|305|415|512|617|702|808|919}) [2-9]##-####", "{212|305|415|512|617|702|808|919}-[2-9]##-####", "{212|305|415|512|617|702|808|919}.[2-9]##.####", "{212|305|415|512|617|702|808|919} [2-9]## ####"), ("1-{212|305|415|512|617|702|808|919}-[2-9]##-####", "({212|305|415|512|617|702|808|919})[2-9]##-####"), ("{212|305|415|512|617|702|808|919} [2-9]## ####", "({212|305|415|512|617|702|808|919}) [2-9]##-####", "{212|305|415|512|617|702|808|919}-[2-9]##-####"), ("Phone: {}", "Call me at {}", "Cell {}", "Text {} any time", "Fax {}", "My number is {}")),
    Country("ID", "62", ("08{1|2|5}#-####-####", "08{1|2|5}# #### ####", "08{1|2|5}########"), ("(021) [2-8]######", "021-[2-8]## ####", "(022) [2-7]######"), ("8{1|2|5}#-####-####", "8{1|2|5}# #### ####", "21 [2-8]## ####"), ("Telepon: {}", "HP: {}", "No. HP {}", "WA: {}", "Hubungi {}", "Telp. {}")),
    Country("PK", "92", ("03{0|1|2|3|4}#-#######", "03{0|1|2|3|4}# #######", "03{0|1|2|3|4}########"), ("(021) 3#######", "042-3#######", "051 [2-9]######"), ("3{0|1|2|3|4}# #######", "3{0|1|2|3|4}#-#######", "21 3#######"), ("Phone: {}", "Mobile: {}", "Contact: {}", "فون: {}", "موبائل نمبر {}", "رابطہ: {}")),
    Country("NG", "234", ("080{2|3|5|6} ### ####", "081{3|4|5|6}#######", "090{3|5|6|7}-###-####"), ("01-[2-7]## ####", "(01) [2-7]######"), ("80{2|3|5|6} ### ####", "81{3|4|5|6}#######", "1 [2-7]## ####"), ("Phone: {}", "Call {}", "WhatsApp {}", "Tel: {}", "Hotline {}")),
    Country("BR", "55", ("({11|21|31|41|51|61}) 9[6-9]###-####", "{11|21|31|41} 9[6-9]###-####", "({11|21|31}) 9 [6-9]### ####", "0{11|21} 9[6-9]###-####"), ("({11|21|31|41|51|61}) [2-5]###-####", "{11|21} [2-5]###-####"), ("{11|21|31} 9[6-9]###-####", "({11|21}) [2-5]###-####", "{11|21}9[6-9]#######"), ("Telefone: {}", "Celular: {}", "Ligue para {}", "WhatsApp: {}", "Tel.: {}", "Fone {}")),
    Country("BD", "880", ("01{3|7|8|9}##-######", "01{3|7|8|9}########", "01{3|7|8|9}## ### ###"), ("02-[4-9]#######", "(02) [4-9]#######"), ("1{3|7|8|9}##-######", "1{3|7|8|9}## ######", "2-[4-9]#######"), ("ফোন: {}", "মোবাইল: {}", "যোগাযোগ: {}", "Phone: {}", "Mobile {}")),
    Country("RU", "7", ("8 (9{0|1|2|5|6}#) ###-##-##", "8-9{0|1|2|5|6}#-###-##-##", "89{0|1|2|5|6}########", "8 9{0|1|2|5|6}# ### ## ##"), ("8 (495) [1-9]##-##-##", "(812) [2-9]##-##-##", "8 (343) [2-3]##-##-##"), ("(9{0|1|2|5|6}#) ###-##-##", "9{0|1|2|5|6}# ###-##-##", "495 [1-9]## ## ##", "9{0|1|2|5|6}########"), ("Телефон: {}", "тел. {}", "Звоните: {}", "моб.: {}", "Факс {}", "Контактный телефон: {}")),
    Country("ET", "251", ("09## ### ###", "09########", "09##-##-##-##"), ("011 [1-6]## ####", "011-[1-6]##-####"), ("9## ### ###", "9########", "11 [1-6]## ####"), ("ስልክ: {}", "ሞባይል {}", "Phone: {}", "Tel. {}")),
    Country("MX", "52", ("55 [1-8]### ####", "33 [1-3]### ####", "(55) [1-8]###-####", "81-[1-8]###-####"), ("(55) [5-6]### ####", "222 [2-6]## ####", "01 (55) 5### ####"), ("55 [1-8]### ####", "1 55 [1-8]### ####", "33-[1-3]###-####"), ("Teléfono: {}", "Tel. {}", "Celular: {}", "Llame al {}", "WhatsApp {}", "Móvil {}")),
    Country("JP", "81", ("090-[1-9]###-####", "080-[1-9]###-####", "070 [1-9]### ####", "090[1-9]#######"), ("03-[3-6]###-####", "(06) [4-7]###-####", "03([3-6]###)####", "045-[2-9]##-####", "0120-###-###"), ("90-[1-9]###-####", "3-[3-6]###-####", "80 [1-9]### ####"), ("電話：{}", "TEL {}", "携帯：{}", "FAX: {}", "お電話 {}", "電話番号 {}")),
    Country("EG", "20", ("010{0|1|2|6} ### ####", "011{1|2|4|5}#######", "012{0|2|7|8}-###-####"), ("02 2[2-7]## ####", "(02) 3[3-8]######", "03-[4-5]######"), ("10{0|1|2|6} ### ####", "11{1|2|4|5}#######", "2 2[2-7]## ####"), ("هاتف: {}", "موبايل: {}", "تليفون: {}", "اتصل على {}", "واتساب {}", "Tel: {}")),
    Country("PH", "63", ("09{17|18|20|28}-###-####", "09{17|18|20|28} ### ####", "09{17|18|20|28}#######"), ("(02) 8### ####", "02-8###-####", "(032) [2-5]##-####"), ("9{17|18|20|28} ### ####", "9{17|18|20|28}-###-####", "2 8### ####"), ("Phone: {}", "Mobile: {}", "Cell no. {}", "Contact no. {}", "Call or text {}")),
    Country("CD", "243", ("08{1|2|4|5|9} ### ####", "099 ### ####", "081#######", "097-###-####"), ("012 ## #####",), ("8{1|2|4|5} ### ####", "99 ### ####", "81#######"), ("Téléphone : {}", "Tél. {}", "Appelez le {}", "Tél : {}", "WhatsApp : {}")),
    Country("VN", "84", ("09{0|1|3|8}# ### ###", "09{0|1|3|8}.###.####", "03{2|5|8}#######", "09{0|1|3|8}#-###-###"), ("(024) 3### ####", "028 3### ####", "024.3###.####"), ("9{0|1|3|8}# ### ###", "3{2|5|8} ### ####", "24 3### ####"), ("Điện thoại: {}", "ĐT: {}", "SĐT: {}", "Hotline: {}", "Liên hệ: {}", "Di động {}")),
    Country("IR", "98", ("0912 ### ####", "0935-###-####", "0919#######"), ("021-[2-8]### ####", "021 [2-8]#######", "(021) [2-8]#######"), ("912 ### ####", "935#######", "21 [2-8]### ####"), ("تلفن: {}", "موبایل: {}", "شماره تماس: {}", "همراه {}", "فکس: {}", "تماس با {}")),
    Country("TR", "90", ("05{32|42|55} ### ## ##", "0 (5{32|42|55}) ### ## ##", "05{32|42|55}#######", "5{32|42|55} ### ## ##"), ("(0212) [2-8]## ## ##", "0216 [3-5]## ## ##", "0 312 [2-4]## ## ##"), ("5{32|42|55} ### ## ##", "(212) [2-8]## ## ##", "5{32|42|55}#######"), ("Telefon: {}", "Tel: {}", "Cep: {}", "Bizi arayın: {}", "Faks: {}", "GSM {}")),
    Country("DE", "49", ("0171 #######", "0151-########", "0176/########", "0160 ## ## ####"), ("030 [2-9]#######", "(089) [2-9]######", "040/[2-9]##-###", "0221 / [2-9]# ## ##", "069-[2-9]#######"), ("171 #######", "(0)30 [2-9]#######", "89 [2-9]######", "176-########"), ("Telefon: {}", "Tel. {}", "Tel.: {}", "Handy {}", "Mobil: {}", "Fax {}", "Rufen Sie {} an")),
    Country("TH", "66", ("08{1|4|9}-###-####", "09{1|4|5} ### ####", "08{1|4|9}#######"), ("02-[2-7]##-####", "02 [2-7]## ####", "(02) [2-7]##-####"), ("8{1|4|9} ### ####", "9{1|4|5}-###-####", "2 [2-7]## ####"), ("โทร. {}", "โทรศัพท์: {}", "มือถือ {}", "แฟกซ์ {}", "Tel. {}")),
)  # fmt: skip
_NATIVE_DIGITS = {"BD": "০১২৩৪৫৬৭৮৯", "EG": "٠١٢٣٤٥٦٧٨٩", "IR": "۰۱۲۳۴۵۶۷۸۹", "IN": "०१२३४५६७८९", "JP": "０１２３４５６７８９"}  # fmt: skip
_NEUTRAL = ("It was {} then.", "{}", "Jane Doe, {}, Main Hall", "({})", "Ask for Jane,{}.")


def fill(rng: random.Random, pattern: str) -> str:
    """Draw a number of a pattern."""

    def one(match: re.Match[str]) -> str:
        sign = match[0]
        if sign == "#":
            return rng.choice("0123456789")
        if sign[0] == "[":
            return str(rng.randint(int(sign[1]), int(sign[3])))
        return rng.choice(sign[1:-1].split("|"))

    return re.sub(r"#|\[\d-\d\]|\{[\d|]+\}", one, pattern)


def _native(rng: random.Random, country: Country, number: str) -> str:
    signs = _NATIVE_DIGITS.get(country.code)
    if signs is None or rng.random() < 0.7:
        return number
    return number.translate(str.maketrans("0123456789", signs))


def phones(way: str, country: Country, n: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield a text and the number in it.

    Args:
        way: `abroad` (plus, 00 or brackets, no word), `beside a word` (as at home, with a word), `at home` (as at home, without).
        country: whose numbers.
        n: how many.
        seed: of the random numbers.
    """
    rng = random.Random(f"{way} {country.code} {seed}")
    for _ in range(n):
        home = fill(rng, rng.choice(rng.choice((country.mobile, country.fixed))))
        if way == "abroad":
            plus = rng.choice(("+{} ", "+{}-", "+{} ", "(+{}) ", "+{}", "00{} "))
            number = plus.format(country.calling_code) + fill(rng, rng.choice(country.abroad))
            yield rng.choice(_NEUTRAL).format(number), number
        elif way == "beside a word":
            number = _native(rng, country, home)
            yield rng.choice(country.words).format(number), number
        else:
            while not re.search(r"\D", home):  # bare digits with no word beside them are anything
                home = fill(rng, rng.choice(rng.choice((country.mobile, country.fixed))))
            yield rng.choice(_NEUTRAL).format(home), home


_NAMES = {
    "en": ("jane.doe", "o'brien", "j_smith+news", "info", "bob99", "mary-ann"), "de": ("jörg.müller", "größe", "kontakt", "anna-lena"), "fr": ("rené", "hélène.françois", "contact"),
    "es": ("niño", "maría.peña", "ventas"), "pt": ("joão", "conceição", "geral"), "it": ("niccolò", "perché.no", "posta"), "ru": ("иван.петров", "почта", "info"),
    "zh": ("用户", "张伟", "service"), "ja": ("田中", "たろう", "info"), "ar": ("محمد", "بريد", "info"),
}  # fmt: skip
_DOMAINS = {
    "en": ("example.com", "mail.example.co.uk", "example.museum", "sub.sub.example.org"), "de": ("müller.example", "straße.de", "xn--mller-kva.de"), "fr": ("hôtel.fr", "example.fr"), "es": ("españa.es", "example.com.mx"),
    "pt": ("coração.pt", "example.com.br"), "it": ("città.it", "example.it"), "ru": ("почта.рф", "пример.рус", "example.ru"), "zh": ("例子.中国", "example.cn", "例子.公司"), "ja": ("例え.テスト", "example.co.jp", "日本語.jp"),
    "ar": ("مثال.إختبار", "example.sa"),
}  # fmt: skip
_MAIL_WORDS = {
    "en": "Write to {} today", "de": "Schreiben Sie an {} bitte", "fr": "Écrivez à {} svp", "es": "Escriba a {} hoy", "pt": "Escreva para {} hoje", "it": "Scrivere a {} oggi",
    "ru": "Пишите на {} сегодня", "zh": "请写信到 {} 谢谢", "ja": "{} までご連絡ください", "ar": "اكتب إلى {} اليوم",
}  # fmt: skip


def _email(rng: random.Random, language: str) -> str:
    return f"{rng.choice(_NAMES[language])}@{rng.choice(_DOMAINS[language])}"


def _ipv4(rng: random.Random, language: str) -> str:
    while True:
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        if address.is_global and not address.is_multicast and int(address) >> 24 < 224:
            return str(address)


def _ipv6(rng: random.Random, language: str) -> str:
    while True:
        bits = rng.getrandbits(128) | (rng.getrandbits(16) << 112)
        if rng.random() < 0.5:
            bits &= ~(((1 << 64) - 1) << 16)  # a run of zeros, written as ::
        address = ipaddress.IPv6Address(bits % (1 << 125) + (1 << 125))
        if address.is_global:
            return rng.choice((str(address), str(address).upper(), address.exploded))


_ISSUERS = (("4", 16), ("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 16), ("36", 14), ("3530", 16), ("62", 16))  # fmt: skip


def _card(rng: random.Random, language: str) -> str:
    prefix, length = rng.choice(_ISSUERS)
    number = with_luhn(prefix + digits(rng, length - len(prefix) - 1))
    separator = rng.choice(("", " ", "-"))
    cuts = {14: (4, 10, 14), 15: (4, 10, 15), 16: (4, 8, 12, 16)}[length]
    return separator.join(number[a:b] for a, b in zip((0, *cuts), cuts, strict=False))


# Structure of the part behind the check digits (SWIFT IBAN registry): n digit, a capital, c either.
IBANS = {
    "DE": "n18", "FR": "n10c11n2", "GB": "a4n14", "ES": "n20", "IT": "a1n10c12", "NL": "a4n10", "PL": "n24", "BR": "n23a1c1", "TR": "n5n1c16", "EG": "n25", "PK": "a4c16", "RU": "n14c15",
    "SA": "n2c18", "CH": "n5c12", "AT": "n16", "BE": "n12", "SE": "n20", "UA": "n6c19", "AE": "n19", "PT": "n21",
}  # fmt: skip


def _iban(rng: random.Random, language: str) -> str:
    country = rng.choice(tuple(IBANS))
    signs = {"n": "0123456789", "a": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "c": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}  # fmt: skip
    body = "".join(rng.choice(signs[kind]) for kind, n in re.findall(r"([nac])(\d+)", IBANS[country]) for _ in range(int(n)))  # fmt: skip
    value = int("".join(str(int(sign, 36)) for sign in body + country + "00"))
    number = f"{country}{98 - value % 97:02}{body}"
    spaced = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return rng.choice((number, spaced, spaced, number.lower()))


def _ssn(rng: random.Random, language: str) -> str:
    area = rng.choice([i for i in range(1, 900) if i != 666])
    separator = rng.choice("--- ")
    return f"{area:03}{separator}{rng.randint(1, 99):02}{separator}{rng.randint(1, 9999):04}"


KINDS = {"e-mail": _email, "IPv4": _ipv4, "IPv6": _ipv6, "card": _card, "IBAN": _iban, "US social security": _ssn}  # fmt: skip
_FRAMES = {"e-mail": None, "IPv4": ("from {} at noon", "{}", "IP {}:", "http://{0}/", "({})"), "IPv6": ("from {} at noon", "{}", "[{}]:443", "IP {}, then"), "card": ("card {} was", "{}", "Visa,{}.", "{} 12/27"),
           "IBAN": ("IBAN {} BIC", "{}", "({})", "to {}, please"), "US social security": ("SSN {} is", "SSN: {}", "social security number {},")}  # fmt: skip


def others(kind: str, n: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield a text and what is personal in it, the ten languages in turn."""
    rng = random.Random(f"{kind} {seed}")
    for i in range(n):
        language = LANGUAGES[i % len(LANGUAGES)]
        value = KINDS[kind](rng, language)
        frames = _FRAMES[kind]
        frame = rng.choice(frames) if frames else _MAIL_WORDS[language]
        yield f"{SENTENCES[language][0]} {frame.format(value)}", value
