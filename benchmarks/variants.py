"""The variants of TideSAE that `benchmarks/ablation.py` compares."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.configs import sae_of

COMMON: dict[str, Any] = sae_of("quickstart")["init_args"]
"""The quickstart's."""
NO_SAMPLING = "no token sampling"
DEFAULT = "TideSAE (the default)"

VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no pursuit": {"pursuits": 0},
    "three rounds of pursuit": {"pursuits": 3},
    "no refinement": {"refinements": 0},
    "neither pursuit nor refinement": {"refinements": 0, "pursuits": 0},
    "16 latents for every token": {"budget": "token"},
    "a budget blind to time": {"budget_over_time": 0.0},
    "a quarter of the budget by time": {"budget_over_time": 0.25},
    "half of the budget by time": {"budget_over_time": 0.5},
    "all of the budget by time": {"budget_over_time": 1.0},
    "one scale for all times": {"scale_by_timestep": False},
    "one scale for all times, a tenth of the budget by time": {"scale_by_timestep": False, "budget_over_time": 0.1},
    "encoder rows of norm 1 at the start": {"encoder_norm": 1.0},
    "nine tenths of the error by sensitivity": {"fidelity_weight": 0.9},
    "half of the error by sensitivity": {"fidelity_weight": 0.5},
    "plain squared error": {"fidelity_weight": 0.0},
    "all times weighted alike": {"scale_by_timestep": True},
    "modulation from zero": {"modulation": "zero"},
    "no modulation": {"modulation": "none"},
    "un-modulated decoding": {"unmodulate": True},
    "no timestep at all": {"modulation": "none", "num_bins": 1},
    "TopK, mean and scale per timestep": {
        "modulation": "none",
        "known_part": "mean_t",
        "scale_by_timestep": True,
        "fidelity_weight": 0.0,
        "refinements": 0,
        "pursuits": 0,
        "budget": "token",
        "encoder_norm": 1.0,
        "expansion_factor": 16.5,  # as many parameters as with the modulation's MLP
    },
    "known: mean": {"known_part": "mean"},
    "known: mean_t": {"known_part": "mean_t"},
    "known: mean_t_position": {"known_part": "mean_t_position"},
    "known: noise_token (leaks)": {"known_part": "noise_token"},
    NO_SAMPLING: {},
    "no AuxK, no resampling": {},
    "no pursuit, no AuxK": {"pursuits": 0},
    "no pursuit, no resampling": {"pursuits": 0},
    "no pursuit, no AuxK, no resampling": {"pursuits": 0},
}


class Table(NamedTuple):
    """What the SAEs of a table have in common, and how they vary.

    Fields:
        unvaried: what the SAE is called that does not vary.
        arguments: where it differs from the quickstart's.
        variants: the rows.
    """

    unvaried: str
    arguments: dict[str, Any]
    variants: list[str]


_PARTS = [
    DEFAULT,
    "no refinement",
    "16 latents for every token",
    "encoder rows of norm 1 at the start",
    "plain squared error",
    "no modulation",
    "known: mean",
]

TABLES = {
    "default": Table(
        DEFAULT,
        {},
        [
            DEFAULT,
            "one scale for all times",
            "one scale for all times, a tenth of the budget by time",
            "half of the budget by time",
            "all of the budget by time",
            "half of the error by sensitivity",
            "no refinement",
        ],
    ),
    "one_scale": Table(
        "TideSAE, one scale for all times",
        {"scale_by_timestep": False, "budget_over_time": 0.1},
        [
            DEFAULT,
            "a budget blind to time",
            "a quarter of the budget by time",
            "nine tenths of the error by sensitivity",
        ],
    ),
    "parts": Table(
        "TideSAE, nine tenths by sensitivity, blind to time",
        {"fidelity_weight": 0.9, "budget_over_time": 0.0, "scale_by_timestep": False},
        [
            *_PARTS,
            "no pursuit",
            "three rounds of pursuit",
            "neither pursuit nor refinement",
            "half of the error by sensitivity",
            "all times weighted alike",
            *(name for name in VARIANTS if name.startswith(("no AuxK", "no pursuit, no"))),
        ],
    ),
    "without_pursuit": Table(
        "encoder-only",
        {"pursuits": 0, "fidelity_weight": 0.5, "budget_over_time": 0.0, "scale_by_timestep": False},
        [
            *_PARTS,
            "modulation from zero",
            "un-modulated decoding",
            "no timestep at all",
            "TopK, mean and scale per timestep",
            *(name for name in VARIANTS if name.startswith("known: ") and name not in _PARTS),
            NO_SAMPLING,
        ],
    ),
}
"""The tables, each in a file of its own."""
