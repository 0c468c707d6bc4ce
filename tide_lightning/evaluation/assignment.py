"""The assignment problem: pairs of rows and columns, each taken once, whose scores add up to the most.

Solved as the Hungarian algorithm solves it, to within a tolerance, by an auction (Bertsekas): rows bid for the columns
that they want most, by how much less they want the second best; whoever bids most holds a column until outbid.

Shapes: F rows, G columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""What the mean score of a pair may lack of the best."""


def assign(scores_FG: Tensor) -> Tensor:
    """The column of each row [F]; -1 for rows that go without, where there are more rows than columns."""
    num_rows, num_columns = scores_FG.shape
    if num_rows > num_columns:
        rows = assign(scores_FG.mT)
        columns = torch.full((num_rows,), -1, device=rows.device)
        columns[rows] = torch.arange(num_columns, device=rows.device)
        return columns
    prices = scores_FG.new_zeros(num_columns)
    holder = torch.full((num_columns,), -1, device=scores_FG.device)
    column = torch.full((num_rows,), -1, device=scores_FG.device)
    while len(bidders := (column < 0).nonzero().squeeze(1)):
        values, wanted = (scores_FG[bidders] - prices).topk(min(2, num_columns), dim=1)
        bids = prices[wanted[:, 0]] + values[:, 0] - values[:, -1] + TOLERANCE
        highest = torch.full_like(prices, float("-inf")).scatter_reduce(0, wanted[:, 0], bids, "amax")
        winners = (bids == highest[wanted[:, 0]]).nonzero().squeeze(1)
        taken = wanted[winners, 0]
        holder_before = holder[taken]
        column[holder_before[holder_before >= 0]] = -1
        holder[taken] = bidders[winners]  # of equal bids one is kept, and the others bid again
        column[holder[taken]] = taken
        prices[taken] = highest[taken]
    return column
