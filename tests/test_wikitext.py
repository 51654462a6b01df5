"""Wikitext -> prose, rule by rule; all Japanese here was written for these tests."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_ja import workers
from bert_ja.wikitext import clean, is_redirect

# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize(
    "text",
    [
        "#REDIRECT [[湖]]",
        "#redirect[[湖]]",
        "#転送 [[湖]]",
        "＃転送 [[湖]]",
        " \n#Redirect: [[湖]]\n{{rcat}}",
        "#リダイレクト [[湖]]",
    ],
)
def test_redirects_are_known_in_every_spelling(text):
    assert is_redirect(text)
    assert clean(text) == []


@pytest.mark.parametrize("text", ["", "湖は#REDIRECT [[池]]ではない。", "#転送の手順", "# 一つ目"])
def test_a_page_that_only_mentions_redirects_is_none(text):
    assert not is_redirect(text)


# ---------------------------------------------------------------- a whole page

PAGE = """{{Otheruses|山の名|人名|白井岳太}}
{{基礎情報 山
|名称 = 白井岳
|標高 = {{convert|1204|m}}
|位置 = [[ファイル:Shirai.png|200px|白井岳の位置]]
|一覧 = {| class="wikitable"
|-
| 春 || 秋
|}
}}
[[ファイル:Shirai summit.jpg|thumb|[[白井岳]]の山頂。{{small|秋}}に撮影。]]
'''白井岳'''（しらいだけ、{{lang-en|Mount Shirai}}）は、[[架空]]の[[北部 (地方)|北部]]にある山である<ref name="a">
山の本。</ref>。<!-- 要確認 -->
標高は{{formatnum:1204}}mで、{{仮リンク|白井湖|en|Lake Shirai|label=ふもとの湖}}から登る。

== 歴史 ==
{{Main|白井岳の歴史}}
[[江戸時代]]に開かれた。
* 一合目
* 五合目には小屋がある。<ref>前掲書</ref>
; 山小屋
: 夏だけ開く。
{| class="wikitable"
! 年 !! 人数
|-
| 2001 || 表の中の文である。
|}
その後、道は閉じた。

== 脚注 ==
{{Reflist}}
注のある節の文は要らない。
=== 注釈 ===
ここも要らない。

== 文化 ==
歌にもなった。

==関連項目==
* [[黒井岳]]は隣の山である。

{{DEFAULTSORT:しらいたけ}}
[[Category:架空の山]]
[[en:Mount Shirai]]
"""


def test_a_page_becomes_its_paragraphs_in_order():
    assert clean(PAGE) == [
        "白井岳（しらいだけ、英語: Mount Shirai）は、架空の北部にある山である。標高は1,204mで、ふもとの湖から登る。",
        "江戸時代に開かれた。",
        "五合目には小屋がある。",
        "夏だけ開く。",
        "その後、道は閉じた。",
        "歌にもなった。",
    ]


# ---------------------------------------------------------------- one rule, one line

RULES = {
    # links
    "a link shows its label": ("[[北の海|海]]を[[船]]で渡る。", "海を船で渡る。"),
    "a label may hold a template": ("[[塩|{{lang|en|salt}}]]を売る。", "saltを売る。"),
    "a template may hold a link with a label": ("{{nowrap|[[北の海|海]]と山}}を見る。", "海と山を見る。"),
    "a link to a category or a file with a colon shows": ("[[:Category:魚|魚の仲間]]を見る。", "魚の仲間を見る。"),
    "a link to another language shows its label only": (
        "[[:en:Tea|英語版]]も[[w:Tea|茶]]も読む。",
        "英語版も茶も読む。",
    ),
    "an interlanguage link in the margin goes": ("茶を飲む。[[de:Tee]]", "茶を飲む。"),
    "a title that begins like a language stays": ("[[Re:春の歌]]を歌う。", "Re:春の歌を歌う。"),
    "an empty label shows the title without its bracket": ("[[春 (歌)|]]を歌う。", "春を歌う。"),
    "a picture goes with brackets in its caption": (
        "[[画像:a.png|thumb|[[丘]]の{{lang|en|[[hill]]}}]]丘である。",
        "丘である。",
    ),
    "an external link shows its label": ("[http://example.jp/ 町の頁]を読む。", "町の頁を読む。"),
    "an external link without label goes with its bracket": ("町（[https://example.jp/a?b=c]）を歩く。", "町を歩く。"),
    "a bare URL goes": ("頁（https://example.jp/）を開く。", "頁を開く。"),
    # templates
    "lang keeps its text": ("{{Lang|fr|le thé}}と呼ぶ。", "le théと呼ぶ。"),
    "lang-xx and its short forms keep their text": (
        "茶（{{lang-en-short|tea}}、{{Lang-de|Tee}}）を飲む。",
        "茶（英: tea、ドイツ語: Tee）を飲む。",
    ),
    "a language that we cannot name keeps its text": (
        "茶（{{lang-sgs-short|arbata}}、{{lang-cs-short|čaj}}、{{lang-en|}}）を飲む。",
        "茶（arbata、čaj）を飲む。",
    ),
    "llang shows the word and its reading": (
        "{{llang|la|Thea|テア}}と{{llang|la|Camellia}}。",
        "Thea（テア）とCamellia。",
    ),
    "IPA sets sounds in brackets, ipa between strokes": (
        "{{IPA|tiː}}、{{IPA-fr|te}}、{{ipa|t}}、{{Ipa|i}}、{{発音記号|a}}、{{IPA|[o]}}、{{ipa|/e/}}、{{IPA2|u}}と読む。",
        "[tiː]、[te]、/t/、/i/、[a]、[o]、/e/、uと読む。",
    ),
    "brackets of sounds are no link": ("[{{IPA|[[音|t]]}}]と[[音|{{IPA|i}}]]。", "[[t]]と[i]。"),
    "a sound shows its word and not its icon": (
        "{{Audio|a.ogg|Tee}}、{{audio|b.ogg||de|Tee|テー}}、{{Audio|c.ogg|発音}}、{{Audio|d.ogg||de|Tee}}を聞く。",
        "Tee、Tee（テー）、Teeを聞く。",
    ),
    "the name of a country stays, its flag goes": (
        "{{JPN}}と{{flag|USA}}と{{flag|茶国}}と{{UK}}と{{flagicon|JPN}}がある。",
        "日本とアメリカ合衆国と茶国とイギリスとがある。",
    ),
    "a sentence without a word that we do not know goes": (
        "茶。人口は{{人口表|茶町}}人である。丘は{{位置表|1|2}}に、谷は{{位置表|3}}に位置する。"
        "書体では、[[ファイル:a.png|10px]]と書く。木。{{町の表}}は丘にある。{{人口表|a}}人である。続いて{{組|x}}と戦う。"
        "{{Harvnb|佐藤|2000}}によれば緑だ。",
        "茶。木。",
    ),
    "notes are no words that are missing": (
        "茶は{{要出典}}木である。葉を{{Sfn|葉|1}}の棚に置く。丘が、{{どこの表}}のちに崩れる。",
        "茶は木である。葉をの棚に置く。丘が、のちに崩れる。",
    ),
    "a picture beside the text is none of its words": (
        "茶は、[[ファイル:a.png|thumb|10px]]木[[ファイル:b.png|20px]]である。",
        "茶は、木である。",
    ),
    "the code of another Wikipedia goes": (
        "茶会（[[:en:Tea party|en]]）を開き、茶室([[:fr:Thé|fr]]、狭い部屋)に入る。[[:en:Tea|en茶]]。",
        "茶会を開き、茶室(狭い部屋)に入る。en茶。",
    ),
    "a link within the page shows no sign": ("[[#春の茶]]と[[茶_(木)]]を読む。", "春の茶と茶 (木)を読む。"),
    "a note's stop on the next line is that of its sentence": (
        "茶は木である\n<ref>本</ref>。\n葉は緑。",
        "茶は木である。葉は緑。",
    ),
    "仮リンク without a label shows the title": ("{{仮リンク|緑茶の道|en|Tea Road}}を行く。", "緑茶の道を行く。"),
    "仮リンク shows its label": ("{{仮リンク|緑茶の道|en|Tea Road|label='''道'''}}を行く。", "道を行く。"),
    "ill2 shows the title": ("{{ill2|茶会|en|Tea Party}}を開く。", "茶会を開く。"),
    "names of templates may have other capitals and underscores": ("{{Visible_anchor|茶室}}に入る。", "茶室に入る。"),
    "fonts and sizes keep their text": (
        "{{補助漢字フォント|丂}}と{{small|小}}と{{fontsize|large|大}}。",
        "丂と小と大。",
    ),
    "doubted passages keep their text": ("{{要出典範囲|date=2020年1月|茶は甘い。}}以上。", "茶は甘い。以上。"),
    "numbered arguments are positional": ("{{lang|en|2=a = b}}である。", "a = bである。"),
    "convert shows the first value": ("気温は{{convert|30|C|F}}、幅は{{convert|5|km|mi}}。", "気温は30℃、幅は5km。"),
    "formatnum sets commas": (
        "人口は{{formatnum:1234567.5}}人、{{formatnum:約三}}人。",
        "人口は1,234,567.5人、約三人。",
    ),
    "fractions are written with a slash": ("{{sfrac|1|2}}と{{frac|2|1|3}}と{{frac|4}}。", "1/2と2 1/3と1/4。"),
    "signs are written out": ("甲{{!}}乙{{・}}丙{{0}}丁{{くの字点}}戊{{-}}。", "甲|乙・丙丁〳〵戊。"),
    "chemical formulas are joined": ("{{chem|H|2|O}}を飲む。", "H2Oを飲む。"),
    "unknown templates, notes and doubts go": (
        "茶{{要出典|date=2020年1月}}を飲む{{Sfn|茶野|2001}}{{efn|注。}}。",
        "茶を飲む。",
    ),
    "flags go": ("{{Flagicon|JPN}}日本の茶。", "日本の茶。"),
    "a parameter shows its default": ("{{{1|茶}}}と{{lang|en|{{{x|tea}}}}}と{{{y}}}を飲む。", "茶とteaとを飲む。"),
    "links to other Wikipedias by other names": (
        "{{link-pl|緑茶の道|Tea Road}}と{{日本語版にない記事リンク|茶会|en|Tea}}。",
        "緑茶の道と茶会。",
    ),
    "pieces are joined": ("{{gaps|12|345}}人。", "12345人。"),
    # readings
    "ruby templates set the reading behind": (
        "{{ルビ|急須|きゅうす}}と{{ふりがな|湯呑|ゆのみ}}。",
        "急須（きゅうす）と湯呑（ゆのみ）。",
    ),
    "読み仮名 may add a translation": (
        "{{読み仮名|'''茶筅'''|ちゃせん|{{lang|en|whisk}}}}は道具。",
        "茶筅（ちゃせん、whisk）は道具。",
    ),
    "ruby in HTML ends as ruby in templates": (
        "<ruby><rb>急須</rb><rp>（</rp><rt>きゅうす</rt><rp>）</rp></ruby>で<ruby>抹<rt>まっ</rt>茶<rt>ちゃ</rt></ruby>。",
        "急須（きゅうす）で抹茶（まっちゃ）。",
    ),
    "emphasis dots are no reading": ("{{ルビ|茶|・}}を<ruby>飲<rt>﹅</rt></ruby>む。", "茶を飲む。"),
    # punctuation beside what was dropped
    "a bracket that lost all goes": ("茶（{{audio}}）は木。", "茶は木。"),
    "a label that lost its word goes": ("茶（英: {{x}}、ちゃ、ドイツ語：{{x}}）は木。", "茶（ちゃ）は木。"),
    "a bracket that lost its only label goes": ("茶（英: {{x}}）は木。", "茶は木。"),
    "a comma at the start of a bracket goes": ("茶（{{x}}、ちゃ）は木。", "茶（ちゃ）は木。"),
    "a comma at the end of a bracket goes": ("茶（ちゃ、{{x}}）は木。", "茶（ちゃ）は木。"),
    "one of two commas goes": ("茶（ちゃ、{{x}}、さ）は木。", "茶（ちゃ、さ）は木。"),
    "one of two stops goes": ("茶は木。{{x}}。葉は緑、{{x}}。実は・{{x}}。", "茶は木。葉は緑。実は。"),
    "a dash keeps its spaces": ("茶野（1901年{{x}} - 1999年{{x}}）は人。", "茶野（1901年 - 1999年）は人。"),
    "brackets in brackets go": ("茶（「{{x}}」）は木。", "茶は木。"),
    "a comma at the start of a line goes": ("{{x}}、茶は木。", "茶は木。"),
    "what the author left empty stays": (
        "main()と（）と「」と（、）を呼ぶ{{x}}。",
        "main()と（）と「」と（、）を呼ぶ。",
    ),
    "a space stays between words only": ("green {{x}} tea と {{x}} 茶。", "green tea と茶。"),
    # elements
    "comments go, even between brackets of a link": ("[[茶<!-- [[ -->の木]]は<!--\n\n-->木。", "茶の木は木。"),
    "refs go": ('茶<ref>本{{cite|a=b}}[[x]]\n二行</ref>は<ref name="a/b" />木<REF name=c>x</Ref>。', "茶は木。"),
    "formulas show what plain signs can show": (
        r"<math>n</math>個の<math>\alpha_{1}\,\in \mathbb{R}^{n+1}</math>と<math>\tfrac{1}{2} < x^2</math>だ。",
        "n個のα1 ∈ R^(n+1)と1/2 < x^2だ。",
    ),
    "formulas in text stand as chemists and typists write them": (
        r"<ce>H2O</ce>を<math>20\,^\circ\mathrm{C}</math>の<math>\{x\}</math>に<math>10\%</math>注ぐ。",
        "H2Oを20 °Cの{x}に10%注ぐ。",
    ),
    "entities in formulas are signs": ("<math>a &lt; b</math>である。", "a < bである。"),
    "a sentence goes with a formula that plain signs cannot show": (
        r"茶は木。任意の<math>\sqrt{n}</math>について、<math>\int f</math>である。花は白。",
        "茶は木。花は白。",
    ),
    "a sentence goes with a number that nobody can compute": (
        "茶は木。畑は{{formatnum:{{#expr:2*3}}}}枚。花は白。",
        "茶は木。花は白。",
    ),
    "a formula in brackets goes alone": (r"比（<math>\sqrt{n}</math>）を測る。", "比を測る。"),
    "nowiki shows its markup": ("<nowiki>[[茶]]と{{x}}と''と&lt;</nowiki>を書く。", "[[茶]]と{{x}}と''と<を書く。"),
    "code in a line keeps its text": ("<code>x = '''1''' &amp; y</code>と書く。", "x = 1 & yと書く。"),
    "blocks of code go": (
        "次を見る。\n<pre>\nx である。\n</pre>\n<syntaxhighlight lang=c>\ny;\n</syntaxhighlight>",
        "次を見る。",
    ),
    "inline highlighting keeps its text": (
        '<syntaxhighlight lang="c" inline>a[[0]]</syntaxhighlight>を読む。',
        "a[[0]]を読む。",
    ),
    "galleries and timelines go": ("茶。<gallery>\nA.jpg|茶の図。\n</gallery><timeline>\nx\n</timeline>", "茶。"),
    "tags go and their text stays": (
        '<span style="color:red">赤</span>い<small>実</small>m<sup>2</sup>。',
        "赤い実m2。",
    ),
    "a power of a number keeps its sign": (
        "10<sup>6</sup>個、10<SUP class=x>&minus;3</SUP>秒、2{{sup|10}}個、m{{sup|2}}、3日<sup>1</sup>。",
        "10^6個、10^−3秒、2^10個、m2、3日1。",
    ),
    "a power of a variable keeps its sign, that of a unit has none": (
        "n<sup>3</sup>、(a+b)<sup>2</sup>、km<sup>2</sup>、H<sub>2</sub>O、Ca<sup>2+</sup>、sin<sup>2</sup>x。",
        "n^3、(a+b)^2、km2、H2O、Ca2+、sin2x。",
    ),
    "raised signs of letters stay": (
        "いて座A<sup>*</sup>、π<sup>*</sup>軌道、a<sup>†</sup>を見る。",
        "いて座A*、π*軌道、a†を見る。",
    ),
    "a mixed fraction keeps its parts": ("5<sup>1</sup>/<sub>2</sub>杯を飲む。", "5 1/2杯を飲む。"),
    "colours show the last of their arguments": (
        "{{Font color|white|blue|甲}}線と{{色|赤|乙}}線と{{color|red}}。",
        "甲線と乙線と。",
    ),
    "how a reading looks is none of it": (
        "{{ルビ|茶|ちゃ|補助表示}}と{{読み仮名|葉|は|よう}}と{{読み|根|ね}}と{{ラテン翻字|ru|chai}}と{{学名|Camellia}}。",
        "茶（ちゃ）と葉（は、よう）と根とchaiとCamellia。",
    ),
    "a team keeps its country": ("{{Fb|BRA}}と{{fbw|JPN}}が戦う。", "ブラジルと日本が戦う。"),
    "rows without their table go": ("茶は木。\n| 1990年 || 春が咲いた。\n! 茶を飲む。", "茶は木。"),
    "raised signs of notes go": (
        "茶<sup>*</sup>は木<sup>†2</sup>で<sup>[注 3]</sup>、葉<sup>注1</sup>は緑。",
        "茶は木で、葉は緑。",
    ),
    "powers of ten come as templates too": (
        "約3{{e|8}}m、{{10^|5}}個、{{val|6.02|e=23|u=/mol}}、{{val|3|ul=m}}、{{数値|8}}である。",
        "約3×10^8m、10^5個、6.02×10^23/mol、3m、8である。",
    ),
    "a value keeps its error": ("{{val|1.67|(3)|e=-27|ul=kg}}、{{val|9|0.5|u=degC}}。", "1.67(3)×10^-27kg、9±0.5℃。"),
    "convert keeps ranges and feet with inches": (
        "{{convert|5|-|8|km|mi}}、{{convert|2|x|3|m}}、{{convert|6|ft|2|in}}、{{convert|6|ft|m|2}}、{{convert|6|km|2}}。",
        "5〜8km、2×3m、6フィート2インチ、6フィート、6km。",
    ),
    "what only looks like a tag stays": ("a<bかつ<茶>である。", "a<bかつ<茶>である。"),
    "a table in HTML goes": ("茶。<table><tr><td>表。<table><tr><td>x</td></tr></table></td></tr></table>", "茶。"),
    # characters
    "bold and italic quotes go": ("'''茶'''は''木''の'''''葉'''''。", "茶は木の葉。"),
    "entities are decoded once": ("&eacute;&#33590;&#x8336;&amp;lt;&nbsp;と&unknown;。", "é茶茶&lt; と&unknown;。"),
    "entities of private and control characters go": ("茶&#xE000;&#0;&#1;は木。", "茶\ufffdは木。"),
    "entities of markup show it": ("&lt;ref&gt;は&#91;&#91;茶&#93;&#93;と&#42;だ。", "<ref>は[[茶]]と*だ。"),
    "line ends of other programs go": ("茶\x85は\u2028木\t。", "茶は木 。"),
    "private characters of the page go": ("茶\ue000\ue001\ue010は\uf8ff木。", "茶は木。"),
    "magic words go": ("__NOTOC__茶は木。__目次非表示__", "茶は木。"),
    "variants show their text": ("茶-{}-は-{木}-で-{zh-hans:叶; zh-hant:葉}-。", "茶は木で叶。"),
    "nothing is normalised": ("ﾁｬ①㈱Ａ～〜　ガ。", "ﾁｬ①㈱Ａ～〜　ガ。"),
}


@pytest.mark.parametrize("wikitext, prose", RULES.values(), ids=RULES)
def test_rule(wikitext, prose):
    assert clean(wikitext) == [prose]


# ---------------------------------------------------------------- lines


def test_lines_of_a_paragraph_are_joined_without_a_space_but_between_western_words():
    assert clean("茶は\n木である。\n\ngreen\ntea and\n茶。") == ["茶は木である。", "green tea and茶。"]


def test_a_comment_on_its_own_line_does_not_part_a_paragraph():
    assert clean("茶は\n<!-- 木か -->\n木である。") == ["茶は木である。"]


ITEMS = {
    "* 紅茶は発酵させる。": "紅茶は発酵させる。",
    "# 湯を注ぐ（熱いもの。）": "湯を注ぐ（熱いもの。）",
    "** これは何か？": "これは何か？",
    ": 字下げの文である．": "字下げの文である．",
    "\u3000字下げの文である。": "字下げの文である。",
    "* 茶の木。葉を摘んで蒸す": "茶の木。葉を摘んで蒸す",
    "* 茶の木。葉の図": "茶の木。",
    "* 1901年 - 茶業組合が丘のふもとにつくられる": "1901年 - 茶業組合が丘のふもとにつくられる",
    "* - 茶は木である。": "茶は木である。",
    "; 紅茶 : 発酵させた茶である。": "紅茶 : 発酵させた茶である。",
    "* 茶の一つ。→[[緑茶]]": "茶の一つ。",
    "* 茶を飲むこと。 - [[喫茶]]": "茶を飲むこと。",
    "* 一番茶<br>春に摘む茶。<br/>夏の茶は、<br>濃い。": ["春に摘む茶。", "夏の茶は、濃い。"],
}
NO_ITEMS = ["* 緑茶", ":: 茶の一覧", "# か?", "*「飲む。」", "* 茶業組合設立。", "* 『また、茶の間で。』（1901年）"]
NO_ITEMS += [
    "* また、茶の間で。（1901年、茶野役）",
    "* お茶にしよう！",
    "* {{flagicon|x}}は1901年に茶を植えた。",
    "* さて、茶とは",
    "* 「茶の木のそばで君を想うとき花が咲く」",
    "* 茶の木山道を登り新茶摘む",
]


@pytest.mark.parametrize("item", ITEMS)
def test_a_list_item_stays_when_it_is_a_sentence(item):
    prose = ITEMS[item]
    assert clean(f"茶は木。\n{item}\n木。") == ["茶は木。", *([prose] if isinstance(prose, str) else prose), "木。"]


@pytest.mark.parametrize("item", NO_ITEMS)
def test_a_list_item_goes_when_it_is_a_name_or_a_fragment(item):
    assert clean(f"茶は木。\n{item}\n木。") == ["茶は木。", "木。"]


def test_a_term_on_a_line_of_its_own_goes():
    assert clean("; 緑茶\n: 発酵させない茶である。") == ["発酵させない茶である。"]


TORN = {
    "茶は木である。香りで有名": ["茶は木である。"],
    "茶は木である。たとえば": ["茶は木である。"],
    "茶は木である。以下の通り：": ["茶は木である。"],
    "茶は木である。葉も摘む": ["茶は木である。葉も摘む"],
    "茶は木である。葉も摘む（春のみ）": ["茶は木である。葉も摘む（春のみ）"],
    "茶は木である。（春の茶）": ["茶は木である。（春の茶）"],
    "茶は木である。葉も！": ["茶は木である。葉も！"],
    "彼は「茶は木である。」という説": ["彼は「茶は木である。」という説"],
    "茶は木であると断った上で": [],
    "2000年にモーニング娘。のメンバーに加入": ["2000年にモーニング娘。のメンバーに加入"],
    "出演は[[ゲスの極み乙女。]]、茶野葉子": ["出演はゲスの極み乙女。、茶野葉子"],
    "主人公は「春。『夏』と秋」の作者": ["主人公は「春。『夏』と秋」の作者"],
}


@pytest.mark.parametrize("paragraph", TORN)
def test_of_a_paragraph_what_lost_its_end_goes(paragraph):
    assert clean(paragraph) == TORN[paragraph]


BEGINNINGS = (
    "となる。 といった点である。 がある。 にあり、谷もある。 において茶を摘む。 のように摘む。 とある例である。"
)
BEGINNINGS += " により、摘む。 と呼ばれる。 からなる。 として、摘む。 に対し、摘む。"


@pytest.mark.parametrize("fragment", BEGINNINGS.split())
def test_of_a_paragraph_what_lost_its_beginning_goes(fragment):
    assert clean(f"茶。\n\n{fragment}葉は緑。") == ["茶。", "葉は緑。"]


@pytest.mark.parametrize(
    "heading",
    ["歴史", "歴史 =={{Main|茶の歴史}}", "歴史==<ref>本</ref>", "歴史 == {{a|b}} {{c}}", "資料文献学", "文献"],
)
def test_a_heading_ends_its_line_whatever_stands_behind_it(heading):
    closing = "" if "==" in heading else " =="
    kept = [] if heading == "文献" else ["葉は緑。"]
    assert clean(f"茶は木。\n== {heading}{closing}\n葉は緑。") == ["茶は木。", *kept]


@pytest.mark.parametrize(
    "title", ["日本語文献", "欧文文献", "本文注", "References", "See also", "Further reading", "External links"]
)
def test_sections_of_literature_go_in_other_words_too(title):
    assert clean(f"茶は木。\n== {title} ==\n茶の本がある。") == ["茶は木。"]


@pytest.mark.parametrize("sentence", ["となりの坂田は茶を飲む。", "となりの家に住む。", "とあるのどかな村に住む。"])
def test_what_only_begins_like_a_fragment_stays(sentence):
    assert clean(f"茶。\n\n{sentence}葉は緑。") == ["茶。", f"{sentence}葉は緑。"]


def test_a_line_break_ends_a_paragraph_unless_a_sentence_goes_on():
    assert clean("茶を摘む。<br />葉を蒸す。<br>湯を注ぎ、<br>\n飲む。") == [
        "茶を摘む。",
        "葉を蒸す。",
        "湯を注ぎ、飲む。",
    ]


def test_a_picture_parts_paragraphs_unless_a_sentence_goes_on():
    picture = "\n[[ファイル:a.jpg|thumb|茶の図。]]\n"
    assert clean(f"茶は木である。{picture}葉を{picture}蒸す。") == ["茶は木である。", "葉を蒸す。"]


@pytest.mark.parametrize("between", ["{|\n| 表\n|}", ": <math>x = 1</math>", "<math>x = 1</math>", "* 緑茶\n* 紅茶"])
def test_what_is_left_of_a_sentence_around_a_formula_table_or_list_goes(between):
    page = f"茶は木。葉は、\n{between}\nで表される。花は白。\n\nたとえば、\n{between}\n\nなどがある。\n\n根は深い。"
    assert clean(page) == ["茶は木。", "花は白。", "根は深い。"]


@pytest.mark.parametrize(
    "line", ["緑茶", "茶の主な産地", "茶野 一郎（ちゃの いちろう）", "主な産地は以下の通り：", "が、茶"]
)
def test_a_line_that_is_no_sentence_goes(line):
    assert clean(f"茶は木。\n\n{line}\n\n木。") == ["茶は木。", "木。"]


@pytest.mark.parametrize(
    "line",
    [
        "茶は南の国々で栽培される",
        "産地は次の三つの国に分かれる：",
        "茶は一年中緑の葉をつける（根も枯れない）",
        "Tea is a plant.",
    ],
)
def test_a_line_without_a_stop_stays_when_it_ends_like_a_sentence(line):
    assert clean(f"茶は木。\n\n{line}\n\n木。") == ["茶は木。", line, "木。"]


def test_quotations_in_blocks_are_paragraphs():
    page = "彼は書いた。{{Quote|茶は薬である。|茶の本}}\n{{Indent|一覧}}続く。"
    assert clean(page + "彼も、<blockquote>葉は苦い。</blockquote>と書く。") == [
        "彼は書いた。",
        "茶は薬である。",
        "続く。",
        "葉は苦い。",
    ]


def test_blocks_part_paragraphs():
    assert clean("前。<div>中。</div>後。<ul><li>品</li><li>売り物である。</li></ul>") == [
        "前。",
        "中。",
        "後。",
        "売り物である。",
    ]


def test_rules_and_rows_without_a_table_go():
    assert clean("茶。\n----\n| 行 || 列\n! 見出し\n|}\n}}\n木。") == ["茶。", "木。"]


def test_paragraphs_without_a_word_go():
    assert clean("。\n\n（{{x}}）\n\n→。\n\n茶。") == ["茶。"]


# ---------------------------------------------------------------- sections


@pytest.mark.parametrize(
    "title", ["脚注", "注釈・出典", "[[参考文献]]", "'''外部リンク'''", "関連項目 <!-- x -->", "典拠管理{{anchor|a}}"]
)
def test_sections_of_notes_and_links_go(title):
    assert clean(f"茶。\n== {title} ==\n本の題である。\n=== 邦語 ===\n文である。\n== 木 ==\n木。") == ["茶。", "木。"]


def test_a_dropped_subsection_ends_at_the_next_heading_of_its_level():
    page = "== 茶 ==\n一。\n=== 出典 ===\n二。\n==== 細目 ====\n三。\n=== 味 ===\n四。"
    assert clean(page) == ["一。", "四。"]


def test_headings_go_and_equations_stay():
    assert clean("=茶=\n== 歴史と文化 ==\nx = y = である。\n= 茶は木である") == ["x = y = である。= 茶は木である"]


# ---------------------------------------------------------------- damage is bounded

UNCLOSED = {
    "a template costs its line": ("{{lang|en|tea である。\n\n木。", ["木。"]),
    "a template with one brace costs itself": ("茶（{{lang|en|tea}、ちゃ）は木。", ["茶（ちゃ）は木。"]),
    "an infobox costs its lines": ("{{基礎情報 茶\n|名 = 茶\n|色 = {{色|緑}}\n'''茶'''は木。", ["茶は木。"]),
    "a table costs its rows": ("茶。\n{| class=x\n| 列\n木。", ["茶。", "木。"]),
    "a ref costs its line": ("茶。<ref>本の題\n\n木<ref>本</ref>。", ["茶。", "木。"]),
    "a ref ends at the next one": ("茶<ref>本の題は木<ref>本</ref>である。", ["茶である。"]),
    "a ref ends at a heading": ("茶。<ref>本\n\n木。\n== 葉 ==\n葉</ref>。", ["茶。", "木。", "葉。"]),
    "a comment costs its line": ("茶<!-- 本\n木。", ["茶木。"]),
    "a link costs its brackets": ("[[茶は木。\n\n葉]]である。", ["茶は木。", "葉である。"]),
    "a tag costs itself": ("<div>茶は<b>木。", ["茶は木。"]),
    "a formula costs its line": ("茶。<math>n\n木。", ["茶。木。"]),
    "a parameter costs its line": ("茶。{{{1|x\n木。", ["茶。木。"]),
    "a gallery costs its line": ("茶。<gallery>\n木。", ["茶。木。"]),
    "nothing passes a heading": ("茶。{{x\n== 木 ==\n木}}。[[葉。\n== 根 ==\n根]]。", ["茶。", "木。葉。", "根。"]),
    "closers alone go": ("茶}}は]]木|}。\n|}\n</ref>葉。</div>", ["茶は木|}。", "葉。"]),
}


@pytest.mark.parametrize("wikitext, prose", UNCLOSED.values(), ids=UNCLOSED)
def test_unclosed(wikitext, prose):
    assert clean(wikitext) == prose


def test_deep_nesting_costs_what_is_deep_only():
    page = "茶。" + "{{lang|en|" * 100 + "a" + "}}" * 100 + "木。"
    assert clean(page) == ["茶。木。"]


# ---------------------------------------------------------------- linear time: nothing here may hang

OPENERS = [
    "<ref>", "<ref name=a", "<!--", "<!-- <ref>", "<math>", "<nowiki>", "<gallery>", "<div>", "<div ",
    "<table>", "<ruby><rt>",
    "{|", "\n{|", "{{", "{{\n", "{{{", "{{lang|en|", "{{ルビ|", "[[", "[[a|{{b|", "[[ファイル:a|",
    "[[a\n\n", "[http", "[http://a ",
    "http://", "'''", "''", "-{", "&", "&#", "&a", "__", "（", "「", "、{{x}}", "（英: {{x}}", "英: ", "=",
    "\n=", "\n==a==", "\n*",
    "\n;a:", "|", "\n|", "\n", "\n\n", " ", "\n ", "<br>", "]]", "}}", "\n|}", "-->", "</ref>", "\ue000",
    "{{a [[b|c]] {{d}}\n",
    "<math>n</math>", "茶<math>\\sqrt n</math>。", "\n:<math>\\sqrt n</math>\n", "（<math>\\sqrt n</math>）",
    "<math>^{",
    "{{{1|", "{{{1|x}}}", "{{#expr:1}}", "、\n", "、\n\n", "茶は<br>", "\n* 茶、<br>", "う（", "。→", "\n* 。」",
    "は緑。",
    "={{a}}", "[[File:a|9px|", "は{{q}}の", "1<sup>", "<sup>注", "<sup>1</sup>", "[[:en:a|", "[[:en:a|en]]", "{{IPA|",
    "{{JPN}}は", "。葉", "う」", "\n<ref/>。", "\n* うを", "[[a_b]]",
    "[] ", "][", "る:", "　", "\n;", "\n:",
]  # fmt: skip
NESTINGS = {"{{": "}}", "{{lang|en|": "}}", "[[a|": "]]", "\n{|": "\n|}", "{{lang|en|[[a|": "]]}}", "<div>": "</div>"}
NESTINGS |= {"<ref>": "</ref>", "-{": "}-", "（": "）", "<table>": "</table>", "（{{x}}": "）"}
PATHOLOGICAL = {opener: opener * 20_000 for opener in OPENERS}
PATHOLOGICAL |= {a + "..." + b: a * 10_000 + "茶は木。" + b * 10_000 for a, b in NESTINGS.items()}
PATHOLOGICAL |= {opener + "aaa...": opener + "a" * 50_000 for opener in OPENERS}
PATHOLOGICAL |= {
    opener + "a|a|...": opener + "a|" * 25_000 for opener in ("{{{", "[http://", "{{a", "[[File:a", "<div ")
}
PATHOLOGICAL["mixture"] = "".join(OPENERS) * 400
PATHOLOGICAL["one long line of openers"] = "<!--" * 400_000
PATHOLOGICAL["long attribute"] = "<div " + 'a="b" ' * 20_000
PATHOLOGICAL["powers in a formula"] = "<math>^{" + "+" * 100_000 + "</math>"
PATHOLOGICAL["brackets before a doubled one"] = "[]" * 50_000 + " ]]"
PATHOLOGICAL["signs of an item before a break"] = ":" * 100_000 + "\n茶<br>木。"
PATHOLOGICAL["blank lines in a sentence"] = "茶、" + "\n" * 100_000 + "* 木"
PATHOLOGICAL["spaces before a mark"] = "茶、" + " " * 100_000 + "{{x}}木"


@pytest.mark.parametrize("page", PATHOLOGICAL.values(), ids=map(repr, PATHOLOGICAL))
def test_pathological_pages_do_not_hang(page):
    with workers.cpu_limit(30):
        assert all(isinstance(paragraph, str) for paragraph in clean(page))


# ---------------------------------------------------------------- whatever comes in

FRAGMENTS = [
    "{{", "}}", "{", "}", "[[", "]]", "[", "]", "|", "{|", "|}", "\n", "\n\n", "=", "\n== 茶 ==\n", "'''",
    "''", "<ref>", "</ref>", "<ref/>",
    "<ref", "<!--", "-->", "<nowiki/>", "<br>", "<div>", "</div>", "<ruby>", "<rt>", "</ruby>", "<", ">",
    "&", "amp;", "-{", "}-", "__TOC__",
    "lang|en|", "ファイル:", "http://a.jp", "（", "）", "「", "」", "、", "。", ":", ";", "*", "#", "茶",
    "a", " ", "\ue000", "\ue001", "\ue012",
    "&#xE000;", "&nbsp;", "<table>", "</table>", "<math>", "</math>", "ルビ|茶|ちゃ", "仮リンク|茶",
    "label=", "formatnum:", "{{{1|", "}}}", "<math>\\sqrt", "</math>", "{{#expr:1}}", "は", "る", "→", "<br>\n",
    "英: ", "1",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=60).map("".join))
def test_no_fragments_of_markup_survive(page):
    for paragraph in clean(page):
        assert not re.search(r"\{\{|\}\}|\[\[|\]\]|<ref\b|[\ue000-\uf8ff\n]", paragraph)
        assert paragraph == paragraph.strip() != ""


@given(st.text(alphabet="茶木葉は、。（）「」英aB1 ", min_size=1).filter(lambda text: re.search(r"\w", text)))
def test_plain_text_stays_as_it_is(text):
    line = "茶" + re.sub(" +", " ", text).strip() + "木。"
    assert clean(line) == [line]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
def test_sections_are_independent(page):
    assert clean(page + "\n== 次 ==\n茶は木である。")[-1:] == ["茶は木である。"] or re.search(
        "<!--|<(nowiki|math|ref)", page
    )
