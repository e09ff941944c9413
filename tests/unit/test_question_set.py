"""The questions that the search is measured with."""

from collections import Counter

from benchmarks.home import questions, things
from custom_components.home_agent.search.lexical import query_words


def test_the_question_set() -> None:
    """Large enough, about all of the home, and paraphrases are such."""
    home = {thing.key: thing for thing in things()}
    asked = list(questions())
    assert len(asked) >= 150
    assert len({question.text for question in asked}) == len(asked)
    areas = {home[key].area for question in asked for key in question.answers}
    assert areas == {thing.area for thing in home.values()}
    assert len(areas) == 15
    kinds = Counter(question.kind for question in asked)
    assert kinds.keys() == {"direct", "paraphrase", "implied", "german", "typo"}
    assert min(kinds.values()) >= 15
    for question in asked:
        if question.kind != "paraphrase":
            continue
        said = set(query_words(question.text))
        for key in question.answers:
            thing = home[key]
            names = " ".join((thing.name, *thing.aliases, thing.area))
            assert not said & set(query_words(names)), question
