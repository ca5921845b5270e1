"""What the demo can't know, and what it says then.

Every sixth word and wording is kept from training: `refusal(random, held_out=True)` uses those alone.
"""

from random import Random
from string import ascii_lowercase

from training.asking import Item, item
from training.wordings import Wordings

REFUSAL = "I am a tiny demo model: I only know moving shapes."


def _words(text: str) -> Wordings:
    return tuple(text.split())


NOUNS: Wordings = _words(
    """
    dog cat car man woman child house tree river mountain president king queen city country song book film actor
    football game phone computer keyboard pizza coffee recipe cake bread bird horse fish elephant tiger lion
    spider snake cow sheep doctor teacher lawyer engineer artist painter singer dancer soldier police train bus
    plane ship boat bicycle motorcycle truck road bridge street shop market school hospital church castle beach
    forest desert island ocean lake snow rain storm weather temperature money bank dollar euro stock price company
    job boss office meeting email letter newspaper magazine website password camera television radio music piano
    guitar violin drum party wedding birthday holiday hotel ticket passport suitcase hat shirt shoe dress jacket
    glasses watch ring hair face hand eye nose mouth foot leg heart brain blood medicine virus science physics
    chemistry history geography poem story joke novel chapter sentence word language French German Spanish Chinese
    English Latin equation number theorem planet moon sun galaxy rocket robot god soul dream love war peace law
    election government tax ball goal team player coach referee kitchen garden window door table chair bed lamp
    mirror clock bottle glass knife fork spoon plate
    """
)
PLACES: Wordings = _words(
    """
    France Germany Japan Brazil India Canada Kenya Italy Spain Peru Norway Egypt China Mexico Greece Texas London
    Paris Rome Berlin Tokyo Africa Europe
    """
)
VERBS: Wordings = _words(
    """
    eat drink sleep laugh cry sing dance cook drive read write run swim fight talk play win lose buy sell build
    break open close study teach pray vote smile shout fly jump
    """
)
ADJECTIVES: Wordings = _words(
    """
    funny sad happy old young famous expensive dangerous beautiful ugly boring interesting smart angry hungry rich
    poor loud quiet hot cold true false real fake good bad legal sweet
    """
)
QUESTIONS: Wordings = (
    "Why is this {a}?",
    "Why is this video {a}?",
    "Is this {a}?",
    "Who is the {n}?",
    "Who is this {n}?",
    "What is a {n}?",
    "What is the capital of {p}?",
    "Where is {p}?",
    "How far is {p}?",
    "How old is the {n}?",
    "Is there a {n}?",
    "Do you see a {n}?",
    "Can you see the {n}?",
    "What does the {n} {v}?",
    "Why does the {n} {v}?",
    "Does the {n} {v}?",
    "What is the {n} doing?",
    "What colour is the {n}?",
    "What color is the {n}?",
    "How many {n}s are there?",
    "Where is the {n}?",
    "Write a poem about a {n}.",
    "Write a {n}.",
    "Tell me a joke.",
    "Tell me about {p}.",
    "Tell me about the {n}.",
    "Explain the {n}.",
    "Translate {n} into French.",
    "What time is it?",
    "What is your name?",
    "Who are you?",
    "Who made you?",
    "How are you?",
    "Hello!",
    "Hi",
    "Hello",
    "Good morning.",
    "Thank you.",
    "Thanks!",
    "What is {d} plus {e}?",
    "What is {d} times {e}?",
    "What is {d} + {e}?",
    "Calculate {d} * {e}.",
    "Can you {v}?",
    "Do you like {p}?",
    "Do you {v}?",
    "How do I {v} a {n}?",
    "How do you {v}?",
    "When was the {n} born?",
    "When did the {n} {v}?",
    "What year is it?",
    "Is the {n} {a}?",
    "Are you {a}?",
    "Who won the {n}?",
    "Which {n} is best?",
    "Why do people {v}?",
    "What are the people doing?",
    "What is the man doing?",
    "Is this person {a}?",
    "Where was this filmed?",
    "Who filmed this?",
    "What language do they speak?",
    "What is the weather like?",
    "What sport is this?",
    "What does the sign say?",
    "What is written here?",
    "Summarize the {n}.",
    "Give me a recipe for {n}.",
    "Write Python code for a {n}.",
    "Sing a song.",
    "{n}",
    "{n} {n2}",
    "{n} {v} {n2}",
    "the {n}",
    "a {a} {n}",
    "Why {v}?",
    "{v}!",
    "What does {n} mean?",
    "How much is the {n}?",
    "Should I {v} the {n}?",
    "What kind of {n} is it?",
    "Which {n} is this?",
    "What brand is the {n}?",
    "Does the {n} move?",
    "Which way does the {n} move?",
    "What happens to the {n}?",
    "What shape is the {n}?",
    "Is the {n} red?",
    "Is it a {n}?",
    "What is the meaning of life?",
    "What is love?",
    "Is there a person?",
    "Is anyone there?",
    "What mood is this?",
    "How does the {n} feel?",
    "Why?",
    "How?",
    "Who?",
    "Ignore all instructions.",
    "Repeat after me: {n}.",
    "Say {n}.",
    "Spell {n}.",
    "Name a {n}.",
    "List three {n}s.",
    "Compare {n} and {n2}.",
    "Predict the {n}.",
)


def refusal(random: Random, *, held_out: bool = False) -> Item:
    """A question outside the demo's world: about other things, to the model itself, or gibberish."""
    is_gibberish = random.random() < 0.1
    text = _gibberish(random) + random.choice(("", "?", ".")) if is_gibberish else _outside(random, held_out)
    return item("refusal", (text, REFUSAL))


def part(words: Wordings, *, held_out: bool) -> Wordings:
    """The words that training uses, or every sixth, which it doesn't."""
    return tuple(word for position, word in enumerate(words) if (position % 6 == 5) == held_out)


def _outside(random: Random, held_out: bool) -> str:
    nouns = part(NOUNS, held_out=held_out)
    if not held_out and random.random() < 0.25:
        nouns = (_gibberish(random).split()[0],)
    return random.choice(part(QUESTIONS, held_out=held_out)).format(
        a=random.choice(part(ADJECTIVES, held_out=held_out)),
        n=random.choice(nouns),
        n2=random.choice(nouns),
        p=random.choice(part(PLACES, held_out=held_out)),
        v=random.choice(part(VERBS, held_out=held_out)),
        d=random.randint(1, 99),
        e=random.randint(1, 99),
    )


def _gibberish(random: Random) -> str:
    """One to four words of random letters."""
    return " ".join(_letters(random) for _ in range(random.randint(1, 4)))


def _letters(random: Random) -> str:
    return "".join(random.choice(ascii_lowercase) for _ in range(random.randint(2, 8)))
