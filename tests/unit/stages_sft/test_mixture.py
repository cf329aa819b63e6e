from __future__ import annotations

import random
from collections import Counter

from llmpipe.assistant.conversation import Conversation, ask
from llmpipe.stages.sft.clean import deduplicate
from llmpipe.stages.sft.generators import Pool
from llmpipe.stages.sft.mixture import (
    MAX_JOINED,
    MixtureSource,
    join,
    mix,
    split_held_out,
)


def pool(name: str, n: int) -> Pool:
    return Pool([ask(f"{name} {i}?", f"{i}", name) for i in range(n)], [])


def source(name: str, n: int, weight: float, max_epochs: float = 100.0) -> Source:
    return MixtureSource(name, pool(name, n), weight, max_epochs, is_own=True)


def test_weights_decide_the_counts() -> None:
    sources = [source("a", 1000, 3.0), source("b", 1000, 1.0)]
    mixed, shares = mix(sources, 400, 0.0, random.Random(1))
    assert Counter(c.source for c in mixed) == {"a": 300, "b": 100}
    assert [share.n_used for share in shares] == [300, 100]
    assert shares[0].epochs == 0.3


def test_small_sources_are_repeated_in_whole_passes() -> None:
    mixed, _ = mix([source("a", 7, 1.0)], 17, 0.0, random.Random(1))
    counts = Counter(c.messages for c in mixed)
    assert sorted(counts.values()) == [2] * 4 + [3] * 3


def test_repetition_is_bounded() -> None:
    mixed, shares = mix([source("a", 10, 1.0, max_epochs=2.5)], 100, 0.0, random.Random(1))
    assert len(mixed) == shares[0].n_used == 25


def test_mixture_follows_from_the_seed() -> None:
    def mixed(seed: int) -> list[Conversation]:
        return mix([source("a", 20, 1.0), source("b", 5, 2.0)], 30, 0.5, random.Random(seed))[0]

    assert mixed(1) == mixed(1)
    assert mixed(1) != mixed(2)


def test_joining_loses_no_question() -> None:
    single = pool("a", 50).train + pool("b", 50).train
    joined = join(single, 0.6, random.Random(1))
    before = [message for c in single for message in c.messages]
    after = [message for c in joined for message in c.messages]
    assert Counter(map(repr, after)) == Counter(map(repr, before))
    assert max(len(c.messages) for c in joined) <= 2 * MAX_JOINED
    assert sum(len(c.messages) == 2 for c in joined) <= 41  # 40, and perhaps a rest of one


def test_duplicates_go_over_all_sources() -> None:
    first = MixtureSource("a", Pool([ask("Hi", "Hello", "a")] * 3, []), 1.0, 1.0, is_own=True)
    second = MixtureSource("b", Pool([ask("Hi", "Hello", "b")], []), 1.0, 1.0, is_own=True)
    kept, n_dropped = deduplicate([first, second])
    assert [len(s.pool.train) for s in kept] == [1, 0]
    assert n_dropped == 3


def test_what_is_held_out_is_not_trained() -> None:
    conversation = ask("Hi", "Hello", "a")
    examined = MixtureSource("a", Pool([], [conversation]), 1.0, 1.0, is_own=True)
    trained = MixtureSource("b", Pool([conversation], []), 1.0, 1.0, is_own=True)
    kept, n_dropped = deduplicate([trained, examined])
    assert (kept[0].pool.train, n_dropped) == ([], 1)


def test_held_out_share_of_a_file() -> None:
    split = split_held_out(pool("a", 2000).train, 0.1)
    assert 150 < len(split.held_out) < 250
    assert len(split.train) + len(split.held_out) == 2000
