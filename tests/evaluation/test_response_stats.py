import numpy as np

from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedResponse
from alignjax.evaluation.response_stats import RESPONSE_STATS, response_stats

END = (2, 9)


def responses(*rows):
    prompt = np.array([1], np.int32)
    texts = [[text for text, _ in row] for row in rows]
    tokens = [[TokenizedResponse(prompt, np.array(ids, np.int32)) for _, ids in row] for row in rows]
    return Responses(["prompt"] * len(rows), texts, tokens)


def test_statistics_by_hand():
    drawn = responses(
        [("Sorry, I will not.", [5, 6, 7, 2]), ("of course", [5, 6])],
        # Only an end; an end that is another one, on blanks alone; the second is empty all the same.
        [("", [9]), (" \n", [5, 9])],
    )
    found = response_stats(drawn, END, ("sorry",))
    assert RESPONSE_STATS == ("length", "cut", "empty", "refusals")
    expected = [[[4, 0, 0, 1], [2, 1, 0, 0]], [[1, 0, 1, 0], [2, 0, 1, 0]]]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64


def test_an_end_within_a_response_does_not_end_it():
    # A token of the end's id before the last one: the response was cut.
    np.testing.assert_array_equal(response_stats(responses([("a b c", [2, 5])]), END, ()), [[[2, 1, 0, 0]]])


def test_refusals_are_those_that_are_given():
    drawn = responses([("No. Never.", [5, 2]), ("Sorry", [5, 2])])
    assert response_stats(drawn, END, ("no",))[0, :, 3].tolist() == [1, 0]
    assert response_stats(drawn, END, ("sorry", "no"))[0, :, 3].tolist() == [1, 1]
