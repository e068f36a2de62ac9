r"""
Export a model that accepts missing modalities
==============================================

A model leaves Python as one graph, in which masks and missing rows are part of the computation.
This guide trains a small classifier, exports it to ONNX, and runs it without torch.

The data are scikit-learn's 178 wines, whose measurements come from two instruments.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_wine
from torch import nn

import invmod

wine = load_wine()
values = torch.tensor((wine.data - wine.data.mean(axis=0)) / wine.data.std(axis=0)).float()
features = {"chemistry": values[:, :9], "optics": values[:, 9:]}
target = torch.tensor(wine.target)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = invmod.ModalityEncoders.linear({"chemistry": 9, "optics": 4}, 16)
        self.fusion = invmod.GatedFusion(2, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, features, mask):
        return self.head(self.fusion(self.encoders(features, mask), mask))


# %%
# Each step hides instruments at a nominal rate of 0.33. Because every row keeps at least one of the
# two, each is hidden in a quarter of the rows:

torch.manual_seed(0)
model = Classifier()
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
everything = torch.ones(len(values), 2, dtype=torch.bool)
generator = torch.Generator().manual_seed(0)
for _ in range(150):
    mask = invmod.simulate_mcar(everything, 0.33, generator=generator).mask
    hidden = invmod.hide_features(features, mask, ["chemistry", "optics"])
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(hidden, mask), target).backward()
    optimiser.step()
model.eval()

# %%
# Export it with a first axis of any length, and save it:

some = {name: x[:4] for name, x in features.items()}
rows = {0: torch.export.Dim("rows", min=0)}
program = torch.export.export(
    model, (some, everything[:4]), dynamic_shapes=(dict.fromkeys(some, rows), rows)
)
path = Path(tempfile.mkdtemp()) / "wine.onnx"
torch.onnx.export(program, dynamo=True, verbose=False).save(path)
print(f"{path.stat().st_size / 1024:.0f} KiB")

# %%
# Where the model runs, only ONNX Runtime is needed. Check the result with another number of rows
# than in the export, and with missing rows:

session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
mask = torch.tensor([[True, True], [True, False], [False, True]]).repeat(10, 1)
hidden = invmod.hide_features({k: x[:30] for k, x in features.items()}, mask, list(features))
(logits,) = session.run(
    None,
    {
        "features_chemistry": hidden["chemistry"].numpy(),
        "features_optics": hidden["optics"].numpy(),
        "mask": mask.numpy(),
    },
)
with torch.no_grad():
    print("largest difference:", float(np.abs(logits - model(hidden, mask).numpy()).max()))

# %%
# The report accepts the exported model too, since it needs only a function of features and a mask.
# (Here it uses the training rows, so its accuracies are too high. Use held-out rows in your work.)


def predict(features, mask):
    inputs = {f"features_{name}": x.numpy() for name, x in features.items()}
    (logits,) = session.run(None, {**inputs, "mask": mask.numpy()})
    return torch.tensor(logits).argmax(dim=1)


def accuracy(predictions, targets):
    return (predictions == targets).double().mean().item()


report = invmod.robustness_report(predict, features, target, accuracy)
invmod.robustness.plot_patterns(report)

# %%
# **Where to go from here.** :doc:`/parts/export` has the table of the parts that can be exported,
# and what to use instead of those that cannot.
