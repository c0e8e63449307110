"""One grader for every task whose answer is a number (or a short text): right, wrong or unreadable.

Knows nothing of tasks, models or prompts. The rules, all of them:

Finding the answer. A marked answer is looked for first, in this order of kinds: "#### 42" (GSM8K's own
mark, arXiv:2110.14168), `\\boxed{42}`, "the answer is 42" / "Answer: 42", and a completion that is
nothing but a number. Within a kind the last one counts: models restate and correct, and a leading "####" is
often recited from the prompt (EleutherAI/lm-evaluation-harness#3438). A mark with no number directly behind it
("#### Step 1", "the answer is not 4") is no mark; a mark whose number is ambiguous ("12 or 13", "3:30",
"1.200,50", a box cut off before its brace) makes the completion unreadable, and nothing weaker is consulted.
The last number anywhere is read only where the task declares `fallback`, and then `Grade.how` says so.

Reading a number. Exact rationals: "75.00" = "75" = "$75" = "75 apples", "1/2" = "0.5", "3 1/2" = "3.5",
"1.5e3" = "1,500" = "1 500"; 0.33 is not 1/3. A comma or space groups digits only as three-digit groups
("1,200"), a point is always the decimal one ("1.200" is 1.2). So "12,50" and "1.200,50" have no reading, because
guessing the writer's country would be silent. A unit is dropped, never converted: "50%" is 50 and never 0.5,
"5 million" is 5 (as GSM8K's own gold has it), "$" and "cents" weigh the same. Number words have no reading.
An equation at the end of its line gives its right-hand side ("9 * 2 = 18"); a sum without one is not worked out.

The second grader is math-verify, asked only in a grading pass that wants it (`grade_many(..., second=True)`): it
looks for the answer and compares it by rules of its own. It takes "50%" for 0.5 and 50 alike, misreads "3 1/2" and
"1.5e3" and does not know the Unicode minus, so a disagreement is a completion to look at, not a mistake by itself.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from triaxis.tasks.base import Grade, Item

if TYPE_CHECKING:
    from triaxis.tasks.base import Task

WINDOW: Final = 600  # characters read behind a mark; every later step costs at most this
LARGEST: Final = 10**120  # numerator and denominator; keeps "1e999999999" from being built
MARKS_TRIED: Final = 32  # of one kind, from the last backwards, so that a megabyte of "####" stays cheap
_SILENT: Final = logging.NullHandler()
Reading = Fraction | Literal["ambiguous"] | None  # None: no number there


# --- writing variants -> plain ASCII -------------------------------------------------------------------------

_PLAIN: Final = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d\u2010\u2011\u2013", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000\t\r", " "),
        **dict.fromkeys("\u200b\u2060\ufeff", None),
        **dict.fromkeys("\u2044\u2215\uff0f", "/"),
        **dict.fromkeys("€£¥₹＄", "$"),
        **{"，": ",", "．": ".", "％": "%", "：": ":", "＝": "=", "⋅": "×", "·": "×", "∼": "~"},
    }
)
_FRACTION_SIGN: Final = re.compile("[¼-¾⅐-⅞]")
_MARKUP: Final = re.compile(r"[\\{}$*`~]|USD|EUR|GBP|Rs")  # without one of these no rewrite applies
_OTHER_DIGIT: Final = re.compile(r"[^\W\x00-\x7f]")
_REWRITES: Final = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\{,\}", ","),
        (r"\\!", ""),
        (r"\\[,;: ]|~", " "),
        (r"\\[()\[\]]|\\(?:left|right|displaystyle|quad)(?![A-Za-z])", " "),
        (r"(?<=\d)\s{0,4}\\[dt]?frac(?![A-Za-z])", r" \\frac"),
        (r"\\[dt]?frac\s{0,4}\{\s{0,4}(-?\d+)\s{0,4}\}\s{0,4}\{\s{0,4}(\d+)\s{0,4}\}", r"\1/\2"),
        (r"\\[dt]?frac\s{0,4}(\d)(\d)", r"\1/\2"),
        (r"\\(?:text|textbf|mathrm|mathbf|mathit|boldsymbol|mbox)(?![A-Za-z])\s{0,4}", ""),
        (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
        (r"\\approx(?![A-Za-z])", "≈"),
        (r"\^\s?\{?\s?\\circ\s?\}?", " degrees"),
        (r"\\([$%])", r"\1"),
        (r"\b(?:US\$|USD|EUR|GBP|Rs\.?)\s?(?=\d)", "$"),
        (r"([-+])\s?\$\s?(?=[\d.])", r"\1"),
        (r"(?<=\d)\s?\*\*\s?(?=\d)", "^"),
        (r"\*\*|`|\{", ""),
        (r"[$}]", " "),
    )
)


def _ascii_digit(match: re.Match[str]) -> str:
    value = unicodedata.decimal(match[0], None)
    return match[0] if value is None else str(value)


def _fraction_sign(match: re.Match[str]) -> str:
    return " " + unicodedata.normalize("NFKC", match[0])  # "3½" -> "3 1⁄2": without the space it would read 31/2


def _tidy(span: str) -> str:
    """Unicode and LaTeX spellings of a number as ASCII. Not NFKC as a whole: that makes "10²" into "102"."""
    if not span.isascii():
        span = _FRACTION_SIGN.sub(_fraction_sign, span).translate(_PLAIN)
        span = _OTHER_DIGIT.sub(_ascii_digit, span)
    if _MARKUP.search(span):
        for pattern, new in _REWRITES:
            span = pattern.sub(new, span)
    return span


# --- reading one number --------------------------------------------------------------------------------------

_NUMBER: Final = re.compile(
    r"""(?P<sign>[-+](?=[\d.]))?
    (?: (?P<whole>\d+) (?:\s{1,4}and)? \s{1,4} (?P<part>\d+/\d+) (?![\d/])
      | (?P<ratio>\d+\s?/\s?\d+) (?![\d/])
      | (?P<plain> (?: [1-9]\d{0,2}(?:,\d{3})+(?!\d) | [1-9]\d{0,2}(?:\ \d{3})+(?![\d/]) | \d+ ) (?:\.\d+)? | \.\d+ )
        (?: [eE](?P<e>[-+]?\d+) | \s?[×x*]\s?10\s?\^\s?\(?(?P<ten>[-+]?\d+)\)? )?
    )""",
    re.VERBOSE | re.ASCII,
)
_LEAD_IN: Final = re.compile(
    r"""(?: [\s*_"'“”‘’(\[:=≈]++
      | (?:approximately|about|around|roughly|exactly|equals?|equal\ to|that|just|simply|a\ total\ of|therefore)\b
    )*+""",
    re.VERBOSE | re.IGNORECASE,
)
# What directly follows a number and makes it another one, a list, a range, a clock time or a sum.
_GOES_ON: Final = re.compile(
    r"""[.,:'’_/]\d | [²³¹⁰-⁹] | \s*\^ | \s*,?\s+[-+]?\d | \s*(?:\\[A-Za-z]|[π√]) | \s?[xyzn](?![^\W\d_])
    | \s*+ (?: (?:[^\W\d_]++|[%°]) \s*+ ){0,3}
      (?: [-+*/×÷=<>≈] | \b(?:or|and|to|of|x|plus|minus|times)\b ) [\s($]*+ [-+]?\.?\d""",
    re.VERBOSE,
)
_SENTENCE_END: Final = re.compile(r"[.;!?](?=\s+\S)|,\s")


def _value(found: re.Match[str]) -> Reading:
    """The rational of a `_NUMBER` match; ambiguous if it is too large, over zero or an improper mixed number."""
    if len(found[0]) > WINDOW // 2:
        return "ambiguous"
    minus = -1 if found["sign"] == "-" else 1
    if found["plain"] is not None:
        power = int(found["e"] or found["ten"] or 0)
        if abs(power) > 120:
            return "ambiguous"
        value = Fraction(found["plain"].replace(",", "").replace(" ", "")) * Fraction(10) ** power
    else:
        above, below = (int(x) for x in (found["part"] or found["ratio"]).split("/"))
        if below == 0 or (found["whole"] is not None and above >= below):
            return "ambiguous"
        value = Fraction(above, below) + int(found["whole"] or 0)
    return minus * value if max(value.numerator, value.denominator) < LARGEST else "ambiguous"


def _right_hand_side(line: str) -> Reading:
    """The number after the last "=" of a line that ends with it: "9 * 2 = 18 eggs." is 18."""
    cut = max(line.rfind("="), line.rfind("≈"))
    left, right = line[:cut], line[cut + 1 :].strip(' *_"')
    found = _NUMBER.match(right)
    if cut < 0 or found is None or _SENTENCE_END.search(left):
        return None
    rest = right[found.end() :]
    if any(c.isdigit() for c in rest) or _SENTENCE_END.search(rest) or _GOES_ON.match(rest):
        return None
    return _value(found)


def _read(span: str) -> Reading:
    """The number that `span` begins with, units after it dropped; "ambiguous" if it goes on in another number."""
    cut_off = len(span) >= WINDOW
    span = _tidy(span[:WINDOW])
    lead = _LEAD_IN.match(span)
    line = span[lead.end() if lead else 0 :].partition("\n")[0]
    found = _NUMBER.match(line)
    if found is None:
        return _right_hand_side(line)
    if cut_off and found.end() == len(line):
        return "ambiguous"
    if _GOES_ON.match(line, found.end()):
        right = _right_hand_side(line)
        return "ambiguous" if right is None and "=" not in line else right  # else working out, no answer yet
    return _value(found)


def number(answer: str) -> Fraction | None:
    """The exact value of a short answer such as "$1,200.50" or "3 1/2 cups"; None if it is not one number."""
    value = _read(answer)
    return value if isinstance(value, Fraction) else None


def _written(value: Fraction) -> str:
    """The shortest usual spelling: an integer, a decimal of up to 20 places, else "p/q"."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 21):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return f"{value.numerator}/{value.denominator}"


def canonical(answer: str) -> str:
    """One spelling for equal answers, so that "75.00", "$75" and "75 apples" are one vote.

    A text that is no number is lower-cased with its spaces, markup and closing punctuation removed.
    """
    value = number(answer)
    if value is not None:
        return _written(value)
    return " ".join(_tidy(answer[:WINDOW]).casefold().split()).strip(" .,;:!?*_\"'")


# --- finding the answer in a completion ----------------------------------------------------------------------


class Mark(NamedTuple):
    """Text that follows a mark (at most WINDOW characters). `closed` is False for a box without its brace."""

    kind: Literal["####", "boxed", "answer"]
    span: str
    closed: bool = True


_HASHES: Final = re.compile(r"#{4,}")
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")
_ANSWER: Final = re.compile(r"answers?\b", re.IGNORECASE)
# Not behind any word: "3 points/answer = 48" and "the third answer is 1400" are working, no marks.
_STATED: Final = re.compile(
    r"""(?: ^[ \t>*_#`-]{0,8} | \b(?:the|final|correct|my|our|numeric|numerical)[ \t*_]{1,4} | [.!?:)][ \t*_]{1,4}
      | (?<![^\W_])(?-i:(?=A)) ) answer""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_ANSWER_IS: Final = re.compile(
    r"""[\s*_"'`)\]}]{0,8} (?: \b(?:to|for|of|in)\b [^.:=\n]{0,80}? | \([^)\n]{0,40}\) )?
    [\s*]{0,4} (?: (?:is|are|equals)\b | would\ be\b | [:：=] )""",
    re.VERBOSE | re.IGNORECASE,
)
# "#### 1. Compute the price" is a heading, not an answer; "#### 18. " at the end of a line is one.
_HEADING: Final = re.compile(r"[\s*]{0,4}\d{1,3}\s?[.):][ *]{1,4}[^\W\d_]")


def _last(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The last few matches, the last first."""
    return reversed(deque(pattern.finditer(text), maxlen=MARKS_TRIED))


def _box(text: str, start: int) -> Mark:
    depth = 1
    for at in range(start, min(len(text), start + WINDOW)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return Mark("boxed", text[start:at].replace("\n", " "))
    return Mark("boxed", text[start : start + WINDOW], closed=False)


def marks(text: str) -> Iterator[Mark]:
    """Every candidate for a marked answer, the strongest kind first and the last of a kind first."""
    for found in _last(_HASHES, text):
        if not _HEADING.match(text, found.end()):
            yield Mark("####", text[found.end() : found.end() + WINDOW])
    for found in _last(_BOX, text):
        yield _box(text, found.end())
    for found in _last(_ANSWER, text):
        stated = _ANSWER_IS.match(text, found.end())
        if stated and _STATED.search(text, max(0, found.start() - 16), found.start() + len("answer")):
            yield Mark("answer", text[stated.end() : stated.end() + WINDOW])


def _only_number(text: str) -> Fraction | None:
    """A completion of at most five words that begins with a number and is no sum is its own mark."""
    text = text.strip()
    if len(text) > 80 or len(text.split()) > 5 or "=" in text:
        return None
    return number(text)


def _last_number(text: str) -> Fraction | None:
    """The declared fallback. Looks at the last ASCII digit and the 200 characters before it."""
    at = max(text.rfind(digit) for digit in "0123456789")
    window = _tidy(text[max(0, at - 200) : at + 20])
    found = None
    for found in _NUMBER.finditer(window):  # noqa: B007
        pass
    if at < 0 or found is None:
        return None
    value = _value(found)
    if not isinstance(value, Fraction):
        return None
    before = window[found.start() - 1 : found.start()]
    return -value if found["sign"] == "-" and (before.isalnum() or before == ")") else value  # "10-3" ends in 3


def find_number(text: str, *, fallback: bool = False) -> tuple[Fraction | None, str]:
    """(the answer, how it was found: "marked", "fallback" or "none"). Linear in the text; never raises."""
    for mark in marks(text):
        value = _read(mark.span)
        if isinstance(value, Fraction) and mark.closed:
            return value, "marked"
        if value is not None:
            return None, "none"
    value = _only_number(text)
    if value is not None:
        return value, "marked"
    value = _last_number(text) if fallback else None
    return (value, "fallback") if value is not None else (None, "none")


def find_text(text: str) -> str:
    """The marked answer as canonical text, for gold answers that are no number; "" if there is none."""
    for mark in marks(text):
        span = mark.span.lstrip(" \n\t*_:=")
        end = r"\n|[.!?](?=\s|$)" if mark.kind == "answer" else r"\n"
        answer = canonical(re.split(end, span, maxsplit=1)[0])
        if answer and mark.closed:
            return answer
    return canonical(text) if len(text) <= 80 and "\n" not in text.strip() else ""


def grade(text: str, gold: str, *, fallback: bool = False) -> Grade:
    """Compare the answer found in `text` with `gold`, as exact numbers if gold is one, else as canonical text.

    fallback: read the last number where no mark is found; `Grade.how` is then "fallback". Off by default.
    """
    want = number(gold)
    if want is None:
        answer = find_text(text)
        how = "marked" if answer else "none"
        right = answer == canonical(gold)
    else:
        value, how = find_number(text, fallback=fallback)
        answer = "" if value is None else _written(value)
        right = value == want
    return Grade("unreadable" if how == "none" else "right" if right else "wrong", answer, how)


# --- the second grader ---------------------------------------------------------------------------------------

SECOND_READS: Final = 2000  # last characters of a completion shown to math-verify
SECOND_SECONDS: Final = 2  # for one parse or one comparison, in the main thread
_TOWER: Final = re.compile(r"\^|\*\*|!|\d[eE]")


def second_opinion(text: str, gold: str) -> bool | None:
    """Does math-verify call `text` right? None if it cannot read `gold` or may not be asked safely.

    Measured on one core: 0.6 to 1 s once (it imports SymPy), then 1 to 3 ms a completion, 12 ms where it holds a LaTeX
    equation and some 2 s for a tower of powers; `grade` takes 0.04 ms. In the main thread each call is bounded by
    SIGALRM (it replaces a pending alarm). Elsewhere no bound is possible, so towers are not shown to it.
    """
    from math_verify import parse, verify  # heavy: imports SymPy
    from math_verify.errors import TimeoutException  # a BaseException

    logging.getLogger("math_verify").addHandler(_SILENT)  # it warns on stderr for each timeout
    seen = text[-SECOND_READS:]
    alone = threading.current_thread() is not threading.main_thread()
    if alone and _TOWER.search(gold + " " + seen):
        return None
    limit = None if alone else SECOND_SECONDS

    def asked(call: Callable[..., Any], *what: object, unread: object, **how: object) -> Any:
        """By itself math-verify takes every error for unreadable text, also a want of memory, which is none."""
        try:
            return call(*what, raise_on_error=True, **how)
        except (MemoryError, SystemError):
            raise
        except (Exception, TimeoutException):
            return unread

    want = asked(parse, f"${gold}$" if "\\" in gold and "$" not in gold else gold, unread=[], parsing_timeout=limit)
    if not want:
        return None
    answer = asked(parse, seen, unread=[], parsing_timeout=limit)
    return any(asked(verify, g, a, unread=False, timeout_seconds=limit) for g, a in product(want, answer))


def grade_many(task: Task, texts: Sequence[str], items: Sequence[Item], *, second: bool = False) -> list[Grade]:
    """The task's grade of each text for the item at its position; with `second`, math-verify's opinion in each."""
    grades = [task.grade(text, item) for text, item in zip(texts, items, strict=True)]
    if not second:
        return grades
    return [
        dataclasses.replace(grade, second=second_opinion(text, item.answer))
        for grade, text, item in zip(grades, texts, items, strict=True)
    ]


def disagree(grade: Grade) -> bool:
    """True if the second grader was asked and its opinion differs from the verdict (unreadable is not right)."""
    return grade.second is not None and grade.second != (grade.verdict == "right")
