import pytest
import torch
from torch.utils.data import DataLoader

from tide_lightning.grounds.toybox import (
    ABSENT,
    HELD_OUT_PAIRS,
    Scenes,
    Split,
    held_out_prompts,
    parse,
    prompt_file,
    prompts,
    warn_unknown_words,
)
from tide_lightning.grounds.toybox.captions import caption_scenes, shows_held_out
from tide_lightning.grounds.toybox.world import draw_scenes


def test_items_batches_and_loaders_agree() -> None:
    scenes = Scenes("validation", num_scenes=6)
    assert len(scenes) == len([scenes[i] for i in range(6)]) == 6
    batch = scenes.__getitems__([4, 1])
    torch.testing.assert_close(batch[0]["image"], scenes[4]["image"], rtol=0, atol=2e-6)
    assert batch[1]["prompt"] == scenes[1]["prompt"]
    loaded = next(iter(DataLoader(scenes, batch_size=3)))
    assert loaded["image"].shape == (3, 3, 64, 64)
    assert loaded["image"].dtype == torch.float32
    assert loaded["prompt"] == scenes.prompts([0, 1, 2])
    labels, rendered = scenes.labels([3]), scenes.rendered([3])
    assert all(torch.equal(a, b) for a, b in zip(labels, rendered.labels, strict=True))


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="take one of train, validation"):
        Scenes("holiday")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="there are 3"):
        Scenes("train", num_scenes=3)[3]
    with pytest.raises(ValueError, match="'train' or 'test'"):
        prompt_file("validation")


def test_test_prompts_were_never_used_in_training() -> None:
    held_out = held_out_prompts(512)
    assert len(set(held_out)) == 512
    assert held_out[:100] == held_out_prompts(100)
    assert all(len(parse(prompt).objects) == 1 for prompt in held_out)
    assert 60 < sum(shows_held_out(parse(prompt)) for prompt in held_out) < 260
    index = torch.arange(20_000)
    labels, _ = draw_scenes("train", index)
    assert not set(held_out) & set(caption_scenes(labels, index, split="train"))


def test_two_object_prompts_and_training_prompts() -> None:
    assert all(len(parse(p).objects) == 2 for p in prompts(20, split="test", num_objects=2))
    assert not any(shows_held_out(parse(p)) for p in prompts(500))
    assert prompts(5, seed=1) != prompts(5, seed=2)
    assert len(HELD_OUT_PAIRS) == 4
    assert ABSENT == -1


@pytest.mark.parametrize(("split", "count"), [("train", 2048), ("test", 512)])
def test_prompt_files_hold_what_the_functions_give(split: Split, count: int) -> None:
    lines = prompt_file(split).read_text().splitlines()
    assert lines == (prompts(count) if split == "train" else held_out_prompts(count))


def test_unknown_words_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="unknown: frosty, lake"):
        assert warn_unknown_words(["a frosty cube", "a red cube", "a lake"]) == ["frosty", "lake"]
    assert warn_unknown_words(["a red cube"]) == []
