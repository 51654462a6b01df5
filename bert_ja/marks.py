"""Private characters that stand in a text while wikitext is cleaned: notes to ourselves, gone at its end."""

import re

MARK = "\ue000"  # a template, ref or the like was dropped here
BREAK = "\ue001"  # <br>: ends a line, but not the list item around it
HOLE = "\ue002"  # what the sentence cannot do without was dropped here: a formula, a number
GAP = "\ue003"  # a template that we do not know, or a sign drawn as a picture: the sentence may need what it shows
DIVIDER = "\n|\n"  # a quotation, a table or a formula begins or ends here: no sentence goes on across it
# Those, and characters that other programs take for a line end or that no text has.
UNWANTED = re.compile("[\ue000-\uf8ff\x0b-\x1f\x85\u2028\u2029]")

# &#42; and <nowiki>[[X]]</nowiki> show what would be markup: it hides in private characters until the very end.
HIDDEN = "&[]{}|'<>*#:;=-_!"
HIDE = {ord(c): chr(0xE010 + i) for i, c in enumerate(HIDDEN)}
SHOW = {0xE010 + i: c for i, c in enumerate(HIDDEN)}
