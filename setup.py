"""README.md as the package registry shows it; everything else is in pyproject.toml.

Its links lead to files beside it. The registry has no files, so there they lead to the repository.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def absolute(readme: str, source: str) -> str:
    """Markdown whose relative links lead to the repository at `source`, pictures to raw files."""

    def link(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if target is None:  # code
            return match[0]
        if re.match(r"[a-z][a-z0-9+.-]*:|//|#", target, re.IGNORECASE):
            return match[0]
        kind = "raw" if picture else "blob"
        return f"{picture}[{text}]({source}/{kind}/HEAD/{target.removeprefix('./')})"

    return re.sub(r"(?s)```.*?```|`[^`]*`|(!?)\[([^\[\]]*)\]\(([^()\s]+)\)", link, readme)


if __name__ == "__main__":
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    setup(
        long_description=absolute(
            (HERE / "README.md").read_text("utf-8"), project["urls"]["Source"]
        ),
        long_description_content_type="text/markdown",
    )
