"""A LightningModule and its DataModule: handwritten digits. The module has an optimizer, and no scheduler."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    def __init__(self, width, weight_decay=0.01):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10))
        self.weight_decay = weight_decay

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return functional.cross_entropy(self.layers(inputs), targets)

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        scores = self.layers(inputs)
        self.log("val_loss", functional.cross_entropy(scores, targets))
        self.log("val_accuracy", (scores.argmax(1) == targets).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), weight_decay=self.weight_decay)


class Digits(lightning.LightningDataModule):
    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
        images, held_out = images.float() / 16, torch.arange(len(labels)) % 5 == 0
        self.train = TensorDataset(images[~held_out], labels[~held_out])
        self.val = TensorDataset(images[held_out], labels[held_out])

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, len(self.val))
