"""The prompt's way in: a word-list tokenizer, a two-layer T5 encoder, and how it learns to read.

PixArt's text encoder is frozen while the transformer trains, and so is ours. It is trained before, alone, so
that every token's output tells linearly what the whole prompt says; cross-attention then finds the
factors wherever it looks, which saves the transformer thousands of steps.
"""

from typing import Final

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tide_lightning.grounds.toybox.captions import WORDS, caption_scenes, parse
from tide_lightning.grounds.toybox.factors import FACTORS, MAX_OBJECTS, OBJECT_FACTORS
from tide_lightning.grounds.toybox.world import draw_scenes
from tools.toybox.fitting import ToyModule

MAX_WORDS: Final = 32
"""No caption is longer, end of sentence included."""

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the grammar; anything else is unknown."""
    vocabulary = {word: i for i, word in enumerate((_PAD, _END, _UNKNOWN, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, vocabulary[_END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        model_max_length=120,
    )


def build_text_encoder(width: int = 128) -> T5EncoderModel:
    """An untrained T5 encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(WORDS) + 3,
            d_model=width,
            d_kv=width // 4,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=48,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    """Token numbers, padded to MAX_WORDS."""
    batch = tokenizer(captions, padding="max_length", max_length=MAX_WORDS, truncation=True, return_tensors="pt")
    ids: Tensor = batch["input_ids"]
    return ids


def targets(captions: list[str]) -> Tensor:
    """What each caption says as numbers, 0 for not mentioned: [B, 2 slots x 5 factors, then 2]."""
    rows = []
    for caption in captions:
        said = parse(caption)
        row = [
            FACTORS[name].index(o[name]) + 1 if name in o else 0
            for o in (*said.objects, *({},) * MAX_OBJECTS)[:MAX_OBJECTS]
            for name in OBJECT_FACTORS
        ]
        row += [FACTORS[name].index(said.scene[name]) + 1 if name in said.scene else 0 for name in ("wall", "light")]
        rows.append([*row, len(said.objects)])
    return torch.tensor(rows)


class TextReader(nn.Module):
    """The encoder with one linear read-out a target, applied to every token."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.encoder = build_text_encoder(width)
        factors = [*OBJECT_FACTORS] * MAX_OBJECTS + ["wall", "light"]
        sizes = [len(FACTORS[name]) + 1 for name in factors] + [MAX_OBJECTS + 1]
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)


class TextModule(ToyModule):
    """Teach the encoder that every token tells the whole prompt."""

    network: TextReader

    def __init__(
        self,
        *,
        num_steps: int,
        batch_size: int = 64,
        width: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(
            TextReader(width),
            num_steps=num_steps,
            learning_rate=2e-3,
            decay_share=0.5,
            ema_decay=0.99,
            seed=seed,
        )
        self.batch_size = batch_size
        self.tokenizer = build_tokenizer()

    def training_step(self, _: int) -> Tensor:
        """One step on new captions of training scenes, and one empty prompt in 32."""
        first = (1 << 24) + self.global_step * self.batch_size
        index = torch.arange(first, first + self.batch_size)
        labels, _layout = draw_scenes("train", index, self.seed)
        captions = caption_scenes(labels, index, split="train", seed=self.seed)
        captions[::32] = [""] * len(captions[::32])
        ids = tokenize(self.tokenizer, captions).to(self.device)
        mask = ids != 0
        hidden = self.network.encoder(ids, attention_mask=mask).last_hidden_state
        target = targets(captions).to(self.device)
        losses = []
        for column, head in enumerate(self.network.heads):
            logits = head(hidden[mask]).float()
            wanted = target[:, column, None].expand_as(ids)[mask]
            losses.append(cross_entropy(logits, wanted))
        loss = torch.stack(losses).mean()
        self.log("loss", loss.detach())
        return loss
