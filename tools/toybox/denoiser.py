"""The diffusion transformer: PixArt's own architecture in miniature, and its training.

B images, C = 4 latent channels, L tokens of a prompt.
"""

from typing import Final

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.optim import Optimizer

from tools.toybox.caches import LatentCache
from tools.toybox.fitting import ToyModule
from tools.toybox.muon import MuonAdamW

NUM_TIMESTEPS: Final = 1000
MUON_RATE: Final = 0.008  # peak learning rate of the blocks' matrices
UNTOLD: Final = 0.12  # share of prompts replaced by the empty one
GAMMA: Final = 5  # cap of the signal-to-noise ratio in the loss (Hang et al., arXiv 2303.09556)


def build_transformer(num_layers: int, caption_width: int = 128) -> PixArtTransformer2DModel:
    """An untrained PixArtTransformer2DModel on 64 tokens, initialised as DiT is."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        out_channels=8,
        num_layers=num_layers,
        cross_attention_dim=128,
        sample_size=16,
        patch_size=2,
        caption_channels=caption_width,
    )
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def build_scheduler() -> DPMSolverMultistepScheduler:
    """The scheduler that PixArt-alpha ships: DPM-Solver++ over 1000 linear betas."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        solver_order=2,
        prediction_type="epsilon",
    )


class DenoiserModule(ToyModule):
    """Predict the noise; min-SNR weights, and now and then the empty prompt.

    `scale` brings latents to unit standard deviation; `compile_network` fuses the pointwise parts.
    """

    network: PixArtTransformer2DModel
    ema: PixArtTransformer2DModel

    def __init__(
        self,
        cache: LatentCache,
        scale: float,
        *,
        num_steps: int,
        batch_size: int,
        num_layers: int,
        seed: int = 0,
        compile_network: bool = False,
    ) -> None:
        network = build_transformer(num_layers, caption_width=cache.text_ULD.shape[-1])
        # Without a fused kernel: its backward on a CPU takes half of a step at this size.
        network.set_attn_processor(AttnProcessor())
        super().__init__(network, num_steps=num_steps, warmup_steps=500, ema_decay=0.9995, seed=seed)
        self.cache = cache
        self.scale = scale
        self.batch_size = batch_size
        # In a list, so that the compiled twin is not registered as a second network.
        self._forward = [torch.compile(network) if compile_network else network]
        self.alphas_cumprod = build_scheduler().alphas_cumprod

    def build_optimizer(self) -> Optimizer:
        """Muon for the blocks' matrices, AdamW for embeddings, vectors and the output."""
        blocks = [p for p in self.network.transformer_blocks.parameters() if p.ndim == 2 and min(p.shape) > 6]
        chosen = {id(p) for p in blocks}
        others = [p for p in self.network.parameters() if id(p) not in chosen]
        return MuonAdamW(
            [
                {"params": blocks, "muon": True, "lr": MUON_RATE, "weight_decay": 0.01},
                {"params": others, "lr": self.learning_rate},
            ]
        )

    def training_step(self, _: int) -> Tensor:
        """One step; scenes, captions, timesteps and noise follow from the step number."""
        generator = self.generator()
        batch = self.batch_size
        index = torch.randint(len(self.cache.latents_NCHW), (batch,), generator=generator)
        variant = torch.randint(self.cache.captions_NV.shape[1], (batch,), generator=generator)
        dropped_B = torch.rand(batch, generator=generator) < UNTOLD
        caption_B = self.cache.captions_NV[index, variant].masked_fill(dropped_B, 0)
        text_BLD = self.cache.text_ULD[caption_B].float()
        mask_BL = (torch.arange(text_BLD.shape[1]) < self.cache.lengths_U[caption_B, None]).long()
        # Stratified: each batch covers the whole range of timesteps.
        u_B = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        t_B = (u_B * NUM_TIMESTEPS).long().clamp(max=NUM_TIMESTEPS - 1)
        clean_BCHW = self.cache.latents_NCHW[index].float() * self.scale
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator)
        alpha_B = self.alphas_cumprod[t_B]
        noisy_BCHW = (
            alpha_B.sqrt()[:, None, None, None] * clean_BCHW + (1 - alpha_B).sqrt()[:, None, None, None] * noise_BCHW
        )
        text_BLD, mask_BL, t_B, noisy_BCHW, noise_BCHW, alpha_B = (
            x.to(self.device) for x in (text_BLD, mask_BL, t_B, noisy_BCHW, noise_BCHW, alpha_B)
        )
        predicted = self._forward[0](
            noisy_BCHW,
            encoder_hidden_states=text_BLD,
            encoder_attention_mask=mask_BL,
            timestep=t_B,
            added_cond_kwargs={},
            return_dict=False,
        )[0]
        # The upper four channels stand for the variance, which PixArt's pipeline never reads.
        error_B: Tensor = (predicted[:, :4].float() - noise_BCHW).square().mean((1, 2, 3))
        snr_B = alpha_B / (1 - alpha_B)
        loss: Tensor = (error_B * (GAMMA / snr_B).clamp(max=1)).mean()
        self.log_dict({"loss": loss.detach(), "mse": error_B.detach().mean()})
        return loss
