"""A training function as people have it: scikit-learn's digits, a small net, AdamW, and a loop of its own."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def train(run, width, batch_size, dropout=0.1, weight_decay=0.01):
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images, held_out = images.float().div(16).to(run.device), torch.arange(len(labels)) % 5 == 0
    labels = labels.to(run.device)
    data = TensorDataset(images[~held_out], labels[~held_out])
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True)

    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay)
    if state := run.restore():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    for _, (inputs, targets) in run.steps(optimizer, loader, epochs=run.epochs):
        loss = functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(**evaluate(model, images[held_out], labels[held_out]))
        run.checkpoint(model=model, optimizer=optimizer)


@torch.no_grad()
def evaluate(model, images, labels):
    model.eval()
    scores = model(images)
    model.train()
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": functional.cross_entropy(scores, labels), "accuracy": accuracy}
