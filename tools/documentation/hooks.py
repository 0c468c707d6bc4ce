"""What MkDocs asks while it builds the site: pages that are not files of `docs/` (see `hooks` in mkdocs.yml)."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.documentation.notebooks import notebook_page
from tools.documentation.pages import commands_page, keys_page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of commands, of keys and of notebooks."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/keys.md", content=keys_page()))
    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep an option, and a figure with its spread or interval, on one line; an interval in a table is small."""
    html = re.sub(r"<code>(--\w+)", r'<code><span class="option">\1</span>', html)
    html = re.sub(r"\((\S+) to (\S+)\)", "(\\1\u00a0to\u00a0\\2)", html.replace(" ± ", "\u00a0±\u00a0"))
    return re.sub(r"(<td>\S+) (\([^()<]+\u00a0to\u00a0[^()<]+\))</td>", r"\1 <small>\2</small></td>", html)
