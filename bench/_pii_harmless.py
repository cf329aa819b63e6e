"""Harmless look-alikes of personal data: 20,000 texts in ten languages, generated from public formats.

Each text has one value between two sentences of its language. Half of these speak of telephones, cards, mail and servers, so that
a wrong guess costs. Check digits are right where a kind has one. Nothing here uses the step that is measured, nor its lists of words.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import random
import uuid
from collections.abc import Callable, Iterator

N_TEXTS = 20_000

SENTENCES = {
    "en": ["We met on Tuesday.", "You can call the office on weekdays.", "Payment by card is possible.", "The server was slow again.", "Nothing else was said.", "My phone was off."],
    "de": ["Wir trafen uns am Dienstag.", "Das Büro ist werktags per Telefon zu erreichen.", "Zahlung mit Karte ist möglich.", "Der Server war wieder langsam.", "Mehr wurde nicht gesagt.", "Mein Handy war aus."],
    "fr": ["Nous nous sommes vus mardi.", "Le bureau répond au téléphone en semaine.", "Le paiement par carte est possible.", "Le serveur était encore lent.", "Rien d'autre n'a été dit.", "Mon portable était éteint."],
    "es": ["Nos vimos el martes.", "Puede llamar por teléfono entre semana.", "Se puede pagar con tarjeta.", "El servidor iba lento otra vez.", "No se dijo nada más.", "Mi móvil estaba apagado."],
    "pt": ["Encontrámo-nos na terça.", "Pode ligar para o telefone do escritório.", "O pagamento com cartão é possível.", "O servidor estava lento outra vez.", "Nada mais foi dito.", "Meu celular estava desligado."],
    "it": ["Ci siamo visti martedì.", "L'ufficio risponde al telefono nei giorni feriali.", "È possibile pagare con carta.", "Il server era di nuovo lento.", "Non fu detto altro.", "Il mio cellulare era spento."],
    "ru": ["Мы встретились во вторник.", "Телефон офиса отвечает по будням.", "Можно оплатить картой.", "Сервер снова работал медленно.", "Больше ничего не сказали.", "Мой мобильный был выключен."],
    "zh": ["我们星期二见面。", "工作日可以打电话到办公室。", "可以用银行卡付款。", "服务器又变慢了。", "没有再说什么。", "我的手机关机了。"],
    "ja": ["火曜日に会いました。", "平日は電話で問い合わせできます。", "カードで支払えます。", "サーバーがまた遅かった。", "ほかには何も言われなかった。", "携帯の電源は切れていた。"],
    "ar": ["التقينا يوم الثلاثاء.", "يمكن الاتصال بهاتف المكتب أيام العمل.", "الدفع بالبطاقة ممكن.", "كان الخادم بطيئا مرة أخرى.", "لم يقل أحد شيئا آخر.", "كان هاتفي مغلقا."],
}  # fmt: skip

LABELS = {
    "date": ["Posted {}", "Veröffentlicht am {}", "Publié le {}", "Publicado el {}", "Publicado em {}", "Pubblicato il {}", "Опубликовано {}", "发布于 {}", "投稿日時 {}", "نشر في {}"],
    "times": ["Open {} daily", "Täglich {} geöffnet", "Ouvert {} tous les jours", "Abierto {} todos los días", "Aberto {} todos os dias", "Aperto {} tutti i giorni", "Открыто {} ежедневно", "营业时间 {}", "営業時間 {}", "مفتوح {} يوميا"],
    "isbn": ["It is ISBN {} in paperback", "Das Buch hat die ISBN {} und ist vergriffen", "Le livre, ISBN {}, est épuisé", "El libro, ISBN {}, está agotado", "O livro, ISBN {}, está esgotado", "Il libro, ISBN {}, è esaurito", "Книга, ISBN {}, распродана", "这本书 ISBN {} 已售罄", "この本は ISBN {} です", "الكتاب ISBN {} نفد"],
    "bare_isbn": ["In the catalogue: {}", "Im Katalog: {}", "Au catalogue : {}", "En el catálogo: {}", "No catálogo: {}", "Nel catalogo: {}", "В каталоге: {}", "目录：{}", "目録：{}", "في الفهرس: {}"],
    "doi": ["See doi:{} for details", "Siehe doi:{} im Netz", "Voir doi:{} en ligne", "Véase doi:{} en línea", "Ver doi:{} em linha", "Vedi doi:{} in rete", "См. doi:{} в сети", "参见 doi:{}", "doi:{} を参照", "انظر doi:{}"],
    "issn": ["The journal (ISSN {}) is old", "Die Zeitschrift (ISSN {}) ist alt", "La revue (ISSN {}) est ancienne", "La revista (ISSN {}) es antigua", "A revista (ISSN {}) é antiga", "La rivista (ISSN {}) è antica", "Журнал (ISSN {}) старый", "期刊（ISSN {}）很旧", "雑誌（ISSN {}）は古い", "المجلة (ISSN {}) قديمة"],
    "version": ["Upgrade to version {} first", "Zuerst auf Version {} aktualisieren", "Passez d'abord à la version {}", "Actualice primero a la versión {}", "Atualize primeiro para a versão {}", "Aggiornare prima alla versione {}", "Сначала обновите до версии {}", "请先升级到版本 {}", "まずバージョン {} に更新", "قم بالترقية إلى الإصدار {}"],
    "section": ["As section {} says", "Wie Abschnitt {} sagt", "Comme le dit la section {}", "Como dice la sección {}", "Como diz a seção {}", "Come dice la sezione {}", "Как сказано в разделе {}", "见第 {} 节", "第 {} 節を参照", "كما في القسم {}"],
    "money": ["It cost {} in all", "Es kostete {} insgesamt", "Cela a coûté {} en tout", "Costó {} en total", "Custou {} no total", "È costato {} in tutto", "Это стоило {} всего", "总共花费 {}", "合計 {} でした", "كلف {} إجمالا"],
    "figure": ["There were {} mobile subscribers", "Es gab {} Handynutzer", "Il y avait {} abonnés", "Había {} abonados móviles", "Havia {} assinantes", "C'erano {} abbonati", "Было {} абонентов", "共有 {} 名用户", "{} 人の利用者がいた", "كان هناك {} مشترك"],
    "coordinates": ["The house stands at {} on the map", "Das Haus steht bei {} auf der Karte", "La maison est à {} sur la carte", "La casa está en {} en el mapa", "A casa fica em {} no mapa", "La casa è a {} sulla mappa", "Дом стоит в точке {} на карте", "房子在地图上的 {}", "家は地図の {} にある", "يقع البيت عند {} على الخريطة"],
    "order": ["Your order number {} was sent", "Ihre Bestellnummer {} ist unterwegs", "Votre commande n° {} est partie", "Su pedido n.º {} ha salido", "O seu pedido nº {} saiu", "Il tuo ordine n. {} è partito", "Ваш заказ № {} отправлен", "您的订单号 {} 已发货", "ご注文番号 {} を発送しました", "طلبك رقم {} تم شحنه"],
    "case": ["In case no. {} the court found", "Im Verfahren mit dem Aktenzeichen {} entschied das Gericht", "Dans l'affaire n° {} la cour a jugé", "En el expediente n.º {} el tribunal falló", "No processo nº {} o tribunal decidiu", "Nella causa n. {} il tribunale ha deciso", "По делу № {} суд решил", "案号 {} 法院裁定", "事件番号 {} について裁判所は", "في القضية رقم {} حكمت المحكمة"],
    "tracking": ["The tracking number is {} today", "Die Sendungsnummer lautet {} heute", "Le numéro de suivi est {} désormais", "El número de seguimiento es {} ahora", "O código de rastreamento é {} agora", "Il codice di spedizione è {} ora", "Номер отправления {} теперь", "快递单号 {} 已更新", "追跡番号は {} です", "رقم التتبع هو {} الآن"],
    "ean": ["The barcode EAN {} is on the box", "Auf der Packung steht EAN {} gedruckt", "Le code EAN {} figure sur la boîte", "El código EAN {} está en la caja", "O código EAN {} está na caixa", "Il codice EAN {} è sulla scatola", "Код EAN {} на коробке", "包装上的 EAN {}", "箱には EAN {} とある", "الرمز EAN {} على العلبة"],
    "imei": ["The SIM card is in; IMEI {} is shown", "Die SIM-Karte steckt; IMEI {} wird angezeigt", "La carte SIM est en place ; IMEI {} s'affiche", "La tarjeta SIM está; se ve IMEI {}", "O cartão SIM está; IMEI {} aparece", "La carta SIM c'è; IMEI {} appare", "SIM-карта на месте; IMEI {} виден", "SIM卡已插入，IMEI {}", "SIMカードあり、IMEI {}", "بطاقة SIM موجودة، IMEI {}"],
    "serial": ["The serial number {} is on the back", "Die Seriennummer {} steht hinten", "Le numéro de série {} est au dos", "El número de serie {} está detrás", "O número de série {} está atrás", "Il numero di serie {} è sul retro", "Серийный номер {} сзади", "序列号 {} 在背面", "シリアル番号 {} は裏面", "الرقم التسلسلي {} في الخلف"],
    "result": ["They won {} at home", "Sie gewannen {} zu Hause", "Ils ont gagné {} à domicile", "Ganaron {} en casa", "Ganharam {} em casa", "Hanno vinto {} in casa", "Они выиграли {} дома", "他们主场 {} 获胜", "ホームで {} で勝った", "فازوا {} على أرضهم"],
    "law": ["Under {} it is forbidden", "Nach {} ist das verboten", "Selon {} c'est interdit", "Según {} está prohibido", "Segundo {} é proibido", "Secondo {} è vietato", "Согласно {} это запрещено", "根据 {} 禁止", "{} により禁止", "بموجب {} محظور"],
    "plain": ["Then we read {} again", "Dann lasen wir {} noch einmal", "Puis nous avons relu {} encore", "Luego leímos {} otra vez", "Depois lemos {} de novo", "Poi abbiamo riletto {} ancora", "Потом мы прочли {} снова", "然后我们又读了 {} 一遍", "そして {} をまた読んだ", "ثم قرأنا {} مرة أخرى"],
}  # fmt: skip
LANGUAGES = tuple(SENTENCES)
_THOUSANDS = {"en": ",", "de": ".", "fr": "\u202f", "es": ".", "pt": ".", "it": ".", "ru": "\u00a0", "zh": ",", "ja": ",", "ar": ","}  # fmt: skip


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(n))


def with_luhn(body: str) -> str:
    """Append the digit that makes Luhn's sum a multiple of ten (ISO/IEC 7812-1)."""
    doubled = "".join(str(2 * int(d)) if i % 2 == 0 else d for i, d in enumerate(reversed(body)))
    return body + str(-sum(map(int, doubled)) % 10)


def _gtin(body: str) -> str:
    return body + str(-sum(int(d) * (3 if i % 2 == 0 else 1) for i, d in enumerate(reversed(body))) % 10)  # fmt: skip


def _modulo_11(body: str) -> str:
    rest = -sum(int(d) * (len(body) + 1 - i) for i, d in enumerate(body)) % 11
    return body + ("X" if rest == 10 else str(rest))


def _split(rng: random.Random, text: str, first: int, separator: str) -> str:
    """Write group, publisher, title and check digit apart, as books do."""
    group = rng.choice((1, 1, 1, 2, 2, 3, 5))
    publisher = rng.randint(2, 7 - max(0, group - 1)) if group < 5 else 2
    cuts = [first, first + group, first + group + publisher, len(text) - 1]
    bounds = [0, *(cut for cut in cuts if cut), len(text)]
    return separator.join(text[a:b] for a, b in itertools.pairwise(bounds) if a < b)


def _isbn(rng: random.Random, _: str) -> str:
    separator = rng.choice("-- ")
    if rng.random() < 0.5:
        code, first = _modulo_11(digits(rng, 9)), 0
    else:
        code, first = _gtin(rng.choice(("978", "979")) + digits(rng, 9)), 3
    return code if rng.random() < 0.2 else _split(rng, code, first, separator)


def _moment(rng: random.Random) -> datetime.datetime:
    start = datetime.datetime(1996, 1, 1)
    return start + datetime.timedelta(seconds=rng.randrange(30 * 365 * 86_400))


_DATES = ("%d/%m/%Y %H:%M", "%d.%m.%Y %H:%M", "%d-%m-%Y %H:%M", "%m/%d/%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y.%m.%d %H:%M",
          "%d.%m.%Y, %H.%M", "%d %m %Y %H:%M", "%d/%m/%y %H:%M", "%d.%m.%Y %H.%M", "%Y-%m-%dT%H:%M:%SZ", "%Y%m%d %H%M", "%d.%m.%Y - %H:%M")  # fmt: skip


def _date(rng: random.Random, language: str) -> str:
    return _moment(rng).strftime(rng.choice(_DATES))


def _times(rng: random.Random, language: str) -> str:
    mark = rng.choice(".:")
    a, b = sorted(rng.sample(range(6, 24), 2))
    return f"{a:02}{mark}{rng.choice(('00', '30'))} {rng.choice('-–')} {b:02}{mark}{rng.choice(('00', '15'))}"


def _doi(rng: random.Random, language: str) -> str:
    return f"10.{rng.randint(1000, 99999)}/" + rng.choice(
        (
            f"j.cell.{rng.randint(1990, 2024)}.{rng.randint(1, 12):02}.{digits(rng, 3)}",
            f"s{digits(rng, 5)}-{digits(rng, 3)}-{digits(rng, 4)}-{digits(rng, 1)}",
            f"{digits(rng, 4)}-{digits(rng, 4)}({digits(rng, 6)}){digits(rng, 2)}:{digits(rng, 1)}",
            f"nature{digits(rng, 5)}",
        )
    )


def _issn(rng: random.Random, language: str) -> str:
    code = _modulo_11(digits(rng, 7))
    return f"{code[:4]}-{code[4:]}"


def _version(rng: random.Random, language: str) -> str:
    numbers = [rng.randint(0, rng.choice((9, 9, 30, 120, 255))) for _ in range(rng.choice((3, 4, 4, 4, 5)))]  # fmt: skip
    return ".".join(map(str, numbers)) + rng.choice(("", "", "", "-rc1", "b2"))


def _section(rng: random.Random, language: str) -> str:
    return ".".join(str(rng.randint(1, 12)) for _ in range(rng.choice((3, 4, 4, 5))))


def _figure(rng: random.Random, language: str) -> str:
    separator = rng.choice((_THOUSANDS[language], " ", " "))
    return f"{rng.randrange(10**6, 10 ** rng.randint(7, 11)):,}".replace(",", separator)


def _money(rng: random.Random, language: str) -> str:
    amount, cents = _figure(rng, language), digits(rng, 2)
    sign = rng.choice(("€", "$", "EUR", "USD", "£", "₽", "¥", "R$"))
    mark = "." if "," in amount else ","
    tail = rng.choice(("", f"{mark}{cents}"))
    return rng.choice((f"{sign} {amount}{tail}", f"{amount}{tail} {sign}", f"{sign}{amount}{tail}"))


def _coordinates(rng: random.Random, language: str) -> str:
    n = rng.choice((4, 5, 6))
    a, b = rng.uniform(-85, 85), rng.uniform(-180, 180)
    return rng.choice((f"{a:.{n}f} {b:.{n}f}", f"{a:.{n}f}, {b:.{n}f}", f"{a:+.{n}f}{b:+.{n}f}", f"{abs(a):.{n}f}° N {abs(b):.{n}f}° E",
                       f"{int(abs(a))}°{digits(rng, 2)}'{digits(rng, 2)}\" {int(abs(b))}°{digits(rng, 2)}'{digits(rng, 2)}\""))  # fmt: skip


def _order(rng: random.Random, language: str) -> str:
    return rng.choice((digits(rng, rng.randint(7, 16)), f"{digits(rng, 3)}-{digits(rng, 7)}-{digits(rng, 7)}", f"{digits(rng, 3)}-{digits(rng, 3)}-{digits(rng, 4)}",
                       f"{digits(rng, 4)} {digits(rng, 4)} {digits(rng, 4)} {digits(rng, 4)}", f"{digits(rng, 2)}-{digits(rng, 5)}-{digits(rng, 5)}"))  # fmt: skip


def _case(rng: random.Random, language: str) -> str:
    year = rng.randint(1990, 2025)
    return rng.choice((f"{year}-{digits(rng, 6)}", f"{digits(rng, 3)}-{digits(rng, 2)}-{digits(rng, 4)}", f"{digits(rng, 5)}/{year}", f"{digits(rng, 7)}-{digits(rng, 2)}.{year}.8.26.{digits(rng, 4)}",
                       f"{digits(rng, 1)}:{str(year)[2:]}-cv-{digits(rng, 5)}", f"{digits(rng, 2)}-{digits(rng, 6)}/{year}"))  # fmt: skip


def _tracking(rng: random.Random, language: str) -> str:
    return rng.choice((f"1Z{digits(rng, 3)}AA1{digits(rng, 10)}", f"RR{digits(rng, 9)}DE", digits(rng, 12), digits(rng, 20), digits(rng, 14), f"{digits(rng, 4)} {digits(rng, 4)} {digits(rng, 4)}",
                       " ".join(["9400", *(digits(rng, 4) for _ in range(4)), digits(rng, 2)])))  # fmt: skip


def _ean(rng: random.Random, language: str) -> str:
    code = _gtin(digits(rng, rng.choice((7, 11, 12, 12, 12, 13))))
    return rng.choice((code, code, f"{code[0]} {code[1:7]} {code[7:]}"))


def _imei(rng: random.Random, language: str) -> str:
    code = with_luhn(rng.choice(("35", "86", "49", "01")) + digits(rng, 12))
    return rng.choice(
        (
            code,
            code,
            f"{code[:2]}-{code[2:8]}-{code[8:14]}-{code[14]}",
            f"{code[:8]} {code[8:14]} {code[14]}",
        )
    )


def _serial(rng: random.Random, language: str) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(4))
    return rng.choice((letters + digits(rng, 8), digits(rng, rng.randint(8, 16)), f"{digits(rng, 4)}-{digits(rng, 4)}-{digits(rng, 4)}", f"{letters}-{digits(rng, 3)}-{digits(rng, 7)}"))  # fmt: skip


def _code(rng: random.Random, language: str) -> str:
    n = digits
    return rng.choice((f"x = [{n(rng, 3)}, {n(rng, 3)}, {n(rng, 4)}]", f"git clone git@github.com:a{n(rng, 2)}/b.git", f"icon@{rng.randint(2, 3)}x.png", f"npm i react@{rng.randint(1, 20)}.{n(rng, 1)}.{n(rng, 1)}",
                       f"sleep({n(rng, 7)})", f"0x{n(rng, 8)}", f"#define MAX {n(rng, 10)}", f"std::vector<int>::at({n(rng, 3)})", f"rsync me@host.example.org:/srv/{n(rng, 3)}", f"f({n(rng, 3)}-{n(rng, 3)}-{n(rng, 4)})=0",
                       f"background@{rng.randint(2, 3)}x.jpg", f"a[{n(rng, 4)}:{n(rng, 4)}:2]"))  # fmt: skip


def _math(rng: random.Random, language: str) -> str:
    a, b, c = (rng.randint(100, 9999) for _ in range(3))
    return rng.choice((f"{a} - {b} - {c} = {a - b - c}", f"{a} + {b} = {a + b}", f"{a}/{b}/{c}", f"3.{digits(rng, 14)}", f"{a}-{b}-{c}={a - b - c}", f"({a}) ({b}) {c}",
                       f"3 {digits(rng, 3)} {digits(rng, 3)} {digits(rng, 3)}", f"{a} × {b} = {a * b}"))  # fmt: skip


def _table(rng: random.Random, language: str) -> str:
    width = rng.choice((0, 0, 2, 3, 4))
    cells = [
        digits(rng, width or rng.randint(1, 4)).lstrip("0") or "0" for _ in range(rng.randint(3, 9))
    ]
    return rng.choice((" ", " ", "  ", "\t", " | ", "/")).join(cells)


def _timestamp(rng: random.Random, language: str) -> str:
    seconds = str(rng.randrange(10**9, 18 * 10**8))
    return seconds + rng.choice(("", digits(rng, 3), digits(rng, 6), digits(rng, 9)))


def _hardware(rng: random.Random, language: str) -> str:
    return rng.choice(":-:").join(f"{rng.randrange(256):02x}" for _ in range(rng.choice((6, 6, 8))))


def _hash(rng: random.Random, language: str) -> str:
    name = rng.choice(("md5", "sha1", "sha256"))
    return hashlib.new(name, digits(rng, 9).encode()).hexdigest()[: rng.choice((7, 12, None, None))]


def _uuid(rng: random.Random, language: str) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _result(rng: random.Random, language: str) -> str:
    sets = rng.randint(3, 5)
    return rng.choice((" ".join(f"{rng.randint(0, 7)}-{rng.randint(0, 7)}" for _ in range(sets)), " ".join(f"{rng.randint(15, 31)}:{rng.randint(15, 31)}" for _ in range(sets)),
                       f"{rng.randint(80, 130)}-{rng.randint(80, 130)}", ", ".join(f"{rng.randint(15, 31)}-{rng.randint(15, 31)}" for _ in range(sets))))  # fmt: skip


def _law(rng: random.Random, language: str) -> str:
    a, b, c, d = (rng.randint(1, 999) for _ in range(4))
    return rng.choice((f"§ {a} Abs. {b % 9}", f"{a % 50} U.S.C. § {a}-{b}", f"Art. {a}.{b % 20}.{c % 20}.{d % 20}", f"§§ {a}, {b}, {c}-{d}", f"Reg. (EU) {2000 + a % 25}/{b}", f"§ {a % 9}.{b % 20}.{c % 20}.{d % 20}"))  # fmt: skip


KINDS: dict[str, tuple[str, Callable[[random.Random, str], str]]] = {
    "date and time": ("date", _date), "opening times": ("times", _times), "ISBN": ("isbn", _isbn), "ISBN without its name": ("bare_isbn", _isbn), "DOI": ("doi", _doi), "ISSN": ("issn", _issn),
    "version": ("version", _version), "section": ("section", _section), "money": ("money", _money), "large number": ("figure", _figure), "coordinates": ("coordinates", _coordinates),
    "order number": ("order", _order), "case number": ("case", _case), "tracking number": ("tracking", _tracking), "EAN, UPC": ("ean", _ean), "IMEI": ("imei", _imei), "serial number": ("serial", _serial),
    "code": ("plain", _code), "mathematics": ("plain", _math), "row of a table": ("plain", _table), "timestamp": ("plain", _timestamp), "MAC, WWN": ("plain", _hardware), "hash": ("plain", _hash),
    "UUID": ("plain", _uuid), "sports result": ("result", _result), "law": ("law", _law),
}  # fmt: skip


def texts(n: int = N_TEXTS, seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield kind, language and text, the kinds and languages in turn."""
    rng = random.Random(seed)
    for i in range(n):
        kind = tuple(KINDS)[i % len(KINDS)]
        i_language = i // len(KINDS) % len(LANGUAGES)
        language = LANGUAGES[i_language]
        label, value = KINDS[kind]
        before, behind = rng.sample(SENTENCES[language], 2)
        line = LABELS[label][i_language].format(value(rng, language))
        ends = "。" if language in ("zh", "ja") else "."
        yield (
            kind,
            language,
            rng.choice((f"{before} {line}{ends} {behind}", f"{before}\n{line}\n{behind}")),
        )
