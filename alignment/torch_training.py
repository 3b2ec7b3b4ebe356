"""A whole training run of the PyTorch twin: the recipe, the batches, the log and the scores are
those of `utils.training`, the optimiser and its schedule PyTorch's own."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import torch
from tqdm import tqdm

from alignment.job import RUN_RECIPE, files, framework_folder
from alignment.torch_compare import build, choose_device, describe, read_start, take_step
from evaluation import Evaluator
from utils.checkpoint.weights import checkpoint_folder
from utils.data.datasets import load_splits, num_train_batches, test_batches, train_batches
from utils.errors import UserError
from utils.files import atomic_path
from utils.recipe import GAMMA
from utils.training.logs import METRICS, EpochRecord, log_time, write_log


def train(job):
    """Trains to the end of `job.epochs`; goes on after the last epoch of the same recipe."""
    folder = framework_folder(job.output_dir, job.dataset_name, "Pytorch")
    last = checkpoint_folder(folder, job.dataset_name, job.model_name) / "last.pt"
    recipe = {key: getattr(job, key) for key in RUN_RECIPE if key != "epochs"}
    state = torch.load(last, map_location="cpu", weights_only=True) if last.is_file() else {}
    if state.get("recipe") != recipe:
        state = {}
    history = [EpochRecord(**record) for record in state.get("history", ())]
    if len(history) >= job.epochs:
        print(f"{job.model_name}: the {job.epochs} epochs of PyTorch are there, {last}")
        return
    compared = json.loads(files(job).comparison.read_text())
    device = choose_device(compared["device"], job.precision)
    net = build(job.model_name, read_start(job), True, device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=job.lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, job.milestones, GAMMA)
    for part, name in ((net, "net"), (optimizer, "optimizer"), (scheduler, "scheduler")):
        if state:
            part.load_state_dict(state[name])
    started = state.get("started") or time.strftime("%Y-%m-%d_%H-%M-%S")
    log = folder / "log" / f"{job.dataset_name}_{job.model_name}_{started}.txt"
    splits = load_splits(job.dataset_dir, job.dataset_name, num_workers=job.num_workers)
    print(f"{job.model_name}: {describe(device)}; epochs {len(history) + 1} to {job.epochs}; "
          f"log {log}", flush=True)
    for epoch in range(len(history) + 1, job.epochs + 1):
        began = time.monotonic()
        loss = train_one_epoch(net, optimizer, splits[0], job, epoch, device)
        stamp = log_time()
        scores = evaluate(net, splits[1], job.batch_size, device)
        history.append(EpochRecord(epoch, loss, stamp, **{
                name: float(scores[name]) for name in METRICS}))
        scheduler.step()
        state = {
            "recipe": recipe, "started": started, "net": net.state_dict(),
            "history": [dataclasses.asdict(record) for record in history],
            "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
        }
        write_log(log, history)
        with atomic_path(last) as temporary:
            torch.save(state, temporary)
        print(f"epoch {epoch}/{job.epochs}: loss {loss:.6f}, mIoU {scores['mIoU']:.4f}; "
              f"{time.monotonic() - began:.1f} s", flush=True)


def train_one_epoch(net, optimizer, split, job, epoch, device):
    """Returns the mean of the batches' losses."""
    net.train()
    torch.manual_seed(job.seed * 1_000_003 + epoch)  # of dropout: a resumed run goes on alike
    batches = train_batches(split, job.batch_size, job.image_size, job.seed, epoch)
    losses = []
    with tqdm(batches, total=num_train_batches(split, job.batch_size), unit="batch", leave=False,
              disable=None, desc=f"PyTorch, epoch {epoch}/{job.epochs}") as bar:
        for names, x, y in bar:
            losses.append(take_step(net, optimizer, x, y, device))
            if not math.isfinite(losses[-1]):
                raise UserError(f"the loss of PyTorch is not finite in epoch {epoch}, images "
                                f"{', '.join(names)}; try a lower --lr")
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")
    return sum(losses) / len(losses)


def evaluate(net, split, batch_size, device):
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
