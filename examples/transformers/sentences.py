"""A Hugging Face Trainer: a small GPT-2, made from a config, learns the bytes of Python's own help texts."""

import pydoc_data.topics

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class Blocks(Dataset):
    """Blocks of a text that follow one another."""

    def __init__(self, tokens, length):
        self.blocks = tokens[: len(tokens) // length * length].view(-1, length)

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, place):
        return {"input_ids": self.blocks[place], "labels": self.blocks[place]}


def make(run, length, depth, width, batch_size, characters):
    text = "\n".join(pydoc_data.topics.topics.values()).encode()[:characters]
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    split = 9 * len(tokens) // 10
    config = GPT2Config(
        vocab_size=256, n_positions=length, n_layer=depth, n_embd=width, n_head=2, bos_token_id=0, eos_token_id=0
    )
    settings = TrainingArguments(
        output_dir=str(run.folder / "trainer"),
        seed=run.seed,
        num_train_epochs=run.epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        use_cpu=run.device.type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    parts = {"train_dataset": Blocks(tokens[:split], length), "eval_dataset": Blocks(tokens[split:], length)}
    return Trainer(GPT2LMHeadModel(config), settings, **parts)
