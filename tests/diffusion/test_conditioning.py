from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from tide_lightning.diffusion import Conditioning, Denoiser
from tide_lightning.diffusion.conditioning import PromptCache

LONG = "a red ball on white floor " * 8
CPU = torch.device("cpu")


def test_prompts_equal_the_pipelines_own(denoiser: Denoiser) -> None:
    """What is cut of the padding is masked: the prediction is the same."""
    prompts = ["a red ball", "", LONG]
    ours = denoiser.encode_prompts(prompts)
    tokens, mask, _, _ = denoiser.pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=False, clean_caption=False
    )
    assert ours.mask is not None
    length = ours.tokens.shape[1]
    assert length == 64
    assert mask[:, length:].sum() == 0
    assert torch.equal(ours.mask, mask[:, :length])
    kept = mask[:, :length].bool()
    torch.testing.assert_close(ours.tokens[kept], tokens[:, :length][kept])
    x_t = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    raw_t = torch.tensor([1.0, 500.0, 999.0])
    expected = denoiser.predict(x_t, raw_t, Conditioning(tokens, mask))
    torch.testing.assert_close(denoiser.predict(x_t, raw_t, ours), expected)


def test_a_prompts_bits_depend_on_nothing_else(denoiser: Denoiser) -> None:
    with torch.no_grad():
        alone = denoiser.encode_prompt("a red ball").tokens
    assert torch.equal(denoiser.encode_prompts(["a blue cube", "a red ball"]).tokens[1:], alone)


def test_threads_that_ask_at_once_have_prompts_encoded_one_by_one() -> None:
    """A tokenizer keeps the settings of a call, which another call's would replace."""
    busy = threading.Lock()

    def encode(prompt: str) -> Conditioning:
        assert busy.acquire(blocking=False), "two at once"
        time.sleep(0.001)  # lets other threads in
        busy.release()
        return Conditioning(torch.full((1, 1, 1), float(prompt)))

    cache = PromptCache(encode)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: float(cache([str(number)], CPU).tokens), range(40)))
    assert found == list(range(40))


def test_the_cache_is_bounded() -> None:
    asked: list[str] = []

    def encode(prompt: str) -> Conditioning:
        asked.append(prompt)
        return Conditioning(torch.full((1, 4, 2), float(prompt)), extra={"size": torch.zeros(1, 2)})

    cache = PromptCache(encode, max_bytes=3 * 40)
    assert cache(["1", "2", "1", "3"], CPU).tokens[:, 0, 0].tolist() == [1, 2, 1, 3]
    assert asked == ["1", "2", "3"]
    cache(["1", "4"], CPU)  # the least recently used, 2, goes
    assert cache(["1", "3", "4"], CPU).extra["size"].shape == (3, 2)
    assert asked == ["1", "2", "3", "4"]
    cache(["2"], CPU)
    assert asked[-1] == "2"
