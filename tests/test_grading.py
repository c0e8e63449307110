"""The grader all tasks share: numbers, where the answer is, the second grader."""

from __future__ import annotations

import re
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from triaxis.tasks import load_task
from triaxis.tasks.base import Item
from triaxis.tasks.grading import canonical, disagree, grade, grade_many, number, second_opinion

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- numbers -------------------------------------------------------------------------------------------------

SAME = {
    "75": ["75", "75.00", "75.", "$75", "75 apples", "75%", r"75\%", "**75**", r"\text{75 dollars}", "075", "+75"],
    "1200": [
        "1,200",
        "$1,200",
        "$1200",
        "1 200",
        "1\u202f200",
        "1{,}200",
        r"1\,200",
        r"1,\!200",
        "US$1,200.00",
        "1.2e3",
    ],
    "-3": ["-3", "−3", "–3", "-3.0", "$-3", "-$3", r"\(-3\)"],
    "0.5": ["1/2", ".5", "0.50", r"\frac{1}{2}", r"\dfrac12", r"$\frac{1}{2}$", "½", "2/4", "0.5 cups", "5e-1"],
    "3.5": ["3 1/2", "3½", r"3\frac{1}{2}", "7/2", "3.5 hours", "3 and 1/2"],
    "-3.5": ["-3 1/2", "−3½", r"-3\frac12"],
    "1500": ["1.5e3", "1.5E+3", r"1.5 \times 10^3", r"1.5 \times 10^{3}", "1.5×10^3", "1,500 m^2", r"1500\text{ cm}^2"],
    "34": ["٣٤", "３４", "34th", "34/1", "68/2", r"34^\circ", "34\u200b"],
    "18": ["9*2=18", "9 * 2 = $18.", "x = 18", "9 eggs * $2 = $18 every day", "(18)", "about 18", "≈ 18"],
    "0": ["0", "0.00", "9-9=0", "-0"],
    "1/3": ["1/3", "2/6", r"\frac{1}{3}"],
}


@pytest.mark.parametrize(("spelling", "short"), [(s, short) for short, all_ in SAME.items() for s in all_])
def test_spellings_of_one_number_are_one_vote(spelling: str, short: str) -> None:
    assert canonical(spelling) == short
    assert grade(f"so it is\n#### {spelling}", short).verdict == "right"


UNCLEAR = r"""1.200,50|12,50|0,500|1,2000|12 or 13|10 to 12|12-15|3:30|5'2|1_200|10²|2x|9x2|18 18 18|18, 20|3 5/4|1/0
9*2|18\pi|2\sqrt{3}|5 hours and 30 minutes|3 of 4|1.2.3|1e999999999|50% of 200|60 miles / 2 hours|twelve|-|$|- 5
1 200/3|x"""


@pytest.mark.parametrize("text", ["", "9" * 400, *re.split(r"[|\n]", UNCLEAR)])
def test_what_has_no_single_reading_is_unreadable_not_guessed(text: str) -> None:
    assert number(text) is None
    assert grade(f"#### {text}", "12").verdict == "unreadable"


def test_units_are_dropped_never_converted() -> None:
    assert number("50%") == 50 != number("0.5")
    assert number("5 million") == 5
    assert number("50 cents") == number("$50")
    assert number("0.33") != number("1/3")


@quick
@given(st.fractions(min_value=-(10**30), max_value=10**30, max_denominator=10**12))
def test_canonical_is_exact_and_stable(value: Fraction) -> None:
    text = canonical(f"{value.numerator}/{value.denominator}")
    assert Fraction(text) == number(text) == value
    assert canonical(text) == text


@quick
@given(st.integers(min_value=-(10**12), max_value=10**12), st.sampled_from(["", ".0", ".00", " eggs", "%", "."]))
def test_separators_and_units_do_not_change_an_integer(value: int, tail: str) -> None:
    for spelled in (f"{value:,}{tail}", f"{value:,}{tail}".replace(",", "\u202f"), f"{value}{tail}".replace("-", "−")):
        assert canonical(spelled) == str(value)
        assert grade(f"...\nThe answer is {spelled}", str(value)).verdict == "right"


# --- finding the answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "She has 16 - 3 = 13.\n#### 42",
        "#### 41\nNo: wrong.\n#### 42\nand 7 more words",
        r"\boxed{41} but then \boxed{42}, 5 of them",
        "The answer is 41. #### 42",
        r"The answer is 41, so $\boxed{\text{42 eggs}}$",
        "so the answer is 42. She has 3 left.",
        "**Final Answer:** $42",
        "Answer: 6 * 7 = 42",
        "Answer (in dollars):\n\n42.00",
        "The answer to the question is therefore **42**.",
        "= 42. Answer: 42",
        "####\n42",
        r"$$\boxed{x = 42}$$",
        r"\boxed{\frac{84}{2}}",
        "#### 1. Read\nWe read 3.\n#### 2. Add\nThe answer is 42",
        "42",
        " $42.00 ",
        "42 apples in all.",
    ],
)
def test_the_marked_answer_is_found(text: str) -> None:
    found = grade(text, "42")
    assert (found.verdict, found.answer, found.how) == ("right", "42", "marked")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "She has 16 eggs and sells 42",
        "The answer is not 42",
        "the third answer is 42 and",
        "5 questions * 3 points/answer = 42",
        "#### Step 42",
        "####",
        r"so \boxed{42",
        r"The answer is 42 and \boxed{4",
        "The answer is 42 or 43",
        "#### 42 42 42",
        "Answer: 40 + 1 = 41 eggs. 41 + 1 = 42 in all",
        "16 - 3 = 42",
    ],
)
def test_without_a_clear_mark_nothing_is_guessed(text: str) -> None:
    found = grade(text, "42")
    assert (found.verdict, found.answer, found.how) == ("unreadable", "", "none")


def test_the_last_number_is_read_only_where_declared_and_counted() -> None:
    text = "She sells 3 and has 1,042 left over."
    assert grade(text, "1042").verdict == "unreadable"
    found = grade(text, "1042", fallback=True)
    assert (found.verdict, found.answer, found.how) == ("right", "1042", "fallback")
    assert grade("10-3", "3", fallback=True).answer == "3"
    assert grade("it is -3 now and that is all there is", "-3", fallback=True).verdict == "right"
    assert grade("#### 12 or 13", "13", fallback=True).how == "none"
    assert grade("#### 12, then 13", "12", fallback=True).how == "marked"
    assert grade("no number", "13", fallback=True).how == "none"


def test_text_answers() -> None:
    for text in ["#### Paris", "The answer is **paris**. It is big.", r"\boxed{\text{Paris}}", "Paris."]:
        assert grade(text, "Paris").verdict == "right", text
    assert grade("#### London", "Paris") == grade("the answer is LONDON", "Paris")
    assert grade("#### 12", "Paris").verdict == "wrong"
    assert grade("a long ramble about cities\nwithout an end", "Paris").verdict == "unreadable"


@quick
@given(st.text(), st.text(max_size=20), st.booleans())
@example("#### ٣\ud800", "42", True)
@example("\\boxed{" * 50, "\\frac{1}{0}", True)
def test_no_text_raises(text: str, gold: str, fallback: bool) -> None:
    found = grade(text, gold, fallback=fallback)
    assert (found.how == "none") == (found.verdict == "unreadable") == (found.answer == "")


PIECES = [
    *"0123456789 \n.,:+-−*/^=%$(){}[]\\½²x",
    "#### ",
    "\\boxed{",
    "\\frac",
    "answer is ",
    "Answer: ",
    " and ",
    "e9",
    "10^",
]


@settings(quick, max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_near_number_raises_and_answers_are_canonical(text: str) -> None:
    answer = grade(text, "42", fallback=True).answer
    assert canonical(answer) == answer


@pytest.mark.parametrize(
    "piece", ["1", "#", "#### ", "#### 1 ", "\\boxed{1", "answer is ", " ", "1,", ",000", "=9", "½", "a 3 1/2 ", "{"]
)
def test_a_megabyte_is_graded_in_linear_time(piece: str) -> None:
    text = "#### 1" + piece * (1_000_000 // len(piece))
    start = time.process_time()
    grade(text, "42", fallback=True)
    grade(text, "Paris")
    grade(text[6:], "42", fallback=True)
    assert time.process_time() - start < 1.5  # measured: under 0.15 s


# --- the second grader ---------------------------------------------------------------------------------------


def test_second_opinion_is_asked_only_on_request_and_disagreements_count() -> None:
    task, item = load_task("gsm8k"), Item("a", "?", "0.5")
    texts = ["#### 1/2", "#### 50%", "the share is 0.5", "#### 3"]
    assert [g.second for g in grade_many(task, texts, [item] * 4)] == [None] * 4
    grades = grade_many(task, texts, [item] * 4, second=True)
    assert [g.verdict for g in grades] == ["right", "wrong", "unreadable", "wrong"]
    assert [g.second for g in grades] == [True, True, True, False]
    assert [disagree(g) for g in grades] == [False, True, True, False]
    with pytest.raises(ValueError, match="zip"):
        grade_many(task, texts, [item])


def test_second_opinion_off_the_main_thread(capfd: pytest.CaptureFixture[str]) -> None:
    answers: list[bool | None] = []
    texts = ["#### 5", "#### 6", r"\boxed{9^{9^{9^9}}}"]
    thread = threading.Thread(target=lambda: answers.extend(second_opinion(text, "5") for text in texts))
    thread.start()
    thread.join(30)
    assert answers == [True, False, None]
    assert second_opinion("#### 5", "a word") is None
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_second_opinion_is_bounded_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    assert not second_opinion(r"\boxed{9^{9^{9^9}}}", "5")
    assert not second_opinion("9**9**9 1e99999999 " * 100_000, "5")
    assert time.perf_counter() - start < 20
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_both_graders_agree_on_gold() -> None:
    task = load_task("gsm8k")
    items = task.items(400)
    grades = grade_many(task, [item.solution for item in items], items, second=True)
    assert not any(disagree(g) for g in grades)
