"""The report: what was compared, the bounds, PASS or FAIL; Markdown, HTML and figures."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alignment.bounds import EPOCH_BOUND, EPOCHS, FACTORS, FLOOR, STEP_BOUND, STEPS
from alignment.figures import save_curves, save_stages
from alignment.job import FRAMEWORKS, Job, framework_folder, step_values
from model import MODEL_NAMES
from utils.files import write_text
from utils.paths import Paths
from utils.report.page import Figures, Table, to_html, to_markdown
from utils.report.scores import format_score
from utils.training import logs

MEANINGS = {
    "forward": "outputs of the stages in training mode, the largest element",
    "backward": "gradients of the loss with respect to those outputs, the largest element",
    "buffers": "running means and variances after the step, the largest element, each buffer "
    "relative to its own largest",
    "gradients": "gradients of the parameters, the L2 norm of all of a stage together",
}
NOTES = (
    "The truth is the same network in float64, in PyTorch. Ours and PyTorch's are float32. "
    "Distances are relative to the truth's size and medians over the batches. A × is our distance "
    f"from the truth over PyTorch's, which counts as at least {FLOOR:g} of the truth's size, about "
    "8 roundings of float32 (as it does for most buffers); in the first table its median over the "
    "stages.",
    "Bounds: " + ", ".join(f"{kind} {factor}×" for kind, factor in FACTORS.items())
    + " for every stage. Medians, because where the input of a ReLU is too close to zero for "
    "float32, rounding decides, on each side by itself, and one decision moves all gradients "
    "before it by up to a hundredth: chance, which strikes some batches. What is wrong or "
    "imprecise shows in all.",
    f"steps: the losses of the first {STEPS} steps of Adam agree to {STEP_BOUND:g}; dropout is off "
    "on both sides.",
    f"epochs: the mean losses of the first {EPOCHS} epochs of whole runs agree to "
    f"{EPOCH_BOUND:g}. There each framework draws its own dropout (in the FPN's head), and "
    "rounding makes two frameworks part within some dozen steps; mIoU has no bound.",
)


def save_epochs(job: Job) -> None:
    """Writes epochs.json for the report: the first epochs of the newest logs of both frameworks."""
    found = {}
    for label, framework in zip(("Jittor", "PyTorch"), FRAMEWORKS):
        folder = framework_folder(job.output_dir, job.dataset_name, framework)
        paths = [path for path in Paths(folder).logs.glob("*.txt")
                 if logs.parse_log_name(path, MODEL_NAMES) == (job.dataset_name, job.model_name)]
        records = logs.read_log(max(paths, key=logs.log_started))
        found[label] = [dataclasses.asdict(record) for record in records[: job.recipe.epochs]]
    result = {"recipe": job.run_recipe(), "runs": found}
    write_text(job.folder / "epochs.json", json.dumps(result, indent=1))


def read_results(folder: Path) -> dict[str, dict]:
    """model → its `comparison.json`, and as `epochs` the whole runs of the same recipe."""
    results = {}
    for model in MODEL_NAMES:
        result = _read(folder / model / "comparison.json")
        if "batches" not in result.get("recipe", ()):  # none, or one of an older version
            continue
        epochs = _read(folder / model / "epochs.json")
        recipe = step_values(epochs.get("recipe", {}))
        if recipe and recipe.items() <= result["recipe"].items():
            result["epochs"] = epochs["runs"]
        results[model] = result
    return results


def _read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def checks(result: Mapping) -> dict[str, tuple[bool, str]]:
    """Check → True if it passes, and its measured value as text."""
    found = {}
    for kind in FACTORS:
        rows = [row for row in result["stages"] if row["kind"] == kind]
        ratio = np.median([row["ratio"] for row in rows])
        found[kind] = all(row["passed"] for row in rows), f"{ratio:.2g}×"
    steps = result["steps"]
    found["steps"] = _agree(steps["jittor"][:STEPS], steps["pytorch"][:STEPS], STEP_BOUND)
    if "epochs" in result:
        losses = [[epoch["loss"] for epoch in records[:EPOCHS]]
                  for records in result["epochs"].values()]
        found["epochs"] = _agree(*losses, EPOCH_BOUND)
    return found


def _agree(ours, theirs, bound):
    difference = np.abs(np.subtract(ours, theirs)).max()
    return bool(difference <= bound), f"{difference:.1e}"


def passed(result: Mapping) -> bool:
    """True if all `checks` pass."""
    return all(good for good, _ in checks(result).values())


def headline(results: Mapping[str, Mapping]) -> list[list[str]]:
    """A row per model: PASS or FAIL over all, then per check."""
    rows = [["model", "result", *FACTORS, "steps", "epochs"]]
    for model, result in results.items():
        found = checks(result)
        cells = [f"{_word(found[name][0])} {found[name][1]}" if name in found else "not run"
                 for name in rows[0][2:]]
        rows.append([model, _word(passed(result)), *cells])
    return rows


def _word(good):
    return "PASS" if good else "FAIL"


def save(folder: Path) -> list[Path]:
    """Writes report.md and report.html on all models in a dataset's folder; returns their paths."""
    results = read_results(folder)
    sections = [(f"Jittor and PyTorch on {folder.name}",
                 [Table(headline(results)), [*NOTES, time.strftime("%Y-%m-%d %H:%M")]])]
    sections += [(model, _model_blocks(folder / model, result))
                 for model, result in results.items()]
    paths = [folder / "report.md", folder / "report.html"]
    write_text(paths[0], to_markdown(sections, folder))
    write_text(paths[1], to_html(sections))
    return paths


def _model_blocks(folder, result):
    """The section of a model."""
    name = f"{result['model']}, {result['dataset']}"
    settings = [f"{key} {value}" for key, value in result["recipe"].items()]
    if result["spoil"]:
        settings.append(f"{result['spoil']} made 1 % larger in Jittor, to see the comparison fail")
    save_stages(folder / "stages.png", result["stages"], name)
    blocks = [[*map(": ".join, result["devices"].items()), ", ".join(settings)],
              Figures({folder / "stages.png": "stages"})]
    for kind, meaning in MEANINGS.items():
        rows = [row for row in result["stages"] if row["kind"] == kind]
        blocks += [f"{kind}: {meaning}", _stage_table(rows, FACTORS[kind])]
    return blocks + _step_blocks(folder, result, name) + _epoch_blocks(folder, result, name)


def _stage_table(rows, factor):
    table = [["stage", "size of the truth", "ours − PyTorch", "relative", "ours − truth",
              "PyTorch − truth", "worst batch, ours", "worst batch, PyTorch", "×", f"≤ {factor}×"]]
    for row in rows:
        distances = row["between"] * row["scale"], row["between"], row["jittor"], row["pytorch"]
        table.append([row["stage"], f"{row['scale']:.1e}",
                      *(f"{value:.1e}" for value in (*distances, *row["worst"])),
                      f"{row['ratio']:.2f}", _word(row["passed"])])
    return Table(table)


def _step_blocks(folder, result, name):
    steps = result["steps"]
    x = range(1, len(steps["jittor"]) + 1)
    difference = np.abs(np.subtract(steps["jittor"], steps["pytorch"]))
    save_curves(folder / "steps.png", x, "Step", [
        ("loss", {"Jittor": steps["jittor"], "PyTorch": steps["pytorch"]}, "linear", None),
        ("difference", {"losses": difference}, "log", STEP_BOUND),
        ("drift", {"weights": steps["drift"]}, "log", None),
    ], name)
    table = [["step", "loss, Jittor", "loss, PyTorch", "difference", "drift of the weights",
              "drift, of the way"]]
    table += [[str(i), f"{a:.8f}", f"{b:.8f}", f"{d:.1e}", f"{e:.1e}", f"{f:.1e}"] for i, a, b, d,
              e, f in zip(x, steps["jittor"], steps["pytorch"], difference, steps["drift"],
                          steps["drift_of_way"])]
    note = (
        "drift: L2 distance of all parameters of the two after that step, relative to their norm, "
        f"and to the way they have come since the start. {len(result['zero_gradients'])} biases "
        "before a batch norm are left out: their true gradient is zero, and Adam makes steps of "
        "full size of PyTorch's rounding noise there; they take no part in the output."
    )
    return ["training steps side by side", Figures({folder / "steps.png": "steps"}),
            Table(table), [note]]


def _epoch_blocks(folder, result, name):
    if "epochs" not in result:
        return []
    epochs = result["epochs"]
    ours, theirs = epochs.values()
    x = [record["epoch"] for record in ours]
    save_curves(folder / "epochs.png", x, "Epoch", [
        (key, {label: [r[key] for r in records] for label, records in epochs.items()},
         "linear", None) for key in ("loss", "mIoU")
    ], name)
    keys = ("loss", "mIoU", "Pd", "Fa")
    table = [["epoch", *(f"{key}, {label}" for key in keys for label in epochs)]]
    for a, b in zip(ours, theirs):
        table.append([str(a["epoch"]), *(format_score(key, r[key], 6 if key == "loss" else 4)
                                         for key in keys for r in (a, b))])
    return ["whole training runs", Figures({folder / "epochs.png": "epochs"}), Table(table)]
