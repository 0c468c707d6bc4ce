from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tide_lightning.grounds.toybox import FACTORS, OBJECT_FACTORS, Mentions, parse, unknown_words
from tide_lightning.grounds.toybox.captions import WORDS, caption_scenes, compose, describe, is_reserved
from tide_lightning.grounds.toybox.world import draw_scenes
from tools.toybox.text import MAX_WORDS, build_tokenizer, tokenize


def subset(names: Iterable[str]) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(FACTORS[name]) for name in names})


mentions = st.builds(
    Mentions,
    st.lists(subset(OBJECT_FACTORS), min_size=1, max_size=2).map(tuple),
    subset(("wall", "light")),
)


@given(mentions, st.booleans())
@settings(max_examples=200, deadline=None)
def test_parse_undoes_compose(said: Mentions, light_first: bool) -> None:
    caption = compose(said, light_first=light_first)
    assert parse(caption) == said
    assert unknown_words(caption) == []


def test_the_readme_example() -> None:
    said = parse("a large red cube on the left, lit from the right")
    assert said.objects == ({"size": "large", "colour": "red", "shape": "cube", "place": "left"},)
    assert said.scene == {"light": "right"}
    assert parse("") == Mentions((), {})


@pytest.mark.parametrize("caption", ["two cubes", "a red cube, at night", "a cube red", "a ball"])
def test_outside_the_grammar_is_an_error(caption: str) -> None:
    with pytest.raises(ValueError, match="grammar"):
        parse(caption)


def test_unknown_words_are_listed_once_in_order() -> None:
    assert unknown_words("A frosty RED cube, by a frosty lake") == ["frosty", "by", "lake"]


def test_captions_are_true_of_their_scenes() -> None:
    index = torch.arange(600)
    labels, _ = draw_scenes("train", index)
    for i, caption in enumerate(caption_scenes(labels, index, split="train")):
        said = parse(caption)
        truth = describe([field[i].tolist() for field in labels])
        assert said.scene.items() <= truth.scene.items()
        assert len(said.objects) == len(truth.objects)
        orders = [truth.objects, truth.objects[::-1]]
        assert any(
            all(part.items() <= whole.items() for part, whole in zip(said.objects, order, strict=True))
            for order in orders
        )


def test_training_never_sees_a_reserved_caption_and_variants_differ() -> None:
    index = torch.arange(3000)
    labels, _ = draw_scenes("train", index)
    captions = [caption_scenes(labels, index, split="train", variant=v) for v in range(2)]
    assert not any(is_reserved(c, parse(c).num_factors) for c in captions[0] + captions[1])
    assert sum(a != b for a, b in zip(*captions, strict=True)) > 2000
    again = caption_scenes(labels.take(slice(100, 200)), index[100:200], split="train")
    assert again == captions[0][100:200]


def test_every_caption_fits_the_tokenizer_and_has_no_unknown_token() -> None:
    index = torch.arange(3000)
    labels, _ = draw_scenes("test", index)
    tokenizer = build_tokenizer()
    captions = caption_scenes(labels, index, split="test")
    ids = tokenize(tokenizer, captions)
    assert ids.shape == (3000, MAX_WORDS)
    assert not (ids == tokenizer.unk_token_id).any()
    assert ((ids == tokenizer.eos_token_id).sum(1) == 1).all(), "nothing was cut off"
    assert len(set(WORDS)) == len(WORDS)
