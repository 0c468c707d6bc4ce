"""Small models with the names, signatures and released configurations of research code: what adapters are tested on.

Names of parameters, arguments with their defaults, what a forward takes and returns, what is compiled, and where time
begins are those of the code bases. Widths and depths are a fraction of theirs.
"""
