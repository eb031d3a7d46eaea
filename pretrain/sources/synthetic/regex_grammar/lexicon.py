"""Templates and words of the regex grammar.

In a template ``<verb>`` is inflected: plural (lines that contain), singular (a line that contains) or base (do not
contain).
"""

from typing import Final, Literal, TypeAlias

Form: TypeAlias = Literal["plural", "singular", "base"]

FRAMES: Final[tuple[tuple[Form, str], ...]] = (
    ("plural", "lines that {}"),
    ("plural", "lines which {}"),
    ("plural", "all lines that {}"),
    ("plural", "find lines that {}"),
    ("plural", "keep only the lines that {}"),
    ("plural", "list the lines that {}"),
    ("plural", "show all lines which {}"),
    ("plural", "I am looking for lines that {}"),
    ("plural", "which lines {}?"),
    ("singular", "a line that {}"),
    ("singular", "any line that {}"),
    ("singular", "every line that {}"),
    ("singular", "pick out each line that {}"),
    ("singular", "accept a line if it {}"),
    ("singular", "the line {}"),
)
FRAMES_DENIED: Final[tuple[tuple[Form, str], ...]] = (
    ("plural", "all lines except those that {}"),
    ("plural", "leave out lines that {}"),
    ("singular", "any line but one that {}"),
    ("singular", "drop every line that {}"),
    ("singular", "reject a line if it {}"),
)
IRREGULAR: Final = {
    "be": ("are", "is", "be"),
    "have": ("have", "has", "have"),
    "do": ("do", "does", "do"),
    "go": ("go", "goes", "go"),
    "they": ("they", "it", "they"),
}
NOUNS: Final = {
    "digit": ("a digit/digits", "a numeral/numerals"),
    "odd digit": ("an odd digit/odd digits",),
    "even digit": ("an even digit/even digits",),
    "capital": (
        "a capital letter/capital letters",
        "an uppercase letter/uppercase letters",
        "a capital/capitals",
    ),
    "small": ("a lowercase letter/lowercase letters", "a small letter/small letters"),
    "letter": ("a letter/letters", "a letter of the alphabet/letters of the alphabet"),
    "alphanumeric": ("an alphanumeric character/alphanumeric characters",),
    "vowel": ("a vowel/vowels",),
    "character": ("a character/characters",),
}
RANGES: Final = ("from {} to {}", "in the range {} to {}", "from {} through {}")
TEXTS: Final = ("{q}", "{q}", "the text {q}", "the string {q}", "the letters {q}", "the sequence {q}")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS: Final = ("first", "second", "third", "fourth", "fifth")

EITHER: Final = ("either {x} or {y}", "either {y} or {x}", "{x} (or {y})", "{y} (or {x})")
CHAIN: Final = (
    "{x} directly followed by {y}",
    "{x} with {y} right after it",
    "{x} and immediately after it {y}",
    "{y} directly preceded by {x}",
)
GAP: Final = (
    "{x}, then exactly {n}, then {y}",
    "{x} and, {n} further on, {y}",
    "{y} preceded by {x} with exactly {n} in between",
)

HAS: Final = ("<contain> {x}", "<have> {x} somewhere", "<include> {x}", "<hold> {x}", "<have> {x} in any place")
HAS_NOT: Final = ("<lack> {x}", "<go> without {x}", "nowhere <contain> {x}", "never <show> {x}")
TWO: Final = (
    "<have> {x} before {y}",
    "<have> {y} somewhere after {x}",
    "<contain> {x} and later on {y}",
    "<contain> {x} followed at some point by {y}",
    "<show> {x} first and {y} further along",
)
THREE: Final = (
    "<have> {x}, {y} and {z} in this order",
    "<contain> {x}, later {y}, and after that {z}",
    "<have> {x}, then {y}, then {z}, with anything in between",
    "<show> {x} first, {y} further along and {z} after both",
)
COUNT: Final = ("<contain> {n}", "<have> {n}", "<include> {n}")
REPEATED: Final = ("<contain> {x} {t}", "<have> {x} {t}", "<show> {x} {t}")
AMOUNTS: Final = {
    "least": ("at least {}", "{} or more", "no fewer than {}", "a minimum of {}"),
    "most": ("at most {}", "no more than {}", "a maximum of {}"),
    "exact": ("exactly {}", "precisely {}"),
    "between": ("between {} and {}", "from {} to {}"),
}
BEGINS: Final = (
    "<start> with {x}",
    "<begin> with {x}",
    "<open> with {x}",
    "<have> {x} at the very start",
    "<lead> off with {x}",
)
ENDS: Final = (
    "<end> with {x}",
    "<end> in {x}",
    "<finish> with {x}",
    "<close> with {x}",
    "<have> {x} at the very end",
)
PLACE: Final = ("<have> {x} as the {o} character", "<have> {x} in {o} place", "<show> {x} at the {o} position")
ALL: Final = (
    "<consist> of {n} and nothing else",
    "<be> made up of {n} only",
    "<contain> {n} and no other character",
)
LONG: Final = ("<be> {n} long", "<have> a length of {n}", "<run> to {n}")
ALL_REPEATED: Final = (
    "<consist> of {x} repeated {t} and nothing else",
    "<be> just {x} written {t} in a row",
    "<repeat> {x} {t} without anything else",
)
IS: Final = ("<read> exactly {x}", "<consist> of {x} and nothing else", "<be> just {x}", "<hold> only {x}")
WORD_BEGINS: Final = (
    "<have> a word that starts with {x}",
    "<contain> a word beginning with {x}",
    "<have> {x} at the start of a word",
)
WORD_ENDS: Final = (
    "<have> a word that ends with {x}",
    "<contain> a word ending in {x}",
    "<have> {x} at the end of a word",
)
WORD_IS: Final = (
    "<contain> {x} as a word of its own",
    "<have> {x} standing alone as a whole word",
    "<include> {x} as a separate word",
)
WORD_ALL: Final = (
    "<have> a word made of {n}",
    "<contain> a word that consists of {n}",
    "<include> a whole word of {n}",
)
AND: Final = (
    "{a} and {b}",
    "{a} and also {b}",
    "both {a} and {b}",
    "not only {a} but also {b}",
    "{a} and at the same time {b}",
)
BUT: Final = ("{a} but {b}", "{a} and yet {b}", "{a} and {b}", "{a}, though <they> {b}")
OR: Final = ("{a} or {b}", "either {a} or {b}", "{a} or else {b}", "{a} or {b} or both")
DENIED_BOTH: Final = {True: ("{a} and {b}", "{a} and also {b}"), False: ("{a} or {b}", "{a} or else {b}")}
AND_THREE: Final = ("{a}, {b}, and {c}", "{a} and {b} and also {c}", "{a}, besides {b}, and {c}")
OR_THREE: Final = ("{a}, {b}, or {c}", "either {a} or {b} or {c}", "{a}, or {b}, or else {c}")
AND_OR: Final = ("{a} and either {b} or {c}", "{a} and besides either {b} or {c}", "both {a} and either {b} or {c}")
OR_AND: Final = ("{a}, or both {b} and {c}", "either {a} or both {b} and {c}", "{a}, or else both {b} and {c}")
WHENEVER: Final = ("{b} whenever <they> {a}", "{b} if <they> {a}", "never {a} unless <they> {b}")
NEITHER: Final = ("neither {a} nor {b}", "neither {b} nor {a}")
NOT_BOTH: Final = ("<do> not both {a} and {b}", "<do> not {a} and {b} at the same time", "never both {b} and {a}")
