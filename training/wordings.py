"""How each kind of question can be worded; {s} is a shape or another name for a thing, {c} a colour, {m} the medium.

Wordings ending in _ONE suit a scene with one thing, those in _OF name the thing they mean.
"""

Wordings = tuple[str, ...]

COLOUR_NAMELESS: Wordings = (
    "What colour is it?",
    "What color is it?",
    "What colour is the shape?",
    "What color is the shape?",
    "Which colour is it?",
    "What is the colour of the shape?",
)
COLOUR_ONE: Wordings = (
    *COLOUR_NAMELESS,
    "What is its colour?",
    "Tell me the colour of the shape.",
    "What color is the object?",
    "Which color does the shape have?",
    "What colour is the {s}?",
    "What color is the {s}?",
    "Which colour does the {s} have?",
    "What is the color of the {s}?",
    "Name the colour of the {s}.",
    "The {s} is what colour?",
)
COLOUR_OF: Wordings = (
    "What colour is the {s}?",
    "What color is the {s}?",
    "Which colour does the {s} have?",
    "Which color is the {s}?",
    "What is the color of the {s}?",
    "What is the colour of the {s}?",
    "Name the colour of the {s}.",
    "The {s} is what colour?",
    "Tell me the color of the {s}.",
)
SHAPE_ASKED: Wordings = (
    "What shape is it?",
    "Which shape is it?",
    "What shape is this?",
    "What is the shape?",
    "What shape do you see?",
    "Which shape is shown?",
)
SHAPE_NAMELESS: Wordings = (
    *SHAPE_ASKED,
    "What kind of shape is it?",
    "Name the shape.",
    "What is it?",
    "What object is this?",
)
SHAPE_ONE: Wordings = (
    *SHAPE_NAMELESS,
    "What shape is the {c} object?",
    "What is the {c} thing?",
    "Which shape is {c}?",
)
SHAPE_OF: Wordings = (
    "What shape is the {c} object?",
    "What shape is the {c} one?",
    "What is the {c} thing?",
    "Which shape is {c}?",
    "What kind of shape is the {c} one?",
    "What shape is {c}?",
    "Name the {c} shape.",
    "What is the {c} object?",
    "What is {c}?",
    "Which shape does the {c} thing have?",
)
BACKGROUND: Wordings = (
    "What colour is the background?",
    "What color is the background?",
    "Which colour is the background?",
    "What is the background colour?",
    "What is the color of the background?",
    "Name the background colour.",
    "What is behind the shapes?",
    "What background is it?",
    "Which color does the background have?",
    "The background is what colour?",
)
COUNT: Wordings = (
    "How many shapes are there?",
    "How many shapes do you see?",
    "How many objects are there?",
    "How many things are there?",
    "Count the shapes.",
    "What is the number of shapes?",
    "How many shapes are shown?",
    "How many are there?",
    "How many shapes are in the {m}?",
    "How many objects can you see?",
    "How many objects are in the {m}?",
    "Count the objects in the {m}.",
)
DIRECTION_ONE: Wordings = (
    "Which way does it move?",
    "Where does it move?",
    "In which direction does it move?",
    "What direction does it move in?",
    "Which direction does the shape move?",
    "Where does the shape go?",
    "Which way does the shape move?",
    "Which way is it going?",
    "In what direction does the object move?",
    "Where is it moving?",
    "Where does it go?",
    "Which way does the {s} move?",
    "In which direction does the {s} move?",
    "Where does the {s} go?",
    "Which way is the {s} going?",
    "What direction does the {s} move in?",
)
DIRECTION_OF: Wordings = (
    "Which way does the {s} move?",
    "In which direction does the {s} move?",
    "Where does the {s} go?",
    "Which way is the {s} going?",
    "What direction does the {s} move in?",
    "Where does the {s} move?",
    "Where is the {s} moving?",
    "In what direction is the {s} moving?",
)
WHAT_HAPPENS: Wordings = (
    "What happens?",
    "What happens in this video?",
    "What is happening?",
    "What happens in the video?",
    "What is happening in this video?",
    "Describe the video.",
    "What do you see?",
    "Describe what happens.",
    "What does the video show?",
    "What goes on here?",
    "What is going on?",
    "What do you see in this video?",
    "What is this video about?",
    "Tell me what happens.",
)
DOES: Wordings = (
    "What does the {s} do?",
    "What happens to the {s}?",
    "What is the {s} doing?",
    "What does the {s} do in the video?",
    "What becomes of the {s}?",
    "Tell me what the {s} does.",
)
DOES_ONE: Wordings = (
    "What does it do?",
    "What does the shape do?",
    "What happens to it?",
    "What is the shape doing?",
    "What happens to the shape?",
    "What is it doing?",
    *DOES,
)
WHICH_MOVES: Wordings = (
    "What moves?",
    "Which shape moves?",
    "What is moving?",
    "Which object moves?",
    "Which one moves?",
    "Which shape is moving?",
    "What moves in the video?",
)
FIRST: Wordings = (
    "What comes first?",
    "Which shape appears first?",
    "What appears first?",
    "Which object comes first?",
    "Which shape comes first?",
    "What is seen first?",
    "Which one is first?",
    "What do you see first?",
)
LAST: Wordings = (
    "What comes last?",
    "Which shape appears last?",
    "What appears last?",
    "Which object comes last?",
    "Which shape comes second?",
    "What comes second?",
    "Which one is last?",
    "What do you see last?",
)
LAST_OF: Wordings = (*LAST, "What comes after the {s}?")
BEFORE: Wordings = ("What comes before the {s}?", "What appears before the {s}?")

THEN: Wordings = ("And then?", "What comes next?", "And after that?", "Then what?", "And what comes then?")
EARLIER: Wordings = ("And before that?", "And before it?", "What came before?")
AND_WHERE: Wordings = ("Which way?", "In which direction?", "Where does it go?", "And which way?", "Where to?")
AND_COLOUR: Wordings = (
    "And its colour?",
    "And what colour?",
    "And its color?",
    "What colour is it?",
    "And the colour?",
    "Which colour?",
)
AND_SHAPE: Wordings = ("And its shape?", "And what shape?", "What shape is it?", "And the shape?", "Which shape?")
AND_BACKGROUND: Wordings = (
    "And the background?",
    "What about the background?",
    "And what is behind it?",
    "And the background colour?",
)
AND_DIRECTION: Wordings = (
    "And which way does it move?",
    "Where does it move?",
    "And where does it go?",
    "And the direction?",
    "Which way?",
)

IS_THERE: Wordings = ("Is there a {c} {s}?", "Do you see a {c} {s}?", "Can you see a {c} {s}?")
IS_THERE_SHAPE: Wordings = ("Is there a {s}?", "Do you see a {s}?", "Can you see a {s}?")
IS_COLOUR: Wordings = ("Is it {c}?", "Is the {s} {c}?", "Is the shape {c}?")
IS_BACKGROUND: Wordings = ("Is the background {c}?", "Is it {c} in the background?")
DOES_MOVE: Wordings = (
    "Does it move?",
    "Does the shape move?",
    "Is anything moving?",
    "Does anything move?",
    "Does the {s} move?",
    "Is the {s} moving?",
)
DOES_MOVE_TO: Wordings = ("Does it move {d}?", "Does the shape move {d}?", "Does the {s} move {d}?")
DOES_ACT: Wordings = ("Does it {v}?", "Does the shape {v}?", "Does the {s} {v}?")
