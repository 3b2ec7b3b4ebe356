"""A whole training run of the PyTorch twin: the recipe, the batches, the log and the scores are
those of `utils.training`, the optimiser and its schedule PyTorch's own."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from typing import Any

import torch
from tqdm import tqdm

from alignment.job import Job, files, framework_folder
from alignment.torch_compare import build, choose_device, describe, read_start, take_step
from evaluation import Evaluator
from utils import places
from utils.data.datasets import Split, load_splits, num_train_batches, test_batches, train_batches
from utils.errors import UserError
from utils.files import atomic_path
from utils.recipe import GAMMA, Recipe
from utils.training.logs import METRICS, EpochRecord, log_time, write_log
from utils.training.resume import Standing, standing


def train(job: Job) -> None:
    """A whole run; one that is finished is left alone, one begun goes on after its last epoch."""
    recipe = job.recipe
    folder = framework_folder(job.output_dir, job.dataset_name, "Pytorch")
    last = places.checkpoint_folder(folder, job.dataset_name, job.model_name) / "last.pt"
    state = torch.load(last, map_location="cpu", weights_only=True) if last.is_file() else {}
    now = standing(state, dataclasses.asdict(recipe))
    if now is Standing.FINISHED:
        print(f"{job.model_name}: the {recipe.epochs} epochs of PyTorch are there, {last}")
        return
    if now is Standing.NEW:
        state = {}
    history = [EpochRecord(**record) for record in state.get("history", ())]
    compared = json.loads(files(job).comparison.read_text())
    device = choose_device(compared["device"], job.precision)
    net = build(job.model_name, read_start(job), True, device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, recipe.milestones, GAMMA)
    for part, name in ((net, "net"), (optimizer, "optimizer"), (scheduler, "scheduler")):
        if state:
            part.load_state_dict(state[name])
    started = state.get("started") or time.strftime("%Y-%m-%d_%H-%M-%S")
    log = places.log_file(folder, job.dataset_name, job.model_name, started)
    splits = load_splits(job.dataset_dir, job.dataset_name, num_workers=job.num_workers)
    print(f"{job.model_name}: {describe(device)}; epochs {len(history) + 1} to {recipe.epochs}; "
          f"log {log}", flush=True)
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        began = time.monotonic()
        loss = train_one_epoch(net, optimizer, splits[0], recipe, epoch, device)
        stamp = log_time()
        scores = evaluate(net, splits[1], recipe.batch_size, device)
        history.append(EpochRecord(epoch, loss, stamp, **{
                name: float(scores[name]) for name in METRICS}))
        scheduler.step()
        write_log(log, history)
        with atomic_path(last) as temporary:
            torch.save({
                "recipe": job.run_recipe(), "started": started, "net": net.state_dict(),
                "history": [dataclasses.asdict(record) for record in history],
                "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
            }, temporary)
        print(f"epoch {epoch}/{recipe.epochs}: loss {loss:.6f}, mIoU {scores['mIoU']:.4f}; "
              f"{time.monotonic() - began:.1f} s", flush=True)


def train_one_epoch(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    split: Split,
    recipe: Recipe,
    epoch: int,
    device: str,
) -> float:
    """Returns the mean of the batches' losses."""
    net.train()
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # of dropout: a resumed run goes on alike
    batches = train_batches(split, recipe.batch_size, recipe.image_size, recipe.seed, epoch)
    losses = []
    with tqdm(batches, total=num_train_batches(split, recipe.batch_size), unit="batch", leave=False,
              disable=None, desc=f"PyTorch, epoch {epoch}/{recipe.epochs}") as bar:
        for names, x, y in bar:
            losses.append(take_step(net, optimizer, x, y, device))
            if not math.isfinite(losses[-1]):
                raise UserError(f"the loss of PyTorch is not finite in epoch {epoch}, images "
                                f"{', '.join(names)}; try a lower --lr")
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")
    return sum(losses) / len(losses)


def evaluate(
    net: torch.nn.Module, split: Split, batch_size: int, device: str
) -> dict[str, Any]:
    """The scores of a split by the project's Evaluator."""
    net.eval()
    evaluator = Evaluator()
    with tqdm(total=len(split), unit="image", leave=False, disable=None, desc="evaluating") as bar:
        for indices, x in test_batches(split, batch_size):
            with torch.no_grad():
                probabilities = net(torch.from_numpy(x).to(device))[:, 0].cpu().numpy()
            for index, probability in zip(indices, probabilities):
                evaluator.update(probability, split.masks[index])
            bar.update(len(indices))
    return evaluator.compute()
