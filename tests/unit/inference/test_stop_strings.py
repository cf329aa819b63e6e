"""Stop strings, against searching the whole text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.inference.stop_strings import StopStrings


def test_beginning_of_a_stop_is_held_back_until_it_is_clear() -> None:
    stops = StopStrings(["\nUser:", "END"])
    assert stops.push("hello\nUs") == "hello"
    assert stops.push("ed E") == "\nUsed "
    assert stops.push("N") == ""
    assert stops.push("D more") == ""
    assert stops.found == "END"
    assert stops.push("again") == stops.flush() == ""


def test_what_was_held_back_comes_at_the_end() -> None:
    stops = StopStrings(["abc"])
    assert stops.push("xab") + stops.flush() == "xab"
    assert stops.found is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_pieces_give_what_the_whole_text_gives(pieces: list[str], stops: list[str]) -> None:
    """The shown text ends at the stop that is complete first, wherever the text was cut."""
    whole = "".join(pieces)
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    streamed = StopStrings(stops)
    shown = "".join(streamed.push(piece) for piece in pieces) + streamed.flush()
    assert whole.startswith(shown)
    assert (streamed.found is None) == (not ends)
    if ends:
        assert not any(stop in shown for stop in stops)
        assert len(shown) <= min(ends)
        assert whole[len(shown) :].startswith(streamed.found or "?")
    else:
        assert shown == whole
