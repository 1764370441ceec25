"""How many messages a recovery tick adds."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.job import ShardKey, Stage
from worker.tasks import sample_due


def shards(count: int) -> list[ShardKey]:
    return [ShardKey(UUID(int=1), Stage.SCORE, number) for number in range(count)]


@given(due=st.integers(0, 50), waiting=st.integers(0, 80))
def test_a_tick_never_leaves_more_messages_than_due_shards(due: int, waiting: int) -> None:
    published = sample_due(shards(due), waiting)
    assert len(published) == max(0, due - waiting)
    assert len(set(published)) == len(published)


def test_an_empty_queue_gets_every_due_shard() -> None:
    assert sorted(key.shard_no for key in sample_due(shards(5), 0)) == [0, 1, 2, 3, 4]


def test_every_due_shard_is_published_sooner_or_later() -> None:
    seen = {key.shard_no for _ in range(400) for key in sample_due(shards(5), 4)}
    assert seen == {0, 1, 2, 3, 4}
