"""The model card of a published run: what it is, what was measured, how it is loaded and cited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from tide_lightning.evaluation import headlines

_CITATION = """\
@inproceedings{tide,
  title     = {TIDE: Temporal-Aware Sparse Autoencoders for Interpretable Diffusion Transformers in Image Generation},
  author    = {Huang, Victor Shea-Jay and Zhuo, Le and Xin, Yi and others},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2026},
  note      = {arXiv:2503.07050}
}"""


class Described(NamedTuple):
    """What a card is made of; of a run that was not tested there are no metrics.

    `base_model` is the denoiser's hub id, or what else names it; `saes` has by site what stands in a table, `pictures`
    those of the report by what they show.
    """

    repository: str
    base_model: str
    on_the_hub: bool
    license: str
    saes: Mapping[str, Sequence[str]]
    adopted: bool
    metrics: Mapping[str, Any]
    pictures: Mapping[str, str]
    version: str


def model_card(card: Described) -> str:
    """Markdown, with the metadata that the hub reads at its head."""
    data = ModelCardData(
        license=card.license,
        library_name="tide-lightning",
        base_model=card.base_model if card.on_the_hub else None,
        tags=["sparse-autoencoder", "interpretability", "diffusion-transformer"],
    )
    first = next(iter(card.saes))
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {card.repository.partition('/')[2]}",
        f"Sparse autoencoders for {len(card.saes)} {_plural('site', card.saes)} of `{card.base_model}`, "
        + ("adopted as a run of" if card.adopted else "trained with")
        + f" tide-lightning {card.version}.",
        _markdown(["site", "class", "latents", "channels", "k", "known part"], [[k, *v] for k, v in card.saes.items()]),
        "## Figures",
        *_figures(card.metrics),
        *(f"![{what}]({path})" for what, path in card.pictures.items()),
        "## Use",
        "```python\n"
        "from tide_lightning.saes import SAE\n\n"
        f'sae = SAE.from_pretrained("{card.repository}", site="{first}")\n'
        "```",
        "```\n"
        f"tide test --run {card.repository}\n"
        f"tide atlas {card.repository}\n"
        f'tide steer {card.repository} --prompt "…" --latent {first}/0\n'
        "```",
        "## Cite",
        f"The method, and this repository by its address:\n\n```bibtex\n{_CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("sites"):
        return ["These SAEs were not tested; `tide test` does it."]
    overview, floors = headlines.overview(metrics), headlines.floors(metrics)
    remarks = [*headlines.faults(metrics), *headlines.reservations(metrics), *headlines.cuts(metrics)]
    found = [_markdown(overview.head, overview.rows), overview.note]
    found += ["What is cheaper than an SAE:", _markdown(floors.head, floors.rows), floors.note] if floors.rows else []
    return [*found, *(f"- {remark}" for remark in remarks), "All figures: `metrics.json` and `report/index.html`."]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _plural(word: str, of: Mapping[str, object]) -> str:
    return word if len(of) == 1 else f"{word}s"
