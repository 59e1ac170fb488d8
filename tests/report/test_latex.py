"""Tables and figures of reports and comparisons in a LaTeX document, as the guides include them."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from darkroom.runtime.records.results import Task
from tests.fakes.runs import write_run

DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


def write_pages(darkroom: Callable, *tasks: Task) -> None:
    """Write reports of runs of these tasks, and a comparison of two runs of segmentation, in the working folder."""
    reports = [write_run(Path(f"runs/{task} & co_1/0"), task) for task in tasks]
    write_run(Path("runs/other/0"), "segmentation")
    config = Path("runs/other/0/config.yaml")
    config.write_text(config.read_text().replace("init_args: {}", "init_args: {width: 2}"))
    assert darkroom("report", *reports, "--width", "neurips").code == 0
    assert darkroom("compare", "runs/segmentation & co_1/0", "runs/other/0", "--width", "100").code == 0


def _page_width(pdf: Path) -> float:
    """Return the width of a PDF's first page in inches."""
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+)", pdf.read_bytes())
    assert box is not None
    return float(box[1]) / 72


@pytest.mark.slow
def test_charts_have_the_width_of_the_option(darkroom: Callable) -> None:
    write_pages(darkroom, "segmentation")
    [report] = Path("runs").glob("segmentation*/0/report/figures/iou-by-class.pdf")
    assert _page_width(report) == pytest.approx(5.5, abs=0.01)
    assert _page_width(Path("comparison/figures/curve_val_mIoU.pdf")) == pytest.approx(100 / 25.4, abs=0.01)


@pytest.mark.slow
def test_latex_compiles_every_table_and_figure(darkroom: Callable, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex: apt-get install texlive-latex-recommended (Debian)")
    write_pages(darkroom, "classification", "segmentation", "detection")
    for number, path in enumerate(sorted(tmp_path.rglob("*/tables/*.tex"))):  # LaTeX refuses & in paths
        shutil.copy(path, f"table{number}.tex")
    for number, path in enumerate(sorted(tmp_path.rglob("*/figures/*.pdf"))):
        shutil.copy(path, f"figure{number}.pdf")
    tables, figures = sorted(Path().glob("table*.tex")), sorted(Path().glob("figure*.pdf"))
    assert len(tables) > 10
    assert len(figures) > 10
    lines = [rf"\resizebox{{!}}{{5cm}}{{\input{{{path.stem}}}}}" for path in tables]
    lines += [rf"\includegraphics[width=.3\linewidth]{{{path.name}}}" for path in figures]
    Path("paper.tex").write_text(DOCUMENT % "\n\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:]
    assert not re.findall(r"^! .*", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "segmentation", "detection", "captions", "autoencoding"])
def test_template_compiles_as_it_is(darkroom: Callable, task: Task) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex: apt-get install texlive-latex-recommended (Debian)")
    run = write_run(Path("runs/my_run & co/0"), task)
    figure = run / "figures/test_masks/0000030.png"
    figure.parent.mkdir(parents=True)
    Image.new("RGB", (1200, 300)).save(figure)
    assert darkroom("report", run, "--template").code == 0
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=run / "report", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:]
    assert not re.findall(r"^(?:! |Overfull).*", done.stdout, re.MULTILINE)


def test_wrong_width_is_one_message(darkroom: Callable, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        darkroom("report", "runs/x/0", "--width", "wide")
    assert ended.value.code == 2
    assert "argument --width: width must be iccv-column" in capfd.readouterr().err
