"""What the words before a number say that it is.

`415-555-2671` is a telephone number in most sentences and an order number in some; `5.2.1.4` is an address of the Internet or a version.
The digits cannot tell, the word before them mostly does. The lists cover the languages of the twenty largest countries and of Europe; a
word that is missing costs recall (a telephone number in national spelling stays) or harm (an order number is replaced), never both.
"""

from __future__ import annotations

import re


def _words(spaced: str, unspaced: str = "") -> str:
    """Join words, `~` for a space in them, into one pattern.

    Those of scripts with capitals need a word's bounds, the others attach articles and endings.
    """
    first, second = ("|".join(words.split()).replace("~", " ") for words in (spaced, unspaced))
    bounded = rf"(?<![^\W\d_])(?:{first})(?![^\W\d_])"
    return f"(?:{bounded}|{second})" if unspaced else bounded


_NUMBER_WORDS = _words(
    "n n\\.º no nos nr num number numbers id ids code ref is are was № n° nº núm número numéro numero numer nomor nummer номер "
    "número numarası numara số is ist est es è é jest this lautet",
    "هو هي 号码 號碼 号 號 番号 번호 رقم شماره نمبر संख्या नंबर क्रमांक नम्बर নম্বর নং หมายเลข เลขที่ ቁጥር",
)
"""What may stand between a label and its number: *order no.*, *order number is*."""

_PHONE_NOUNS = _words(
    # English, German, French, Spanish, Portuguese, Italian, Dutch, Nordic, Polish, Czech, Turkish, Indonesian, Vietnamese, Swahili
    "(?:tele)?phones? tel cel ph th\\. fon\\. telefax toll[-~]free voice~?mail switchboard (?:home|work|office|business|direct|personal|emergency|contact|daytime|evening|reception|toll-free)~(?:numbers?|lines?|no) fax faks mobile mob cell(?:ular)? hotline helpline caller~id whats[-~]?app sms landline viber "
    "telefon\\w* tele[fph]\\w*n[eo]\\w* teléfono\\w* téléphone\\w* tél \\w*telefon\\w* \\w*(?:ruf|telefon|handy|mobil|fax|service|hotline)\\w*(?:nummern?|nr) handy\\w* zentrale central~telefónica standard~téléphonique centralino mobil\\w* mobiltelefon durchwahl "
    "portable celular\\w* móvil movil telemóvel telemovel cellulare recapito gsm mobiel tlf telf fono fone puh puhelin tfn mobilnummer "
    "telefonu\\w* kom(?:órka)? komórkowy cep faks telepon telpon telp ponsel handphone hp wa điện~thoại di~động đt sđt đtdđ "
    "simu nambari~ya~simu rakam "
    # Russian, Ukrainian, Bulgarian, Greek
    "тел т\\. телефон\\w* моб мобильн\\w* мобільн\\w* факс сот сотов\\w* контактн\\w+ τηλ τηλέφωνο κιν κινητό φαξ",
    # Arabic, Persian, Urdu, Hebrew, Hindi, Marathi, Bengali, Punjabi, Gujarati, Tamil, Telugu, Thai, Amharic, Chinese, Japanese, Korean
    "هاتف تلفون جوال موبايل محمول فاكس واتساب تلفن موبایل همراه فکس رابطہ تماس فون موبائل טלפון נייד פקס फ़ोन फोन मोबाइल मोबाईल दूरभाष फैक्स "
    "संपर्क सम्पर्क ফোন মোবাইল টেলিফোন যোগাযোগ ਫ਼ੋਨ ਫੋਨ ਮੋਬਾਈਲ ફોન મોબાઇલ தொலைபேசி போன் கைபேசி ఫోన్ మొబైల్ โทร มือถือ แฟกซ์ ስልክ "
    "ሞባይል ፋክስ 电话 電話 手机 手機 传真 傳真 热线 熱線 致电 致電 联系方式 聯絡 携帯 ファックス ファクス 전화 휴대폰 핸드폰 휴대전화 팩스 연락처",
)
_PHONE_VERBS = _words(
    "desk dial ring (?<!the~)(?<!this~)text(?:s|ed)? call(?:s|ed|ing)?(?!~(?:logs?|numbers?|cent(?:er|re)s?|ids?|duration)) messages?~to answering~at reach(?:ed)?~(?:\\w+~)?(?:at|on) (?:my|your|his|her|the)~registered (?:my|your|his|her|our|their)~(?:\\w+~)?(?:number|no) "
    "contact(?:~(?:us|me|him|her|no|number))? rsvp anruf\\w* rufen wählen appel(?:er|ez|lez) joign?(?:dre|ez) ll[aá]m(?:e|ar|a|ame|eme|anos|enos) lig(?:ar|ue|uem) chiam(?:a|are|ate|ateci|aci|i) "
    "contacto contato kontakt hubungi liên~hệ gọi arayın arayınız ara звон\\w+ позвон\\w+ дзвон\\w+ bel bellen ring zadzwoń",
    "اتصل تماس कॉल कल করুন 联系 拨打",
)
_OTHER = _words(
    # identifiers that are the same everywhere
    "isbn(?:[-~]?1[03])? issn e-?issn ean(?:-?13|-?8)? upc gtin(?:-?1[234])? imei imsi iccid eid doi pmid pmcid vin sku asin orcid isni s/?n p/?n "
    "uuid guid oid arxiv (?<!caller~)ids? cas mrn npi inn инн огрн кпп снилс siren siret cnpj nif cif hrb rfc sha\\d* md5 crc hash lat lon "
    # English
    "orders? cases? tracking shipment shipping parcel consignment waybill awb invoices? receipts? tickets? claims? dockets? files? parts? items? articles? "
    "models? serials? serial lots? batch(?:es)? products? references? bookings? confirmation reservation policy accounts? acct customers? members? "
    "patents? barcodes? transactions? po rma build release firmware licen[cs]e(?:~key)? permit reg registration track~&~trace applications? complaints? bills? projects? protocol ref\\. art\\. inv\\. "
    # German: its compounds end in the word for number
    "\\w+(?:nummern?|nr\\.?|zeichen|code) az\\. sendungsverfolgung paket bestellung auftrag rechnung artikel aktenzeichen az sendung charge "
    # French, Spanish, Portuguese, Italian
    "commande suivi colis facture dossier référence réf\\.? lot affaire série pedido factura guía protocolo nota~fiscal seguimiento envío expediente artículo referencia serie lote "
    "caso encomenda rastreamento rastreio processo artigo fatura referência ordine spedizione fattura pratica articolo riferimento causa lotto "
    "tracciamento "
    # Dutch, Swedish, Polish, Turkish, Indonesian, Vietnamese
    "bestelling zaak factuur zending ärende beställning zamówieni[ea] sprawa przesyłk[ai] faktura sygnatura sipariş dosya fatura takip kargo seri esas "
    "pesanan perkara resi pelacakan faktur đơn~hàng vụ~án vận~đơn hóa~đơn "
    # Russian, Ukrainian
    "заказ\\w* дел[оау] накладн\\w+ сч[её]т\\w* артикул\\w* трек\\w* отправлени\\w+ серийн\\w+ заявк\\w+ отслеживани\\w+ посылк\\w+ договор\\w* "
    "замовлення справ[аи]",
    # Arabic, Persian, Urdu, Hindi, Bengali, Chinese, Japanese, Korean, Thai
    "طلب قضية شحنة تتبع فاتورة مرجع تسلسلي سفارش پرونده مرسوله آرڈر مقدمہ आदेश ऑर्डर मामला मामले क्रम केस ट्रैकिंग बिल चालान शिपमेंट सीरियल অর্ডার মামলা ট্র্যাকিং 订单 訂單 "
    "单号 單號 编号 編號 案号 案件 案 发票 快递 运单 追踪 序列 型号 注文 事件 追跡 伝票 請求書 型番 シリアル 製品 製造 問い合わせ 주문 송장 사건 운송장 일련 시리얼 제품 คำสั่งซื้อ คดี พัสดุ",
)
_LONE = re.compile(r"(?:#|№|n°|n\.º|(?<![^\W\d_])(?:no|nr|ref|item|code)[.:]?)[ ]?\Z", re.I)
"""A number that is only called a number."""
_CARDS = _words(
    "(?:credit|debit|bank|giro|pre-?paid|gift)?~?(?<!sim~)(?<!sd~)(?<!memory~)(?<!graphics~)(?<!video~)cards? visa mastercard maestro amex american~express "
    "discover(?!~\\w) diners kredit\\w*kart\\w* karten?(?:nummer)? carte(?:~bancaire)? cb tarjetas? cart(?:ão|ao|ões) carta(?:~di~credito)? "
    "creditcard kredi kart(?:[ıi]\\w*)? kartu kart[aąęy] thẻ карт[аыуе] платили? charged? charging payments? credit debit bank",
    "بطاقة کارت کارڈ कार्ड কার্ড 卡号 卡 カード 카드 บัตร",
)
_SSN = _words(
    "ssns? soc(?:ial)?[~.]{0,2}sec(?:urity)? itin tin tax(?:payer)?~id(?:entification)? social"
)
_VERSIONS = (
    _words(
        # English and what comes from it
        "v ver vers \\w*versions? releases? rel builds? firmware fw patch(?:es)? updates? upgrade\\w* upgrad\\w+~(?:to|from) updated~(?:to|from) revisions? rev sections? sect? sec chapters? chap clauses? paragraphs? para "
        "articles? art rules? figures? fig tables? appendix annex items? steps? points? oids? driver drivers bios kernel api sdk kb "
        # software that is named before its version
        "sql~server firefox chrome chromium safari opera edge windows android ios macos ubuntu debian java jdk jre python php mysql oracle office photoshop acrobat flash "
        "itunes skype openssl apache nginx tomcat wordpress joomla drupal unity directx nvidia geforce catalyst vlc winrar excel reader plug-?in add-?on "
        # the other languages
        "versionen abschnitt kapitel abs absatz ziffer artikel ausgabe fassung stand mise~à~jour chapitre paragraphe alinéa versión versiones sección "
        "capítulo apartado artículo versão versões seção secção capitulo artigo item versione versioni sezione capitolo articolo punto versie hoofdstuk "
        "version wersj[aięe] rozdział punkt pkt sürüm\\w* sürümü bölüm madde versi bab bagian pasal phiên~bản chương mục điều верси[яиюей]+ верс "
        "раздел\\w* глав[аеыу] пункт\\w* п стать[яеи] версі[яії] розділ τμήμα έκδοση",
        "إصدار الاصدار نسخة قسم فصل المادة نسخه بخش संस्करण वर्जन अध्याय धारा अनुच्छेद অনুচ্ছেদ সংস্করণ 版本 版 章 节 節 第 バージョン 버전 เวอร์ชัน รุ่น",
    )
    + r"|§"
)
_INTERNET = _words(
    "ips? ipv4 ip[-~]adress\\w* ip[-~]address\\w* address(?:es)? adress\\w* adresse\\w* direcci[oó]n endereço indirizzo dns servers? hosts? ping(?:ed)? pings? router "
    "gateway proxy subnet netmask nameservers? resolvers? traceroute whois from client clients ssh telnet https? peer peers node endpoint listen(?:ing)? "
    "bind connect(?:ed|ion)? logged server serveur servidor сервер\\w* адрес\\w* хост\\w* айпи sunucu alamat địa~chỉ adres\\w*",
    "عنوان आईपी पता 地址 位址 服务器 アドレス サーバ 주소 서버",
)

_GAP = r"(?:(?:[^\d.!?。！？؟।\n]|\b(?:no|nr|num|núm|n|nº)\.){0,%d}|[^\w.!?。！？؟।]{0,6})\Z"
"""A few words of the same sentence, or marks and a line break."""
_PATTERNS = {
    # A noun or a verb of telephones may stand a few words before its number. What calls it an order or a case has to stand right
    # before it, but for the word for "number": a sentence may well speak of an order and then name a telephone.
    "phone": rf"(?:{_PHONE_NOUNS})(?:(?<![^\W\d_]{{5}})\.)?{_GAP % 24}|\[phone\]\W{{0,3}}(?:or|and|oder|und|ou|et|o|y|e|или|и)?\W{{0,3}}\Z",
    "call": rf"(?:{_PHONE_VERBS}){_GAP % 16}",
    "letter": r"(?-i:(?<![^\W_])[TPMF])[:.]?[ ]\Z",
    "card": rf"(?:{_CARDS}){_GAP % 40}",
    "other": rf"(?:{_OTHER})\w{{0,3}}(?:[\W_]{{0,3}}{_NUMBER_WORDS}\.?)*[^\w.!?。！？؟]{{0,4}}\Z",
}
_LABELS = {kind: re.compile(pattern, re.I) for kind, pattern in _PATTERNS.items()}
_SSN_BEFORE = re.compile(
    rf"{_SSN}(?:[\W_]{{0,3}}(?:{_NUMBER_WORDS}|my|the|number))*[\W_]{{0,4}}\Z", re.I
)
_VERSION_BEFORE = re.compile(
    rf"(?:{_VERSIONS})[\W_]{{0,3}}(?:{_NUMBER_WORDS})?[\W_]{{0,2}}\Z", re.I
)
_VERSION_BESIDE = re.compile(_VERSIONS, re.I)
_INTERNET_BESIDE = re.compile(_INTERNET, re.I)
_WINDOW = 48


def number_label(text: str, start: int) -> str | None:
    """Return what the words before a number call it.

    It is `phone`, `call` (a verb, which says less), `letter` (T, P, M or F, which says
    little), `card`, `other` or nothing.

    Of two labels the nearer one counts: an *order hotline* is a telephone, and a *phone order number* is none.
    """
    before = text[max(0, start - _WINDOW) : start]
    best, at = None, -1
    for kind, pattern in _LABELS.items():
        # The leftmost match of the pattern is its longest way back, so look for a later start as well.
        match = pattern.search(before)
        while match:
            if match.start() > at:
                best, at = kind, match.start()
            match = pattern.search(before, match.start() + 1)
    return best or ("other" if _LONE.search(before) else None)


def is_called_ssn(text: str, start: int) -> bool:
    """Tell whether the words before call it a social security number."""
    return _SSN_BEFORE.search(text[max(0, start - _WINDOW) : start]) is not None


def is_called_version(text: str, start: int) -> bool:
    """Tell whether a word such as *version* or *section*, or the name of a program, stands before."""
    return _VERSION_BEFORE.search(text[max(0, start - _WINDOW) : start]) is not None


def speaks_of_internet(text: str, start: int, end: int, window: int = 40) -> bool:
    """Tell whether a word about addresses and servers stands near."""
    return _INTERNET_BESIDE.search(text, max(0, start - window), end + window) is not None


def speaks_of_versions(text: str, start: int, end: int, window: int = 40) -> bool:
    """Tell whether a word about versions and sections stands near."""
    return _VERSION_BESIDE.search(text, max(0, start - window), end + window) is not None
