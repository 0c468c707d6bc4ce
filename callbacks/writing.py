"""`tide predict`: every token's active latents, streamed to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from lightning import Callback, LightningModule, Trainer

from tide_lightning.callbacks.code_files import CodeWriter, Format, open_writer
from tide_lightning.diffusion import folder_name, unlabelled
from tide_lightning.errors import UserError


class WriteCodes(Callback):  # not a BasePredictionWriter, which warns of loaders without a batch sampler
    """Writes the codes of `tide predict`: `<folder>/<site>/rank-<rank>-of-<ranks>.<format>`.

    A file appears when it is complete. `read_codes` reads one, or all ranks' at once, back into a `SparseCode`.

    Args:
        format: parquet (for pandas, polars, DuckDB) or safetensors (for tensors).
        folder: where to; `codes` in the run's folder unless given.
    """

    def __init__(self, format: Format = "parquet", folder: str | None = None) -> None:
        if format not in get_args(Format):
            raise UserError(f"WriteCodes: there is no format {format!r}; choose one of {', '.join(get_args(Format))}")
        self.format, self.folder = format, folder
        self._folder = Path()
        self._writers: dict[str, CodeWriter] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Codes go to disk and are not collected in memory as well."""
        if stage == "predict":
            trainer.predict_loop.return_predictions = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See where the run is, while all ranks are here to agree."""
        self._folder = Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "codes")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append each site's codes."""
        tokens = batch if isinstance(batch, dict) else batch.tokens  # held-out batches bring their call along
        for site, code in outputs.items():
            if site not in self._writers:
                name = f"rank-{trainer.global_rank}-of-{trainer.world_size}.{self.format}"
                self._writers[site] = open_writer(self._folder / folder_name(site) / name, site, code.num_latents)
            self._writers[site].write(tokens[unlabelled(site)], code)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the files, and say where they lie."""
        while self._writers:
            self._writers.popitem()[1].close()
        if trainer.is_global_zero:
            print(f"written  {self._folder}: the codes of each site", flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Half a file is worse than none."""
        while self._writers:
            self._writers.popitem()[1].abort()
