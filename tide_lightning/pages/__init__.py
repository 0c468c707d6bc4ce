"""What the pages share (the report, the atlas, the page of `tide play`): one stylesheet, light and dark."""

from importlib.resources import files

STYLESHEET = files(__name__).joinpath("tide.css").read_text(encoding="utf-8")
"""Colours, type, tables, fields. Each page adds its own layout."""

REPORT_STYLE = files(__name__).joinpath("report.css").read_text(encoding="utf-8")
"""That of the report, whose page holds everything itself."""
