"""What MkDocs asks while it builds the site: pages that are not files of `docs/` (see `hooks` in mkdocs.yml)."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from tools.documentation.notebooks import notebook_page
from tools.documentation.pages import commands_page, keys_page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of commands, of keys and of notebooks."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/keys.md", content=keys_page()))
    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook)))
    return files
