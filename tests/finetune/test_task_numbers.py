"""Numbers in answers: read whole, or not at all."""

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest

from finetune.tasks import Example, make_task
from finetune.tasks.numbers import first_number, last_number

BOTH = {
    "18": 18,
    "18.": 18,
    "18.0": 18,
    "007": 7,
    "$18": 18,
    "$ 18": 18,
    "18$": 18,
    "18 €": 18,
    "₹18": 18,
    "$1,080.50": Fraction(2161, 2),
    "1,080,000": 1_080_000,
    "1\u202f080": 1080,
    "1'080": 1080,
    r"1{,}080": 1080,
    r"1\,080": 1080,
    "1,08": None,
    "1,2,3": None,
    "12,3456": None,
    "3.5.2": None,
    ".5": Fraction(1, 2),
    "**18**": 18,
    "“18”": 18,
    r"$18$": 18,
    r"\boxed{18}": 18,
    r"$\boxed{\$18}$": 18,
    r"\(18\)": 18,
    "18 apples": 18,
    "18 apples.": 18,
    "18%": 18,
    "18 percent": 18,
    "18\u4e2a": 18,
    "-5": -5,
    "\u22125": -5,
    "\u20135": -5,
    "\u20145": -5,
    "\uff0d5": -5,
    "-$5": -5,
    "$-5": -5,
    "$\u22125": -5,
    "+5": 5,
    "minus 5": -5,
    "negative 5": -5,
    "--5": None,
    "\u00b15": None,
    "3 1/2": Fraction(7, 2),
    "-3 1/2": Fraction(-7, 2),
    "3\u00bd": Fraction(7, 2),
    "3 \u00bd": Fraction(7, 2),
    "\u00bd": Fraction(1, 2),
    "-\u00bd": Fraction(-1, 2),
    "3 5/2": None,
    "3/4": Fraction(3, 4),
    "3 / 4": Fraction(3, 4),
    "3\u20444": Fraction(3, 4),
    "1/2/3": None,
    "1/0": None,
    r"\frac{3}{4}": Fraction(3, 4),
    r"-\dfrac{3}{4}": Fraction(-3, 4),
    r"3\frac{1}{2}": Fraction(7, 2),
    r"\frac{3x}{4}": None,
    r"\sqrt{3}": None,
    r"3\sqrt{2}": None,
    r"3\pi": None,
    "3\u03c0": None,
    "3 and a half": None,
    "3 hours and a half": None,
    "3 and four fifths": None,
    "3 and one eighth": None,
    "3 plus one half": None,
    "3 & a half": None,
    "3 tenths": None,
    "3 halves": None,
    "3 hundredths": None,
    "1 half": None,
    "1 fifth of it": None,
    "3 quarters": 3,
    "18 fifth graders": 18,
    "18 half-hour walks": 18,
    "18 months": 18,
    "3 point five": None,
    "3 hundred and five": None,
    "18 points": 18,
    "18 and two decks": 18,
    "3 k": None,
    "3 k.": None,
    "3 M": None,
    "3 bn": None,
    "3 \u4e07": None,
    "2 dozen": 2,
    "18 T-shirts": 18,
    "18 M&Ms": 18,
    "3 \u03c0": None,
    "3 squared": None,
    "3!": 3,
    "3 : 1": None,
    "3 . 5": None,
    "3\u00b75": None,
    "3\u066b5": Fraction(7, 2),
    "7.e4": None,
    "1 e3": None,
    "1 000": None,
    "1\u2019080": 1080,
    "3 ^ 2": None,
    "3 ** 2": None,
    "7e4": 70_000,
    "7E+4": 70_000,
    "7.5e-1": Fraction(3, 4),
    "7e": None,
    "7e4.5": None,
    "7e999": None,
    "10^4": None,
    "10**4": None,
    "10\u2074": None,
    "7 \u00d7 10\u2074": None,
    r"7 \times 10^4": None,
    r"7 \times 10^{4}": None,
    "3 million": 3_000_000,
    "3.5 million dollars": 3_500_000,
    "3 hundred thousand": 300_000,
    "3k": None,
    "3M": None,
    "3rd": None,
    "0x1F": None,
    "10:30": None,
    "\uff11\uff18": 18,
    "9" * 61: None,
    "eighteen": None,
    "": None,
}


@pytest.mark.parametrize(
    ("text", "value"), BOTH.items(), ids=[text.encode("ascii", "backslashreplace").decode()[:20] for text in BOTH]
)
def test_a_number_alone(text: str, value: Fraction | int | None) -> None:
    """After the mark, and as the last number of a sentence, it is the same."""
    for written in (
        f"#### {text}",
        f"####{text}",
        f"2 + 2 is something else\n#### {text}\n",
        f"So the answer is {text}",
    ):
        if written.startswith("So"):
            assert last_number(written) == value
        else:
            gold = 10**50 if value is None else value
            verdict = make_task("gsm8k").judge(Example("a:1", "", f"#### {gold}", {}), written)
            assert verdict.scores["strict"] == (value is not None), written
            assert verdict.scores["number"] == (value is not None), written


AFTER_THE_MARK = {
    "- 5": (True, -5),
    "– 5": (True, -5),
    "3-4": (True, None),
    "3 – 4": (True, None),
    "3 + 4 = 7": (True, None),
    "36/2 = 18": (True, 18),
    "18 200": (True, None),
    "5 feet 6 inches": (True, None),
    "3 hours and 20 minutes": (True, None),
    "18 (9 * 2)": (True, 18),
    "18, because 9 * 2 is 18": (True, 18),
    "18. Check: 9 * 2 = 18": (True, 18),
    "18 #### 7": (True, 18),
    "18<|end|>": (True, 18),
    "5 m^2": (True, 5),
    "about 18": (False, None),
    "x = 18": (False, None),
    "US$18": (False, None),
}


@pytest.mark.parametrize(("line", "expected"), AFTER_THE_MARK.items(), ids=list(AFTER_THE_MARK))
def test_a_line_after_the_mark(line: str, expected: tuple[bool, int | None]) -> None:
    assert first_number(line) == expected


AT_THE_END = {
    "10 - 5": 5,
    "10-5": 5,
    "10 minus 5": 5,
    "it is minus 5": -5,
    "x = - 5": -5,
    "the answer - 5": 5,
    "- 5": 5,  # an item of a list
    "x-5": 5,
    "F-16": 16,
    "pages 3–5": 5,
    "on 2024-05-06": None,
    "at 10:30": None,
    "US$18": 18,
    "room A3": None,
    "x/3": None,
    "so it is...5": 5,
    "9*2=<<9*2=18>>18": 18,
    "<b>18</b>": 18,
    "it is < 3": None,
    "it is ≥3": None,
    "it costs 18 for 2": 2,
    "答案是18。": 18,
    "it is \u2212(3)": None,
    "10 - (3)": 3,
    "24 apples, i.e. the 18 i.e": 18,
    "it weighs 3 1/2 kg": Fraction(7, 2),
    "2019, 300": 300,
}


@pytest.mark.parametrize(("text", "value"), AT_THE_END.items(), ids=list(AT_THE_END))
def test_the_last_number(text: str, value: Fraction | int | None) -> None:
    assert last_number(text) == value


def test_the_issue() -> None:
    task = make_task("gsm8k")
    for gold, output in (
        ("3", "3 1/2"),
        ("3", "–3"),
        ("7", "7e4"),
        ("3", "minus 3"),
        ("2", r"\frac{3}{2}"),
        ("4", "10^4"),
    ):
        assert task.judge(Example("a:1", "", f"#### {gold}", {}), f"#### {output}").scores == {"number": 0, "strict": 0}
    for gold, output in (("3.5", "3 1/2"), ("-3", "–3"), ("70000", "7e4"), ("-3", "minus 3"), ("1.5", r"\frac{3}{2}")):
        assert task.judge(Example("a:1", "", f"#### {gold}", {}), f"#### {output}").scores == {"number": 1, "strict": 1}


def test_golds_are_read_as_answers_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for written in ("#### 3-4", "#### 10:30", "#### 5 feet 6 inches"):
        path.write_text(json.dumps({"text": "q", "code": written}))
        with pytest.raises(Exception, match=r"a\.jsonl:1: the answer holds no number that can be read"):
            make_task("gsm8k").examples(path)


def test_any_decimal_is_read_as_python_reads_it() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        value = Fraction(rng.randrange(-(10**9), 10**9), 10 ** rng.randrange(5))
        for written in (f"{float(value):,.4f}", f"{float(value):.4f}", f"{float(value):.12e}"):
            assert first_number(written) == (True, Fraction(written.replace(",", "")))
            assert last_number(f"answer: {written}") == Fraction(written.replace(",", ""))
