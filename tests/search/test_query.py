"""What a query is asked as, and which words are paths."""

from __future__ import annotations

import pytest

from vllava_cli.answers import Sampling
from vllava_cli.batch.request import Inputs
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Windowing, Wishes
from vllava_cli.search.manner import unsure_of
from vllava_cli.search.query import SearchRequest, questions_of, words_of


@pytest.mark.parametrize(
    ("query", "questions"),
    [
        ("a red circle", "Is there a red circle?"),
        ("  a  dog.", "Is there a dog?"),
        ("smoke", "Is there smoke?"),
        ("a circle moves", "Is there a circle? Does the circle move?"),
        ("a red circle moves left", "Is there a red circle? Does the red circle move left?"),
        ("A man goes away", "Is there A man? Does the man go away?"),
        ("somebody talks", "Does somebody talk?"),
        ("moves left", "Does it move left?"),
        ("a man who talks", "Is there a man who talks?"),
        ("a tree with leaves", "Is there a tree with leaves?"),
        ("a man eating leaves", "Is there a man eating leaves?"),
        ("a building falls", "Is there a building? Does the building fall?"),
        ("a glass", "Is there a glass?"),
        ("two stops", "Is there two stops?"),
        ("Does it rain?", "Does it rain?"),
    ],
)
def test_the_questions_of_a_query(query: str, questions: str) -> None:
    assert " ".join(questions_of(query)) == questions


@pytest.mark.parametrize(
    ("words", "queries", "is_recursive", "found"),
    [
        (["a dog", "clips"], [], False, (("a dog",), ("clips",))),
        (["clips", "-"], ["a dog", "a cat", "a dog"], False, (("a dog", "a cat"), ("clips", "-"))),
        (["x"], ["a dog", "Is there a dog?"], False, (("a dog", "Is there a dog?"), ("x",))),
        (["a dog"], [], True, (("a dog",), (".",))),
        ([], ["a dog"], True, (("a dog",), (".",))),
        ([], [], True, "No query and no path was given"),
        (["a dog"], [], False, "No path was given"),
        ([" ", "clips"], [], False, "A query or a path is empty"),
        (["clips"], [""], False, "A query or a path is empty"),
        (["-", "clips"], [], False, "'-' is a path where the query is expected"),
    ],
)
def test_queries_and_paths(words: list[str], queries: list[str], is_recursive: bool, found: object) -> None:
    if not isinstance(found, str):
        assert words_of(words, queries, is_recursive=is_recursive) == found
        return
    with pytest.raises(UsageError, match=found):
        words_of(words, queries, is_recursive=is_recursive)


@pytest.mark.parametrize(("is_calibrated", "blank"), [(True, "No"), (False, "")])
def test_the_batch_of_a_search(is_calibrated: bool, blank: str) -> None:
    queries = ("a dog", "a dog barks", "Is there a dog?")
    windowing = Windowing(every_s=1)
    search = SearchRequest(
        queries=queries, paths=("-",), wishes=Wishes(), windowing=windowing, is_calibrated=is_calibrated
    )
    batch = search.batch(["a.mp4", "-"])
    assert batch.inputs == Inputs(paths=("a.mp4", "./-"), questions=("Is there a dog?", "Does the dog bark?"))
    assert batch.sampling == Sampling(choices=("Yes", "No"), is_calibrated=is_calibrated, blank_choice=blank)


@pytest.mark.parametrize("text", ["", "0.5", "0.5,0.5", "0.7,0.3", "0,1.5", "a,b", "0,1,2", "-0.1,1"])
def test_ranges_that_are_none(text: str) -> None:
    assert unsure_of(" .3, 1") == (0.3, 1.0) and unsure_of("0,0.75") == (0.0, 0.75)
    with pytest.raises(UsageError, match="is not a range of scores"):
        unsure_of(text)
