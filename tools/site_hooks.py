"""Hooks of mkdocs: pages that are read in the repository, too, and a site that loads nothing.

A link that leads out of docs/ (to an example script, a configuration) becomes its text, since the
site has no such file; one whose text is a file's name, `own_data.md`, is called "own data". Links
between pages are left to mkdocs, which checks them. The built site is checked in the end: scripts,
styles, fonts and images must be its own.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
NAME = re.compile(r"(?:docs/)?(\w+)\.md")
TAGS = re.compile(r"<(?:script|img|iframe|source|link|video|audio|object|embed)\b[^>]*>")
LOADED = re.compile(r"""(?:src|srcset|data|href)=["']?((?:https?:)?//[^"'\s>]+)""")
STYLED = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's Markdown with the links that the site can follow."""
    folder = posixpath.dirname(page.file.src_uri)

    def shown(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if posixpath.normpath(posixpath.join(folder, target)).startswith("../"):
            return text
        name = NAME.fullmatch(text)
        return f"[{name[1].replace('_', ' ') if name else text}]({target}{anchor})"

    return LINK.sub(shown, markdown)


def loaded_from_elsewhere(site: Path) -> list[str]:
    """What the built pages would fetch from another machine, each as "file: address".

    Links that a reader may follow, and the page's own address, are not meant.
    """
    found = []
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = file.read_text(encoding="utf-8")
        urls = STYLED.findall(text)
        for tag in TAGS.findall(text):
            if 'rel="canonical"' not in tag:
                urls += LOADED.findall(tag)
        found += [f"{file.relative_to(site)}: {url}" for url in urls]
    return found


def on_post_build(config: Any, **_: Any) -> None:
    """Refuses a site that loads something from elsewhere."""
    found = loaded_from_elsewhere(Path(config.site_dir))
    if found:
        from mkdocs.exceptions import PluginError

        raise PluginError("the site loads from elsewhere: " + "; ".join(found))
