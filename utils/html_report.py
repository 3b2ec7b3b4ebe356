"""The report of an evaluation as one HTML page that needs no other file and no JavaScript."""

from __future__ import annotations

import base64
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path

from evaluation import Evaluator
from utils.checkpoint import checkpoint_folder, read_meta
from utils.cli import ROOT
from utils.datasets import Split
from utils.figures import detection_figure
from utils.logs import EpochRecord
from utils.plots import save_comparison, save_loss_curve, save_score_curves
from utils.reports import (
    HIOU_ERRORS,
    STRICT_TABLE,
    TABLE,
    THIS_RUN,
    Result,
    comparison_notes,
    comparison_table,
    error_table,
    score_rows,
    word_columns,
)
from utils.scoring import mat_folder, read_predictions, save_worst, some_rows, write_text

PACKAGES = ("jittor", "numpy", "scipy", "scikit-image", "pillow", "matplotlib")

CURVES_CAPTION = (
    "Comparable definitions: each map divided by its maximum, 201 thresholds. Targets are hit by "
    "any pixel; the false-alarm rate is over background pixels. Dots: the threshold of the tables."
)
PREDICTIONS_CAPTION = (
    "Images evenly chosen from the test list. Circles as in the strict definitions; the inset "
    "shows the largest target."
)
STYLE = """
:root { color-scheme: light; }
body { max-width: 76rem; margin: 2.5rem auto; padding: 0 1.5rem; color: #1c2733;
       background: #fff; font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
h1 { font-size: 1.75rem; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem;
     border-bottom: 1px solid #d5dde5; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li { max-width: 60rem; }
.lead, figcaption, .notes, footer { color: #55636f; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; }
th.word, td.word { text-align: left; }
thead th { border-bottom: 2px solid #1c2733; font-weight: 600; white-space: normal;
           vertical-align: bottom; }
thead tr.group th { border-bottom: 1px solid #aab6c1; text-align: center; }
thead tr.group th:first-child { border: 0; }
tbody td { border-bottom: 1px solid #e8edf1; }
tr.ours td { background: #eef5fb; font-weight: 600; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
.pair { display: grid; gap: 1rem;
        grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.pair figure { margin: 0; }
.pair.wide { grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
code { font: .85rem ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { padding: .75rem 1rem; background: #f4f6f8; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; font-size: .9rem; }
dt { color: #55636f; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } figure { break-inside: avoid; } }
"""


def save_page(
    output_dir: str | Path,
    split: Split,
    results: Mapping[str, Result | None],
    weights: Mapping[str, Path | None],
    worst: int,
    command: str,
    device: str,
) -> list[Path]:
    """Draws the figures of an evaluation and writes them with all tables into one page.

    Args:
        split: what was predicted; the predictions lie in `scoring.mat_folder`.
        results: model name -> its result, None: not trained.
        weights: model name -> the file of its weights.
        worst: how many images of each model to show.
        command: the command line that made it.
        device: what the networks ran on (`Runtime.describe`).

    Returns:
        The page, `<output_dir>/result/<dataset>_report.html`, and the figures and pictures of which
        it holds copies.
    """
    result = Path(output_dir) / "result"
    evaluators = {model: each.evaluator for model, each in results.items() if each}
    folders = {model: mat_folder(output_dir, split.name, model) for model in evaluators}
    metas = {model: read_meta(weights[model]) for model in evaluators}

    curves, side_by_side = (
        [result / f"{split.name}_{what}{suffix}" for suffix in (".png", ".pdf")]
        for what in ("curves", "qualitative")
    )
    save_score_curves(curves, evaluators, f"{split.name}, test list")
    rows = some_rows(split)
    detection_figure(
        side_by_side,
        *([values[row] for row in rows] for values in (split.names, split.images, split.masks)),
        {model: read_predictions(split, folder, rows) for model, folder in folders.items()},
        threshold=next(iter(evaluators.values())).threshold,
    )
    pictures = {
        model: save_worst(output_dir, model, split, folders[model], evaluator, worst)
        for model, evaluator in evaluators.items()
    }
    configuration = {
        model: {
            "weights": weights[model],
            "epoch": results[model].epoch or "unknown",
            "training started": metas[model].get("started", "unknown"),
            **metas[model].get("recipe", {}),
            "threshold": evaluator.threshold,
        }
        for model, evaluator in evaluators.items()
    }
    configuration["Versions"] = versions()
    with tempfile.TemporaryDirectory() as temporary:
        figures = {
            "ROC and precision-recall": [(curves[0], CURVES_CAPTION)],
            "Training": _training_figures(output_dir, split.name, metas, Path(temporary)),
            "Predictions": [(side_by_side[0], PREDICTIONS_CAPTION)],
        }
        page = render_html(
            split.name, results, [f"{time.strftime('%Y-%m-%d %H:%M')}. {split.describe()}", device],
            command, figures, pictures, configuration,
        )  # fmt: skip
    path = result / f"{split.name}_report.html"
    write_text(path, page)
    folder = result / split.name / "worst"
    return [path, *curves, *side_by_side, folder]


def _training_figures(
    output_dir: str | Path, dataset_name: str, metas: Mapping[str, dict], folder: Path
) -> list[tuple[Path, str]]:
    """Loss and mIoU over the epochs, for the models whose checkpoints tell of them."""
    histories = {}
    for model, meta in metas.items():
        last = checkpoint_folder(output_dir, dataset_name, model) / "last.npz"
        records = (read_meta(last) if last.is_file() else meta).get("history", ())
        if records:
            histories[model] = [EpochRecord(**record) for record in records]
    figures = []
    if len(histories) > 1:
        figures.append((folder / "all.png", "Training loss of all models"))
        save_comparison(figures[0][0], histories, dataset_name)
    for model, records in histories.items():
        figures.append((folder / f"{model}.png", ""))
        save_loss_curve(figures[-1][0], records, model)
    return figures


def render_html(
    dataset_name: str,
    results: Mapping[str, Result | None],
    lead: Sequence[str],
    command: str,
    figures: Mapping[str, Sequence[tuple[Path, str]]],
    worst: Mapping[str, Sequence[Path]],
    configuration: Mapping[str, Mapping[str, object]],
) -> str:
    """The page as text.

    Args:
        results: model name -> its result, None: not trained.
        lead: lines under the title: when, what.
        command: the command line that made it.
        figures: heading -> pictures with their captions; a section each, unless there is none.
        worst: model name -> pictures of its worst images.
        configuration: heading -> names and values.
    """
    evaluators = {model: result.evaluator for model, result in results.items() if result}
    table = _comparison(comparison_table(results))
    notes = html_notes(comparison_notes(dataset_name, results))
    body = [
        f"<h1>Evaluation on {escape(dataset_name)}</h1>",
        *(f'<p class="lead">{escape(line)}</p>' for line in lead),
        html_section("Scores", table, notes),
    ]
    for heading, pictures in figures.items():
        if not pictures:
            continue
        content = "".join(html_figure(path, caption) for path, caption in pictures)
        if len(pictures) > 1:
            content = f'<div class="pair">{content}</div>'
        body.append(html_section(heading, content))
    content = []
    for model, pictures in worst.items():
        shown = "".join(html_figure(path) for path in pictures)
        content.append(f'<h3>{escape(model)}</h3><div class="pair wide">{shown}</div>')
    body.append(html_section(
        "Worst images",
        '<p class="notes">Lowest IoU first, then most missed targets and false pixels; strict '
        "definitions. Every image has its line in result/…_per_image.csv. The inset shows the "
        "largest region that is wrong.</p>",
        *content,
    ))
    body.append(html_section(
        "All scores",
        _all_scores(evaluators),
        "<h3>What hIoU lacks</h3>",
        html_table(error_table(evaluators)),
        html_notes([f"{factor}: over {over}; IoU and what it is lost to sum to 1."
                    for factor, (over, _) in HIOU_ERRORS.items()]
                   + ["strict hIoU = localisation x segmentation."]),
    ))
    content = []
    for heading, values in configuration.items():
        items = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
        content.append(f"<div><h3>{escape(heading)}</h3><dl>{''.join(items)}</dl></div>")
    body.append(html_section("Configuration", f"<pre><code>{escape(command)}</code></pre>",
                             f'<div class="pair wide">{"".join(content)}</div>'))
    return html_page(f"Evaluation on {dataset_name}", body)


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page; `body` are its parts, as HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def versions() -> dict[str, str]:
    """Python, packages, system, and the state of this project if it is a git checkout."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["system"] = platform.platform()
    try:
        described = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
                                   capture_output=True, text=True, check=True)
        found["this project"] = described.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def html_section(heading: str, *content: str) -> str:
    """A heading and what stands below it, which is HTML."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(content) + "\n</section>"


def html_notes(lines: Sequence[str]) -> str:
    """A list in small grey letters."""
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def html_figure(path: Path, caption: str = "") -> str:
    """A copy of a .png, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (f'<figure><img alt="{escape(caption or path.stem)}" '
            f'src="data:image/png;base64,{data}">{note}</figure>')


def _comparison(rows: Sequence[Sequence[str]]) -> str:
    first = len(rows[0]) - len(TABLE) - len(STRICT_TABLE)
    groups = {"": first, "comparable": len(TABLE), "strict": len(STRICT_TABLE)}
    headings = [cell.replace("strict ", "") for cell in rows[0]]
    return html_table([headings, *rows[1:]], groups)


def _all_scores(evaluators: Mapping[str, Evaluator]) -> str:
    """Scores down, models across, and at the end over what they are: the same for all."""
    tables = [score_rows(evaluator) for evaluator in evaluators.values()]
    rows = [
        [lines[0][0], *(cell for line in lines for cell in line[1:-1]), lines[0][-1]]
        for lines in zip(*tables)
    ]
    return html_table(rows, {"": 1, **dict.fromkeys(evaluators, 2), " ": 1})


def html_table(rows: Sequence[Sequence[str]], groups: Mapping[str, int] | None = None) -> str:
    """A table; its first row are headings. `groups`: headings above them -> columns they span."""
    words = word_columns(rows)

    def cells(row, tag):
        return "".join(f'<{tag}{" class=word" if left else ""}>{escape(cell)}</{tag}>'
                       for cell, left in zip(row, words))

    above = "".join(f"<th colspan={span}>{escape(name)}</th>" for name, span in
                    (groups or {}).items())
    body = "\n".join(f'<tr{" class=ours" if THIS_RUN in row else ""}>{cells(row, "td")}</tr>'
                     for row in rows[1:])
    return (f'<div class="scroll"><table>\n<thead>'
            f'{f"<tr class=group>{above}</tr>" if groups else ""}<tr>{cells(rows[0], "th")}</tr>'
            f"</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>")
