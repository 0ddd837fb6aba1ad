"""The page: one self-contained HTML file with pictures and numbers."""

import base64
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from imagegram.files import atomic
from imagegram.report.plots import frontier, novelty
from imagegram.report.runs import COLUMNS, Run, mark_best


def embedded(file: Path) -> str:
    """A picture as a data: URL, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def write_page(path: Path, runs: list[Run], **content: Any) -> None:
    """Render page.html.j2 into one HTML file, with its plots beside it."""
    mark_best(runs)
    plots = {}
    if all("coherence" in run.figures for run in runs):
        plots = {"frontier": path.with_name("frontier.png"), "novelty": path.with_name("novelty.png")}
        frontier(plots["frontier"], runs)
        novelty(plots["novelty"], runs, content["control"]["novelty"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["embedded"] = embedded
    content |= {"columns": COLUMNS, "runs": runs, "plots": plots}
    content["uniform_bits"] = np.log2(content["manifest"].vocab_size)
    with atomic(path) as temporary:
        temporary.write_text(environment.get_template("page.html.j2").render(**content))
