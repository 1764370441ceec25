"""Windows and micro-batches: nothing lost, nothing too long."""

from hypothesis import given
from hypothesis import strategies as st

from routoo.predictor.backbone.batching import micro_batches
from routoo.predictor.backbone.window import MAX_CHARACTERS, Window, bounded, clean


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2000))
def test_every_sequence_is_in_one_batch_and_batches_keep_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = list(micro_batches(lengths, budget))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[position] for position in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_a_prompt_that_fits_is_scored_whole() -> None:
    window = Window(10, prefix=(1,), suffix=(2,))
    assert window.enclose(range(100, 108)) == ([1, *range(100, 108), 2], False)


def test_a_longer_prompt_keeps_its_head_and_its_tail() -> None:
    window = Window(6, prefix=(1,), suffix=(2,))
    assert window.enclose(range(100, 200)) == ([1, 100, 101, 198, 199, 2], True)


def test_an_odd_window_gives_the_tail_the_token_more() -> None:
    assert Window(5, prefix=(1,), suffix=(2,)).enclose(range(10)) == ([1, 0, 8, 9, 2], True)


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert clean("a\ud800b") == "a\N{REPLACEMENT CHARACTER}b"


def test_a_pair_of_code_points_beyond_the_first_plane_stays() -> None:
    assert clean("\N{GRINNING FACE}") == "\N{GRINNING FACE}"


def test_a_huge_prompt_is_cut_to_its_ends_before_it_is_tokenised() -> None:
    text, cut = bounded("a" * 100_000 + "b" * 100_000)
    assert cut
    assert len(text) == MAX_CHARACTERS + 1
    assert (text[0], text[-1]) == ("a", "b")
