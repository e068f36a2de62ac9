"""Tests of the example that finetunes a trained model, in a plain loop and in Lightning."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from finetune_any_model import finetune
from invmod.environments import RandomSubsetEnvs
from invmod.missingness import hide_features
from invmod.robustness import RobustnessReport
from tests.strategies import normal, seeded


def small_problem():
    generator = seeded(0)
    data = TensorDataset(
        normal(generator, 90, 8, 8, dtype=torch.float32),
        torch.randint(10, (90,), generator=generator),
    )
    torch.manual_seed(0)
    return finetune.SensorTransformer(), data


def test_the_model_and_its_training_loop_use_nothing_of_invmod():
    assert "invmod" not in inspect.getsource(finetune.SensorTransformer)
    assert "invmod" not in inspect.getsource(finetune.train)


def test_the_loss_is_the_mean_and_variance_of_the_risks_of_four_masks():
    """The part of the library in the example, written out."""
    model, data = small_problem()
    sensors, targets = data.tensors
    loss = finetune.robust_loss(0.1, seeded(3))(model, sensors, targets)
    masks = RandomSubsetEnvs(8, rates=0.5, num_envs=3).sample_masks(generator=seeded(3))
    logits = [model(sensors), *(model(sensors, ~mask) for mask in masks)]
    risks = torch.stack([F.cross_entropy(x, targets) for x in logits])
    torch.testing.assert_close(loss, risks.mean() + 0.1 * risks.var(correction=0))


def test_the_values_of_a_hidden_sensor_do_not_change_the_predictions():
    model, data = small_problem()
    predict = finetune.predictor(model)
    sensors = dict(zip(finetune.SENSORS, data.tensors[0].unbind(1), strict=True))
    mask = torch.ones(90, 8, dtype=torch.bool)
    mask[:, 3] = False
    expected = predict(sensors, mask)
    other = sensors | {finetune.SENSORS[3]: torch.full((90, 8), 50.0)}
    assert torch.equal(predict(other, mask), expected)
    assert torch.equal(predict(hide_features(sensors, mask, finetune.SENSORS), mask), expected)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*log_every_n_steps")
@pytest.mark.filterwarnings("ignore:.*logging interval")
def test_an_epoch_in_lightning_gives_the_weights_of_an_epoch_in_a_plain_loop():
    model, data = small_problem()
    states = []
    with torch.random.fork_rng():
        for loop in (finetune.train, finetune.train_with_lightning):
            trained, generator = copy.deepcopy(model), seeded(1)
            loader = DataLoader(data, batch_size=30, shuffle=True, generator=generator)
            loop(trained, loader, finetune.robust_loss(0.1, generator), epochs=1)
            states.append(trained.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
    assert any(
        not torch.equal(value, model.state_dict()[name]) for name, value in states[0].items()
    )


@pytest.mark.slow
def test_the_command_reports_the_model_before_and_after_finetuning(tmp_path, capsys):
    options = finetune.Options(
        complete_epochs=6,
        robust_epochs=4,
        patterns="one_missing",
        num_draws=1,
        out=tmp_path / "out",
    )
    with torch.random.fork_rng():
        report = finetune.main(options)
    assert {path.name for path in options.out.iterdir()} == {"report.json", "report.html"}
    assert RobustnessReport.load(options.out / "report.json") == report
    assert report.complete("complete data").value > 0.7
    assert report.worst("finetuned").value > report.worst("complete data").value
    assert "report.html" in capsys.readouterr().out
