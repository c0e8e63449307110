"""Corruptions keep what they declare, and counterfactual plans imply one other answer."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.plans import corrupt, read, rework
from triaxis.sampling.executor import Executor
from triaxis.tasks import load_task

quick = settings(max_examples=120, deadline=None)
OPS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "plus": operator.add,
    "minus": operator.sub,
    "times": operator.mul,
    "divided by": operator.truediv,
}
BITS = "the|pens|are|12|plus|7|is|19,|then|times.|Then|3.5|=|+|-|step|Step|1:|2;|and\n|not"
words = st.sampled_from(re.findall(r"[^|]+", BITS))
prose = st.lists(words, max_size=14).map(" ".join) | st.text(max_size=30)
keys = st.integers(0, 40).map(str)


@st.composite
def chains(draw: st.DrawFn) -> str:
    """A right plan in words, as gradeschool writes them; the last result stated or left open."""
    value, parts = draw(st.integers(2, 60)), []
    for _ in range(draw(st.integers(1, 4))):
        op = draw(st.sampled_from(sorted(OPS)))
        other = draw(st.integers(1, 30))
        result = OPS[op](Fraction(value), Fraction(other))
        if result.denominator != 1 or not 0 < result < 1000:
            continue
        parts.append(f"{value} {op} {other} is {result}")
        value = int(result)
    assume(parts)
    last = parts[-1] if draw(st.booleans()) else parts[-1].rsplit(" is ", 1)[0]
    return ", then ".join([*parts[:-1], last]) + "."


def by_hand(plan: str) -> list[tuple[str, str, str, str | None]]:
    """The calculations of a plan in words, read without the reader under test."""
    found = re.findall(rf"(\d+) ({'|'.join(OPS)}) (\d+)(?: is (-?\d+))?", plan)
    return [(a, op, b, r or None) for a, op, b, r in found]


def right(plan: str) -> bool:
    """Whether every stated result is right."""
    return all(r is None or OPS[op](Fraction(a), Fraction(b)) == int(r) for a, op, b, r in by_hand(plan))


# --- the table ---


@quick
@given(prose, keys)
@example("", "0")
@example("one", "0")
@example("a b", "1")
@example("12 plus 7 is 19, then 19 times 2.", "0")
def test_shuffled_words_are_the_same_words(plan: str, key: str) -> None:
    new = corrupt.shuffle_words(plan, key)
    assert Counter(new.split()) == Counter(plan.split())
    assert re.findall(r"\s+", new) == re.findall(r"\s+", plan)
    assert (new != plan) is (len(set(plan.split())) > 1)


@quick
@given(prose, keys)
@example("12 plus 7 is 19, then 19 times 2.", "0")
@example("A.\nB.\n\nC", "3")
def test_shuffled_steps_are_the_same_steps(plan: str, key: str) -> None:
    steps, gaps = corrupt.segments(plan)
    assert gaps[0] + "".join(s + g for s, g in zip(steps, gaps[1:], strict=True)) == plan
    new = corrupt.shuffle_steps(plan, key)
    rest = new
    for gap in gaps:  # what stands between the steps is there, in order
        assert gap in rest
        rest = rest[rest.index(gap) + len(gap) :]
    assert Counter("".join(new.split())) == Counter("".join(plan.split()))
    if new == plan:  # "then then then" has two steps, and every order of them is one text
        assert len(set(steps)) < 2 or len({w for s in steps for w in s.split()}) < 2
    else:
        assert len(set(steps)) > 1
    assert all(s in new for s in steps)


def test_steps_are_cut_at_sentences_lines_and_then() -> None:
    assert corrupt.segments("12 plus 7 is 19, then 19 times 2.")[0] == ["12 plus 7 is 19", "19 times 2"]
    assert corrupt.segments("He has 3.5 kg.\n7 - 2 = 5; done")[0] == ["He has 3.5 kg", "7 - 2 = 5", "done"]
    assert corrupt.segments("")[0] == []


@quick
@given(prose, keys)
@example("A. B. C.", "0")
@example("and\n times. then the", "0")  # "and\n then the" would read as the steps "and" and "the"
def test_a_dropped_step_leaves_the_others(plan: str, key: str) -> None:
    steps, _ = corrupt.segments(plan)
    new = corrupt.drop_step(plan, key)
    if len(steps) < 2:
        assert new == plan
        return
    rest = corrupt.segments(new)[0]
    assert rest in [steps[:k] + steps[k + 1 :] for k in range(len(steps))]


def test_every_step_can_be_dropped() -> None:
    plan = "12 plus 7 is 19, then 19 times 2 is 38, then 38 minus 1."
    assert {corrupt.drop_step(plan, str(k)) for k in range(30)} == {
        "19 times 2 is 38, then 38 minus 1.",
        "12 plus 7 is 19, then 38 minus 1.",
        "12 plus 7 is 19, then 19 times 2 is 38.",
    }


@quick
@given(prose)
@example("12 plus 7 is 19, then 19 times 2.")
def test_negation_adds_one_not_a_step_and_nothing_else(plan: str) -> None:
    new = corrupt.negate(plan, "")
    letters = Counter("".join(new.split()))
    letters.subtract(Counter("".join(plan.split())))
    n = len(corrupt.segments(plan)[0])
    assert +letters == Counter({"n": n, "o": n, "t": n}) if n else new == plan
    left = iter(new)
    assert all(c in left for c in plan if not c.isspace()), "what was there is there, in order"


def test_negation_reads_as_one() -> None:
    assert corrupt.negate("12 plus 7 is 19, then 19 times 2.", "") == "12 plus 7 is not 19, then not 19 times 2."


@quick
@given(chains())
def test_a_paraphrase_says_the_same(plan: str) -> None:
    new = corrupt.paraphrase(plan, "")
    assert new != plan
    assert re.findall(r"\d+", new) == re.findall(r"\d+", plan)
    assert [(s.expression, s.result) for s in read.steps(new)] == [(s.expression, s.result) for s in read.steps(plan)]


@pytest.mark.parametrize(
    ("plan", "new"),
    [
        ("Step 1: 12+7=19. Step 2: 19*2=38", "First: 12 added to 7 makes 19. Second: 19 multiplied by 2 makes 38"),
        ("Step 12 and Step 1.5", "Step 12 and Step 1.5"),
        ("There is a well-known x-ray", "There is a well-known x-ray"),
        ("$20 - $4 = $16", "$20 less $4 makes $16"),
    ],
)
def test_what_a_paraphrase_changes(plan: str, new: str) -> None:
    assert corrupt.paraphrase(plan, "") == new


@quick
@given(chains(), keys)
def test_a_changed_operator_keeps_the_given_numbers_and_agrees_with_itself(plan: str, key: str) -> None:
    new = rework.operators(plan, key)
    before, after = by_hand(plan), by_hand(new)
    assert len(before) == len(after)
    assert sum(a[1] != b[1] for a, b in zip(before, after, strict=True)) == 1
    assert new == rework.operators(plan, key)
    first = next(k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a[1] != b[1])
    assert before[:first] == after[:first]
    assert before[first][0] == after[first][0]
    if not right(new):  # then no change agrees with itself: only the operator was changed
        assert [(a, b, r) for a, _, b, r in before] == [(a, b, r) for a, _, b, r in after]


def test_operators_are_changed_on_signs_and_words() -> None:
    seen = {rework.operators("12+7=19", str(k)) for k in range(20)}
    assert seen == {"12-7=5", "12*7=84"}
    assert rework.operators("12 plus 7", "0") in {"12 minus 7", "12 times 7"}
    assert rework.operators("no calculation", "0") == "no calculation"


# --- lengths in tokens ---


@pytest.fixture(scope="module")
def tokens(tiny: Executor) -> corrupt.Tokens:
    t = tiny.tokenizer
    ordinary = [i for i in t.get_vocab().values() if i not in t.get_added_tokens_decoder()]
    return corrupt.Tokens(tiny.encode, lambda ids: str(t.decode(ids)), lambda: ordinary)


@pytest.mark.parametrize("name", corrupt.FILLERS)
def test_fillers_have_exactly_the_length_and_no_content(name: str, tokens: corrupt.Tokens) -> None:
    make = corrupt.FILLERS[name].make
    for length in (*range(25), 60, 101):
        text = make(length, tokens, f"k/{length}")
        assert len(tokens.encode(text)) == length
        assert text == make(length, tokens, f"k/{length}") == text.strip()
        assert not list(read.stated(text))
        assert not list(read.spoken(text))


def test_random_tokens_are_drawn_by_key_over_the_vocabulary(tokens: corrupt.Tokens) -> None:
    drawn = {corrupt.FILLERS["random"].make(12, tokens, str(k)) for k in range(40)}
    assert len(drawn) == 40
    assert len({w for text in drawn for w in text.split()[1:]}) > 100, "most ordinary words of the tiny vocabulary"
    special = ("<|mask|>", "<|eos|>", "<|user|>", "<|assistant|>")
    assert not any(s in text for s in special for text in drawn)


def test_a_tokenizer_of_numbers_has_no_random_words() -> None:
    digits = corrupt.Tokens(lambda t: [int(c) for c in t if c.isdigit()], lambda ids: str(ids[0]), lambda: range(10))
    with pytest.raises(UserError, match="filler 'random': the executor's tokenizer has no pieces to make 3 tokens of"):
        corrupt.FILLERS["random"].make(3, digits, "k")


@quick
@given(plan=prose, length=st.integers(1, 40))
@example(plan="12 plus 7 is 19, then 19 times 2.", length=8)
@example(plan="é€\U0001f600 x", length=3)
def test_a_truncated_plan_is_a_prefix_of_at_most_k_tokens(plan: str, length: int) -> None:
    tokens = corrupt.Tokens(  # bytes: the hard case, where a cut can fall inside a character
        lambda t: list(t.encode()), lambda ids: bytes(ids).decode(errors="replace"), lambda: range(256)
    )
    cut = corrupt.truncate(plan, length, tokens)
    assert plan.startswith(cut)
    assert len(tokens.encode(cut)) <= length or cut == plan
    assert (cut == plan) is (len(tokens.encode(plan)) <= length)
    longer = plan[: len(cut) + 1]
    assert cut == plan or len(tokens.encode(longer)) > length or longer[-1].isspace()


def test_a_truncated_plan_of_the_tiny_tokenizer(tokens: corrupt.Tokens) -> None:
    for item in load_task("gradeschool").items(40):
        plan = read.gold_plan(item)
        for length in (1, 8, 15):
            cut = corrupt.truncate(plan, length, tokens)
            assert plan.startswith(cut)
            assert tokens.encode(cut) == tokens.encode(plan)[:length]


# --- counterfactual plans ---


@quick
@given(chains(), keys)
@example("5 times 5 is 25.", "0")
@example("42 minus 21 is 21, then 21 plus 3.", "0")
def test_a_counterfactual_plan_implies_one_other_answer(plan: str, key: str) -> None:
    a, op, b, _ = by_hand(plan)[-1]
    gold = OPS[op](Fraction(a), Fraction(b))
    found = rework.counterfactual(plan, key, str(gold), f"there are {plan}")
    assert found == rework.counterfactual(plan, key, str(gold), f"there are {plan}")
    if found is None:
        return
    steps = by_hand(found.text)
    assert right(found.text), "every later result was computed again"
    a, op, b, _ = steps[-1]
    assert str(OPS[op](Fraction(a), Fraction(b))) == found.implied == read.implied_answer(found.text)
    assert int(found.implied) > 0
    assert Fraction(found.implied) != gold
    assert not read.leaks(found.text, str(gold))
    assert re.sub(r"\d+", "#", found.text) == re.sub(r"\d+", "#", plan), "numbers only"
    if not any(a == b for a, b in zip(by_hand(plan), steps, strict=True)):
        return
    first = next(k for k, (x, y) in enumerate(zip(by_hand(plan), steps, strict=True)) if x != y)
    assert sum(x != y for x, y in zip(by_hand(plan)[first], steps[first], strict=True)) <= 3


@quick
@given(st.integers(2, 99), st.integers(2, 99), keys)
def test_nearly_every_sum_has_a_counterfactual(a: int, b: int, key: str) -> None:
    """Brute force says when there is one: another operand of two such that nothing stated is the gold answer."""
    found = rework.counterfactual(f"{a} plus {b}.", key, str(a + b))
    assert found is not None
    x, y = map(int, re.findall(r"\d+", found.text))
    assert int(found.implied) == x + y != a + b
    assert (x != a) + (y != b) == (2 if a == b and x == y else 1)


def test_most_gold_plans_have_a_counterfactual() -> None:
    items = load_task("gradeschool").items(200)
    found = [rework.counterfactual(read.gold_plan(i), f"k/{i.id}", i.answer, i.question) for i in items]
    assert sum(f is not None for f in found) > 190
    assert all(f is None or f.implied != i.answer for f, i in zip(found, items, strict=True))


@pytest.mark.slow
def test_counterfactual_rationales_of_gsm8k() -> None:
    """Annotated calculations, with every mention in the prose replaced; checked against the annotations by hand."""
    items = load_task("gsm8k").items(150)
    found = [rework.counterfactual(read.gold_plan(i), f"k/{i.id}", i.answer, i.question, i.steps) for i in items]
    made = [(f, i) for f, i in zip(found, items, strict=True) if f is not None]
    assert len(made) > 100
    for f, item in made:
        plan = read.gold_plan(item)
        assert f.implied.isdigit()
        assert f.implied != item.answer
        assert read.leaks(f.text, f.implied), "the new answer is stated"
        assert not read.leaks(f.text, item.answer), "the old one is not"
        before = [s.result is None or read.evaluate(s.expression) == Fraction(s.result) for s in read.steps(plan)]
        after = [s.result is None or read.evaluate(s.expression) == Fraction(s.result) for s in read.steps(f.text)]
        assert all(a or not b for a, b in zip(after, before, strict=True)), "no right calculation became wrong"
        assert len(f.text.split("\n")) == len(plan.split("\n"))


@pytest.mark.parametrize(
    ("plan", "gold"),
    [
        ("no calculation at all", "5"),
        ("", "5"),
        ("12 plus 7 is 19.", "blue"),
        ("12 plus 7 is 19, so half of twelve and 7% and 7th", "19"),  # 12 is said in words, 7 as a share and a place
        ("1 plus 1 is 2.", "2"),  # no operand above one
    ],
)
def test_where_no_edit_is_safe_none_is_made(plan: str, gold: str) -> None:
    assert rework.counterfactual(plan, "k", gold) is None


def test_annotations_that_do_not_lead_to_the_answer_are_left_alone() -> None:
    plan = "She has 20 + 4 = 24 pens.\nSo 3 are left."
    assert rework.counterfactual(plan, "k", "3", "", ("20+4=24",)) is None


def test_every_mention_of_the_changed_quantity_changes() -> None:
    plan = "Tom has 20 pens and buys 14, so 20 + 14 = 34.\nHe sells the 34 pens for 34 * 3 = $102."
    found = rework.counterfactual(plan, "k", "102", "Tom has 20 pens.", ("20+14=34", "34*3=102"))
    assert found is not None
    m = re.fullmatch(
        r"Tom has (\d+) pens and buys 14, so \1 \+ 14 = (\d+)\.\nHe sells the \2 pens for \2 \* 3 = \$(\d+)\.",
        found.text,
    )
    assert m is not None, found.text
    start, total, price = map(int, m.groups())
    assert start != 20
    assert (total, price) == (start + 14, 3 * total)
    assert found.implied == str(price)


# --- number words ---


@given(st.integers(0, 999_999), st.sampled_from(["-", " "]), st.sampled_from([" and ", " "]))
@settings(max_examples=300, deadline=None)
def test_number_words_are_read_back(n: int, dash: str, joint: str) -> None:
    text = spell(n, dash, joint)
    assert list(read.spoken(f"it is {text} pens.")) == [n]
    assert read.leaks(f"It is {text.capitalize()}, I think", str(n))
    assert not read.leaks(f"It is {text}", str(n + 1))


def spell(n: int, dash: str, joint: str) -> str:
    """A number in words, by another road than the reader's."""
    small = (
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    )  # fmt: skip
    tens = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
    if n < 20:
        return small[n]
    if n < 100:
        return tens[n // 10] + (dash + small[n % 10] if n % 10 else "")
    if n < 1000:
        return f"{small[n // 100]} hundred" + (joint + spell(n % 100, dash, joint) if n % 100 else "")
    return f"{spell(n // 1000, dash, joint)} thousand" + (" " + spell(n % 1000, dash, joint) if n % 1000 else "")


@pytest.mark.parametrize(
    ("text", "answer", "leaks"),
    [
        ("forty-two", "42", True), ("Forty Two", "42", True), ("one hundred forty-two", "42", False),
        ("forty-two thousand", "42", False), ("a hundred", "100", True), ("two, three", "5", False),
        ("someone alone", "1", False), ("1,200 pens", "1200", True), ("1,200 pens", "200", False),
        ("$1200.00", "1200", True), ("it is 38.0", "38", True), ("-5", "-5", True), ("x", "x", True),
        ("xy", "x", False), ("anything", "", False),
    ],
)  # fmt: skip
def test_leaks_in_words_and_in_other_spellings(text: str, answer: str, leaks: bool) -> None:
    assert read.leaks(text, answer) is leaks


@quick
@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 30)), min_size=1, max_size=6), st.booleans())
def test_expressions_are_evaluated_as_python_does(terms: list[tuple[str, int]], brackets: bool) -> None:
    text = "7" + "".join(f"{op}{n}" for op, n in terms)
    text = f"({text})*2" if brackets else text
    assert read.evaluate(text) == eval(text)
