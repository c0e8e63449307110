"""What `wordproblems` says, as data: schemes of one to three calculations with their wordings, and the words in them.

A scheme is (calculations, ranges, parts). Calculations read "x=a*b; y=x-c": the letters a to f are numbers that the
problem states, drawn from `ranges`; x, y, z are results, the last one is the answer. "a=q*b" in the ranges makes a
number of two others, so that a division comes out even. Each part is a tuple of wordings, of which one is taken.

{n}, {m}: names; {p}, {P}: he or she, of {n}; {t}, {t1}: things, one thing; {u}: other things; {g}, {g1}: containers, one
container; {w}: a place.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Scheme(NamedTuple):
    """One kind of problem; see the top of this file."""

    calculations: str
    ranges: dict[str, tuple[int, int] | str]
    parts: tuple[tuple[str, ...], ...]


BOYS: Final = (
    "Tom", "Ben", "Leo", "Sam", "Max", "Omar", "Luis", "Jack", "Noah", "Ravi", "Ivan", "Paul", "Eric", "Kofi", "Hugo",
    "Dan", "Carl", "Amir", "Finn", "Joel",
)  # fmt: skip
GIRLS: Final = (
    "Mia", "Ana", "Eva", "Zoe", "Ida", "Lena", "Maria", "Rosa", "Nina", "Ruth", "Aisha", "Clara", "Julia", "Grace",
    "Sofia", "Hana", "Emma", "Tara", "Olga", "Pam",
)  # fmt: skip
# one, many
THINGS: Final = (
    ("pen", "pens"), ("card", "cards"), ("shell", "shells"), ("apple", "apples"), ("coin", "coins"), ("book", "books"),
    ("bead", "beads"), ("stamp", "stamps"), ("marble", "marbles"), ("cup", "cups"), ("sticker", "stickers"),
    ("pencil", "pencils"), ("cookie", "cookies"), ("orange", "oranges"), ("balloon", "balloons"), ("flower", "flowers"),
    ("toy car", "toy cars"), ("button", "buttons"), ("peach", "peaches"), ("muffin", "muffins"), ("egg", "eggs"),
    ("photo", "photos"), ("ticket", "tickets"), ("bottle of water", "bottles of water"), ("candle", "candles"),
    ("lemon", "lemons"), ("tomato", "tomatoes"), ("doll", "dolls"), ("plant", "plants"), ("brick", "bricks"),
    ("game", "games"), ("magazine", "magazines"), ("sandwich", "sandwiches"), ("fish", "fish"), ("seed", "seeds"),
    ("chocolate", "chocolates"), ("crayon", "crayons"), ("notebook", "notebooks"), ("pizza", "pizzas"),
    ("potato", "potatoes"), ("ribbon", "ribbons"), ("shirt", "shirts"), ("key", "keys"), ("rose", "roses"),
)  # fmt: skip
CONTAINERS: Final = (
    ("box", "boxes"), ("bag", "bags"), ("tray", "trays"), ("jar", "jars"), ("basket", "baskets"), ("shelf", "shelves"),
    ("drawer", "drawers"), ("crate", "crates"), ("pack", "packs"), ("row", "rows"), ("carton", "cartons"),
)  # fmt: skip
PLACES: Final = (
    "park", "school", "market", "farm", "library", "shop", "beach", "museum", "bakery", "garden", "station", "fair",
)  # fmt: skip

HAS: Final = (
    "{n} has {a} {t}.", "{n} had {a} {t} at first.", "There were {a} {t} in {n}'s room.", "{n} owned {a} {t}.",
    "{n} collected {a} {t}.", "On Monday {n} had {a} {t}.", "{n} started with {a} {t}.", "{n} found {a} {t} at the {w}.",
    "{n} brought {a} {t} to the {w}.", "There are {a} {t} on {n}'s table.", "{n} bought {a} {t} at the {w}.",
)  # fmt: skip
NOW: Final = (
    "How many {t} does {n} have now?", "How many {t} does {n} have in the end?", "How many {t} are there now?",
    "Find the number of {t} that {n} has now.", "How many {t} did {n} end up with?", "What is the number of {t} now?",
    "How many {t} does {p} have?",
)  # fmt: skip
LEFT: Final = (
    "How many {t} does {n} have left?", "How many {t} are left?", "How many {t} remain?", "How many {t} does {p} still have?",
    "How many {t} did {n} keep?", "Find out how many {t} {n} has left.",
)  # fmt: skip
ALL: Final = (
    "How many {t} are there in total?", "How many {t} are there altogether?", "How many {t} are there in all?",
    "What is the total number of {t}?", "How many {t} does {n} have altogether?", "How many {t} is that?",
)  # fmt: skip

# events that change what {n} has by {k}; each may follow any opening
EVENTS: Final = {
    "+": (
        "{n} buys {k} more {t}.", "Then {p} finds {k} more.", "{m} gives {n} {k} {t}.", "{P} gets {k} more from {m}.",
        "Later {n} picks up another {k} {t}.", "{n} wins {k} {t} at the {w}.", "Then {k} more {t} are added.",
        "{n}'s mother brings {k} {t} more.", "The next day {p} collected {k} more {t}.", "{m} adds {k} {t} to them.",
        "{n} receives {k} {t} as a present.", "After that {p} makes {k} more {t}.",
    ),
    "-": (
        "{n} gives {k} {t} to {m}.", "Then {p} loses {k} of them.", "{n} sells {k} {t}.", "{k} of the {t} get broken.",
        "{P} uses {k} of the {t}.", "{n} throws {k} {t} away.", "{m} takes {k} of them.", "{P} leaves {k} {t} at the {w}.",
        "Later {k} {t} are stolen.", "{n} trades {k} {t} for a hat.", "After that {p} donates {k} of the {t}.",
        "{k} {t} turn out to be bad and are thrown out.",
    ),
    "*": (
        "Soon {n} has {k} times as many.", "The number of {t} grows to {k} times what it was.",
        "By the end of the year {p} has {k} times that number.", "{n} multiplies the number of {t} by {k}.",
    ),
    "/": (
        "{n} splits the {t} equally into {k} piles and keeps one pile.", "Only one in {k} of the {t} is kept.",
        "{n} shares them equally among {k} people, {n} included, and keeps one share.",
        "The {t} are divided into {k} equal parts, and {n} takes one part.",
    ),
}  # fmt: skip

# questions that ask for one more calculation on what there is (x): (sign, left is x, wordings)
CLOSERS: Final = (
    ("-", False, ("{n} wants to have {k} {t}. How many more does {p} need?",
                  "How many more {t} does {n} need to have {k}?",
                  "There is room for {k} {t}. How many more {t} fit?")),
    ("-", True, ("{m} has {k} {t}. How many more {t} than {m} does {n} have now?",
                 "If {p} now gives away {k} {t}, how many are left?")),
    ("/", True, ("If {n} shares them equally among {k} friends, how many {t} does each friend get?",
                 "{n} packs them into boxes of {k}. How many boxes does {p} need?",
                 "How many {t} go into each bag if they are put equally into {k} bags?",
                 "They are placed in rows of {k}. How many rows are there?")),
    ("*", True, ("If each is sold for {k} dollars, how much money does {n} get?",
                 "Each of the {t} costs ${k}. What are they worth in all, in dollars?",
                 "If each weighs {k} grams, how many grams do they weigh together?")),
    ("+", True, ("{m} has {k} {t}. How many {t} do {n} and {m} have together?",
                 "If {p} gets another {k} {t} tomorrow, how many will {p} have?")),
)  # fmt: skip

ASIDES: Final = (
    "{m} is {k} years old.", "The {w} is {k} miles away.", "{n} also has {k} {u}.", "It took {k} minutes to get there.",
    "{m} has {k} {u}.", "There were also {k} {u} at the {w}.", "It was {k} degrees that day.", "{n} lives at number {k}.",
    "{m} bought {k} {u} there.", "{n} is {k} years old and {m} is older.", "{P} had {k} dollars in a pocket.",
)  # fmt: skip
PLAIN_ASIDES: Final = (
    "It was a sunny day.", "{n} likes {t} a lot.", "{m} came along too.", "They are very good friends.",
    "The weather was fine.", "{n} was very happy about it.", "{m} was watching.", "That was a long time ago.",
)  # fmt: skip

SCHEMES: Final[tuple[Scheme, ...]] = (
    # ---- one calculation
    Scheme("x=a-b", {"a": (8, 99), "b": (2, 70)}, (
        HAS, ("After giving some to {m}, {p} had {b} left.", "Some got lost, and now there are {b}.",
              "{P} sold some of them and was left with {b}.", "The next day there were only {b} {t}."),
        ("How many {t} did {n} give away or lose?", "How many {t} are gone?", "How many {t} is {n} missing?",
         "By how many {t} did the number fall?"))),
    Scheme("x=b-a", {"a": (3, 60), "b": (10, 99)}, (
        HAS, ("After buying some more, {p} had {b}.", "{m} gave {p} some more, and now {p} has {b}.",
              "Later {p} counted {b} {t}.", "By the evening there were {b} {t}."),
        ("How many {t} did {n} get?", "How many new {t} are there?", "How many {t} were added?",
         "How many {t} did {p} gain?"))),
    Scheme("x=a+b", {"a": (3, 80), "b": (2, 60)}, (
        ("{n} gave {a} {t} to {m}.", "{n} lost {a} {t} on the way.", "{n} sold {a} {t}.", "{n} used up {a} {t}."),
        ("Now {p} has {b} {t} left.", "{b} {t} remain.", "{P} still has {b}."),
        ("How many {t} did {n} have at the start?", "How many {t} did {n} have before?",
         "How many {t} were there in the beginning?", "How many {t} did {p} have at first?"))),
    Scheme("x=b-a", {"a": (2, 50), "b": (8, 99)}, (
        ("After {m} gave {n} {a} {t}, {p} has {b}.", "{n} bought {a} {t} and now has {b}.",
         "{n} found {a} more {t}, which makes {b}."),
        ("How many {t} did {n} have before?", "How many {t} did {p} have at first?", "How many {t} did {n} start with?"))),
    Scheme("x=a+b", {"a": (3, 80), "b": (2, 50)}, (
        ("{m} has {a} {t}.", "{m} collected {a} {t}.", "{m} picked {a} {t} at the {w}."),
        ("{n} has {b} more than {m}.", "{n} has {b} {t} more than {m} does.", "That is {b} fewer than {n} has."),
        ("How many {t} does {n} have?", "What is the number of {n}'s {t}?"))),
    Scheme("x=a-b", {"a": (10, 99), "b": (2, 60)}, (
        ("{m} has {a} {t}.", "{m} owns {a} {t}.", "{m} made {a} {t}."),
        ("{n} has {b} fewer than {m}.", "{n} has {b} less.", "That is {b} more than {n} has."),
        ("How many {t} does {n} have?", "What is the number of {n}'s {t}?"))),
    Scheme("x=a-b", {"a": (10, 99), "b": (2, 80)}, (
        ("{n} has {a} {t} and {m} has {b}.", "There are {a} {t} and {b} {u}.",
         "{n} picked {a} {t} while {m} picked {b}.", "The {w} sold {a} {t} and {b} {u} that day."),
        ("What is the difference?", "What is the difference between the two numbers?", "How large is the difference?"))),
    Scheme("x=a-b", {"a": (10, 99), "b": (2, 80)}, (
        ("{n} has {a} {t} and {m} has {b} {t}.", "{n} found {a} {t}, and {m} found {b} {t}."),
        ("How many more {t} does {n} have than {m}?", "How many fewer {t} does {m} have than {n}?",
         "How many {t} must {m} get to have as many as {n}?"))),
    Scheme("x=a-b", {"a": (10, 99), "b": (2, 80)}, (
        ("There are {a} {t} and {b} {u} at the {w}.", "The {w} has {a} {t} and {b} {u}.", "{n} has {a} {t} and {b} {u}."),
        ("How many more {t} than {u} are there?", "How many fewer {u} are there than {t}?",
         "By how much is the number of {t} larger than that of {u}?"))),
    Scheme("x=a+b", {"a": (3, 90), "b": (3, 90)}, (
        ("{n} has {a} red {t} and {b} blue {t}.", "There are {a} big {t} and {b} small {t} at the {w}.",
         "{n} has {a} {t} and {m} has {b} {t}.", "{n} bought {a} {t} on Monday and {b} {t} on Tuesday.",
         "{a} {t} are on the table and {b} {t} are in the box."), ALL)),
    Scheme("x=a-b", {"a": (10, 99), "b": (3, 80)}, (
        ("{n} has {a} {t}.", "There are {a} {t} at the {w}.", "A {g1} holds {a} {t}."),
        ("{b} of them are red and the others are blue.", "{b} are old and the rest are new.",
         "{b} of these are big, the rest small."),
        ("How many {t} of the other kind are there?", "How many are of the other kind?",
         "What is the number of the others?"))),
    Scheme("x=a*b", {"a": (2, 12), "b": (2, 20)}, (
        ("{n} has {a} {g} with {b} {t} in each.", "There are {a} {g}. Each {g1} holds {b} {t}.",
         "{n} fills {a} {g} with {b} {t} each.", "{n} puts {b} {t} into each of {a} {g}.",
         "Each {g1} has {b} {t}, and there are {a} {g}.", "{a} friends bring {b} {t} each."), ALL)),
    Scheme("x=a*b", {"a": (2, 12), "b": (2, 15)}, (
        ("Each of the {t} costs {b} dollars.", "One {t1} costs ${b}.", "The {w} sells {t} at {b} dollars each."),
        ("{n} buys {a} of them.", "{n} wants {a}.", "{n} takes {a}."),
        ("How much does {n} pay, in dollars?", "What is the price of all of them, in dollars?",
         "How many dollars does {p} spend?"))),
    Scheme("x=a*b", {"a": (2, 10), "b": (2, 30)}, (
        ("{n} makes {b} {t} every day.", "{n} sells {b} {t} a day.", "Every day {n} counts {b} {t} at the {w}.",
         "A machine packs {b} {t} a day."),
        ("How many {t} is that in {a} days?", "How many {t} are there after {a} days?",
         "What is the number of {t} after {a} days?"))),
    Scheme("x=a*b", {"a": (2, 10), "b": (5, 30)}, (
        ("{n} earns {b} dollars an hour.", "{n} is paid ${b} for each hour of work.", "{n} gets {b} dollars per hour."),
        ("{P} works {a} hours.", "This week {p} worked for {a} hours.", "{P} helps at the {w} for {a} hours."),
        ("How much does {n} earn, in dollars?", "How many dollars does {p} get?"))),
    Scheme("x=a/b", {"b": (2, 12), "q": (2, 15), "a": "b*q"}, (
        ("{n} has {a} {t}.", "There are {a} {t}.", "{n} made {a} {t}.", "{n} picked {a} {t}."),
        ("{P} puts them equally into {b} {g}.", "They are shared equally among {b} friends.",
         "{P} splits them into {b} equal groups."),
        ("How many {t} are in each?", "How many {t} does each one get?", "How many {t} is one share?"))),
    Scheme("x=a/b", {"b": (2, 12), "q": (2, 15), "a": "b*q"}, (
        ("{n} has {a} {t}.", "There are {a} {t}.", "{n} wants to pack {a} {t}."),
        ("Each {g1} holds {b} {t}.", "{b} {t} fit into one {g1}.", "{P} puts {b} {t} into each {g1}."),
        ("How many {g} does {n} need?", "How many {g} are filled?", "How many {g} are there?"))),
    Scheme("x=a/b", {"b": (2, 12), "q": (2, 15), "a": "b*q"}, (
        ("{b} {t} cost {a} dollars.", "{n} paid {a} dollars for {b} {t}.", "{n} got {b} {t} for ${a}."),
        ("What is the price of one, in dollars?", "How much does each {t1} cost, in dollars?"))),
    Scheme("x=a*b", {"a": (2, 40), "b": (2, 6)}, (
        ("{m} has {a} {t}.", "{m} found {a} {t}."), ("{n} has {b} times as many.", "{n} has {b} times as many as {m}."),
        ("How many {t} does {n} have?", "What is the number of {n}'s {t}?"))),
    Scheme("x=a/b", {"b": (2, 6), "q": (2, 20), "a": "b*q"}, (
        ("{n} has {a} {t}, {b} times as many as {m}.", "{n} has {b} times as many {t} as {m}. {n} has {a}."),
        ("How many {t} does {m} have?", "What is the number of {m}'s {t}?"))),
    Scheme("x=a-b", {"a": (10, 100), "b": (2, 90)}, (
        ("{n} had {a} dollars.", "{n} went to the {w} with ${a}.", "There was ${a} in {n}'s wallet."),
        ("{P} spent {b} dollars.", "{P} paid {b} dollars for some {t}.", "A book cost {p} ${b}.", "{n} paid ${b} for a toy."),
        ("How much money is left, in dollars?", "How many dollars does {n} have now?", "How many dollars are left?"))),
    Scheme("x=a+b", {"a": (2, 60), "b": (2, 40)}, (
        ("{n} is {a} years old.", "{n} turned {a} this year."), ("{m} is {b} years older.", "{m} is {b} years older than {n}."),
        ("How old is {m}?", "What is {m}'s age?"))),
    Scheme("x=a*b", {"a": (2, 30), "b": (2, 20)}, (
        ("A garden is {a} feet long and {b} feet wide.", "A floor is {a} feet by {b} feet.",
         "{n} has a field that is {b} feet wide and {a} feet long."),
        ("What is its area in square feet?", "How many square feet is that?", "How large is it, in square feet?"))),
    # ---- two calculations
    Scheme("x=a+b; y=x-c", {"a": (3, 60), "b": (2, 50), "c": (2, 70)}, (
        ("{n} has {a} {t} and {m} has {b}.", "{n} bought {a} {t} at the {w} and {b} at another shop.",
         "{n} picked {a} {t} and {m} picked {b}."),
        ("They gave {c} to a friend.", "Together they sold {c} of them.", "{c} of these were bad."), LEFT)),
    Scheme("x=a+b; y=x-c", {"a": (3, 40), "b": (2, 40), "c": (3, 60)}, (
        ("{n} brought {a} {t} and {m} brought {c} {t} to the {w}.", "{n} has {a} {t} while {m} has {c}."),
        ("{n} then got {b} more.", "Then {n} bought {b} more {t}."),
        ("How many more {t} does {n} have than {m}?", "How many {t} more than {m} does {n} have now?"))),
    Scheme("x=a*b; y=x+c", {"a": (2, 12), "b": (2, 12), "c": (2, 40)}, (
        ("{n} has {a} {g} with {b} {t} in each.", "{n} bought {a} {g} of {t}. Each {g1} holds {b}."),
        ("{P} also has {c} loose {t}.", "{m} gives {p} {c} more.", "There were {c} {t} at home already."), ALL)),
    Scheme("x=a*b; y=x-c", {"a": (2, 12), "b": (2, 12), "c": (2, 60)}, (
        ("{n} has {a} {g} with {b} {t} in each.", "{n} bought {a} {g} of {t}. Each {g1} holds {b}.",
         "{n} makes {b} {t} a day for {a} days."),
        ("{P} gives away {c} of them.", "{c} of the {t} break.", "{P} sells {c}."), LEFT)),
    Scheme("x=a*b; y=c-x", {"a": (2, 9), "b": (2, 12), "c": (20, 120)}, (
        ("{n} has {c} dollars.", "{n} goes to the {w} with ${c}."),
        ("{P} buys {a} {t} at {b} dollars each.", "{P} buys {a} {t} for ${b} each."),
        ("How much money is left, in dollars?", "How many dollars does {n} have left?", "How much change does {n} get?"))),
    Scheme("x=a-b; y=x/c", {"c": (2, 8), "q": (2, 12), "x": "c*q", "b": (2, 40), "a": "x+b"}, (
        ("{n} had {a} {t} and gave {b} to {m}.", "Of {n}'s {a} {t}, {b} were lost.", "{n} made {a} {t} and used {b}."),
        ("{P} puts the rest equally into {c} {g}.", "The rest are shared equally among {c} friends."),
        ("How many {t} are in each share?", "How many {t} does each get?"))),
    Scheme("x=a+b; y=x/c", {"c": (2, 8), "q": (3, 12), "x": "c*q", "b": (1, 20), "a": "x-b"}, (
        ("{n} has {a} {t} and {m} has {b}.", "{n} has {a} red {t} and {b} green ones."),
        ("They are put into {c} equal groups.", "They are shared equally by {c} children."),
        ("How many {t} are in each group?", "How many {t} is one share?"))),
    Scheme("x=a/b; y=x*c", {"b": (2, 10), "q": (2, 10), "a": "b*q", "c": (2, 12)}, (
        ("{b} {t} cost {a} dollars.", "{n} paid ${a} for {b} {t}."),
        ("How much do {c} {t} cost, in dollars?", "What would {c} of them cost, in dollars?",
         "How many dollars does {m} pay for {c} {t}?"))),
    Scheme("x=a*b; y=a+x", {"a": (2, 30), "b": (2, 5)}, (
        ("{m} has {a} {t}.", "{m} found {a} {t}."), ("{n} has {b} times as many.", "{n} has {b} times as many as {m}."),
        ("How many {t} do they have together?", "How many {t} are there in total?"))),
    Scheme("x=a+b; y=a+x", {"a": (2, 60), "b": (2, 40)}, (
        ("{m} has {a} {t}.", "{m} made {a} {t}."), ("{n} has {b} more than {m}.", "{n} made {b} more than {m} did."),
        ("How many {t} do they have together?", "How many {t} are there in total?"))),
    Scheme("x=a-b; y=a+x", {"a": (8, 60), "b": (2, 40)}, (
        ("{m} has {a} {t}.", "{m} made {a} {t}."), ("{n} has {b} fewer than {m}.", "{n} has {b} less than that."),
        ("How many {t} do they have together?", "How many {t} are there in total?"))),
    Scheme("x=a/2; y=a+x", {"q": (2, 40), "a": "2*q"}, (
        ("{n} sold {a} {t} in April.", "{n} collected {a} {t} on Monday.", "{n} made {a} {t} in the morning."),
        ("In May {p} sold half as many.", "The next day it was half as many.", "Later {p} made half as many."),
        ("How many {t} is that altogether?", "How many {t} are there in total?"))),
    Scheme("x=a/2; y=a-x", {"q": (2, 40), "a": "2*q"}, (
        HAS, ("Half of them are lost.", "{P} gives half of them away.", "Half of the {t} are sold."), LEFT)),
    Scheme("x=a*2; y=x+b", {"a": (2, 50), "b": (2, 40)}, (
        ("{m} has {a} {t}.", "{m} picked {a} {t}."), ("{n} has twice as many, and then gets {b} more.",
         "{n} had twice as many as {m} and found {b} more."), NOW)),
    Scheme("x=a*12; y=x-b", {"a": (2, 8), "b": (2, 20)}, (
        ("{n} buys {a} dozen {t}.", "There are {a} dozen {t} at the {w}."),
        ("{P} uses {b} of them.", "{b} are bad.", "{m} takes {b}."), LEFT)),
    Scheme("x=a-b; y=x-c", {"a": (20, 99), "b": (2, 40), "c": (2, 40)}, (
        HAS, ("{P} gave {b} to {m} and {c} to a neighbor.", "{P} sold {b} on Monday and {c} on Tuesday.",
              "{b} were used, and {c} were lost."), LEFT)),
    Scheme("x=a+b; y=x+c", {"a": (2, 60), "b": (2, 60), "c": (2, 60)}, (
        ("{n} has {a} red, {b} blue and {c} green {t}.", "{n} found {a} {t} on Monday, {b} on Tuesday and {c} on Friday.",
         "There are {a} {t} in one {g1}, {b} in another and {c} in a third."), ALL)),
    Scheme("x=a*b; y=x/c", {"a": (2, 9), "c": (2, 9), "q": (1, 9), "b": "c*q"}, (
        ("{n} has {a} {g} of {b} {t}.", "There are {a} {g} with {b} {t} each."),
        ("All {t} are shared equally among {c} children.", "{P} divides all of them equally among {c} friends."),
        ("How many {t} does each get?", "How many {t} is one share?"))),
    # ---- three calculations
    Scheme("x=a*b; y=c*d; z=x+y", {"a": (2, 9), "b": (2, 12), "c": (2, 9), "d": (2, 12)}, (
        ("{n} buys {a} {t} at {b} dollars each and {c} {u} at {d} dollars each.",
         "At the {w} {n} takes {a} {t} for ${b} each and {c} {u} for ${d} each."),
        ("How much does {n} pay in all, in dollars?", "How many dollars does {p} spend altogether?"))),
    Scheme("x=a*b; y=c*d; z=x-y", {"a": (3, 12), "b": (4, 12), "c": (2, 9), "d": (2, 9)}, (
        ("{n} has {a} {g} of {b} {t}, and {m} has {c} {g} of {d}.", "{n} made {b} {t} a day for {a} days, {m} {d} a day for {c} days."),
        ("How many more {t} does {n} have than {m}?", "How many {t} more than {m} is that?"))),
    Scheme("x=a*b; y=x+c; z=y-d", {"a": (2, 10), "b": (2, 12), "c": (2, 40), "d": (2, 60)}, (
        ("{n} has {a} {g} with {b} {t} in each.", "{n} makes {b} {t} a week for {a} weeks."),
        ("{P} gets {c} more and then gives {d} away.", "{m} brings {c} more, but {d} are lost."), LEFT)),
    Scheme("x=a+b; y=x*c; z=d-y", {"a": (2, 9), "b": (2, 9), "c": (2, 6), "d": (30, 150)}, (
        ("A ticket costs {a} dollars and a drink costs {b} dollars.", "One {t1} costs ${a} and one key costs ${b}."),
        ("{n} pays for {c} of each with {d} dollars.", "{n} has ${d} and buys {c} of each."),
        ("How much money is left, in dollars?", "How many dollars does {n} get back?"))),
    Scheme("x=a*b; y=a+x; z=y-c", {"a": (2, 20), "b": (2, 5), "c": (2, 50)}, (
        ("{m} has {a} {t}, and {n} has {b} times as many.", "{m} caught {a} {t} and {n} caught {b} times as many."),
        ("Together they give {c} away.", "{c} of all these are lost."),
        ("How many {t} do they have left together?", "How many {t} remain?"))),
    Scheme("x=a+b; y=x+c; z=y/3", {"q": (4, 30), "y": "3*q", "a": (2, 20), "b": (2, 20), "x": "a+b", "c": "y-x"}, (
        ("{n} made {a}, {b} and {c} {t} on three days.", "{n} scored {a}, {b} and {c} points in three games."),
        ("What is the average?", "What is the mean of the three numbers?", "How many is that a day on average?"))),
    Scheme("x=a-b; y=x*c; z=y+d", {"a": (6, 40), "b": (2, 30), "c": (2, 9), "d": (2, 50)}, (
        ("{n} made {a} {t} and kept {b} of them.", "Of {a} {t}, {n} kept {b}."),
        ("{P} sold the others at {c} dollars each. {P} already had {d} dollars.",
         "The rest were sold for ${c} each, and {p} had ${d} before."),
        ("How many dollars does {n} have now?", "How much money does {n} have, in dollars?"))),
)  # fmt: skip
