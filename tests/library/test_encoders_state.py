"""The state of encoders carries the names of modalities, through every format that keeps states."""

import copy
import io
import os
import re
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from invmod._text import decode_text, encode_text
from invmod.encoders import ModalityEncoders
from tests.library.torch_versions import needs_torch
from tests.strategies import normal, seeded

NAMES = ("wörter", "a.b", "", "type")


def encoders(*names, build=ModalityEncoders.linear):
    return build(dict.fromkeys(names, 3), 2)


def values(state):
    """Weights of the encoders, without the names."""
    return {key: x.clone() for key, x in state.items() if key.startswith("encoders.")}


def through_torch_save(state, folder):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def through_safetensors(state, folder):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(state, folder / "weights.safetensors")
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def through_half_precision(state, folder):
    return {key: x.half() if x.is_floating_point() else x for key, x in state.items()}


def through_a_mean(state, folder):
    """The mean of three equal states, as for a soup of models: its integers become floats."""
    return {key: sum([x, x, x]) / 3 for key, x in state.items()}


FORMATS = [through_torch_save, through_safetensors, through_half_precision, through_a_mean]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("assign", [False, True])
def test_swapped_modalities_do_not_load(form, assign, tmp_path):
    state = form(encoders("x", "y").state_dict(), tmp_path)
    other = encoders("y", "x")
    before = values(other.state_dict())
    message = "the loaded state has the modalities ('x', 'y'), this module has ('y', 'x')"
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            other.load_state_dict(state, strict=strict, assign=assign)
    assert all(torch.equal(x, before[key]) for key, x in values(other.state_dict()).items())
    same = encoders("x", "y")
    same.load_state_dict(state, assign=assign)
    assert same.modality_names.dtype == torch.int64
    assert all(torch.equal(x, state[key]) for key, x in values(same.state_dict()).items())


@pytest.mark.parametrize("names", [("x",), ("x", "y", "z"), ("x", "z"), ("x\u00a0", "y")])
def test_other_names_do_not_load_into_a_module_that_contains_encoders(names):
    outer = nn.ModuleDict({"encoders": encoders(*names), "head": nn.Linear(2, 1)})
    state = nn.ModuleDict({"encoders": encoders("x", "y"), "head": nn.Linear(2, 1)}).state_dict()
    with pytest.raises(RuntimeError, match=r"remove 'encoders\.modality_names' from the state"):
        outer.load_state_dict(state, strict=False)


def test_any_names_survive_their_encoding():
    assert decode_text(encode_text(NAMES)) == list(NAMES)
    assert decode_text(encode_text(NAMES).double()) == list(NAMES)
    assert decode_text(torch.tensor([1, 2, 3])) is None
    assert decode_text(torch.tensor([-1])) is None
    module = encoders(*NAMES)
    encoders(*NAMES).load_state_dict(module.state_dict())


def test_a_state_of_an_older_version_loads_with_a_warning():
    state = encoders("x", "y").state_dict()
    del state["modality_names"]
    module = encoders("x", "y")
    with pytest.warns(UserWarning, match="no names of modalities"):
        result = module.load_state_dict(state)
    assert result.missing_keys == []
    assert decode_text(module.modality_names) == ["x", "y"]
    assert all(torch.equal(x, state[key]) for key, x in values(module.state_dict()).items())
    with torch.device("meta"):
        module = encoders("x", "y")
    with pytest.warns(UserWarning, match="no names of modalities"):
        module.load_state_dict(state, assign=True)
    assert decode_text(module.modality_names) == ["x", "y"]
    # A part of a state, without encoders, is nothing to warn about.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.ModuleDict({"e": encoders("x"), "h": nn.Linear(1, 1)}).load_state_dict(
            {"h.bias": torch.ones(1)}, strict=False
        )


@pytest.mark.parametrize(
    "averaging",
    [
        {},
        {"multi_avg_fn": get_ema_multi_avg_fn(0.999)},
        {"avg_fn": get_ema_avg_fn(0.999)},
        {"avg_fn": get_ema_avg_fn(0.7)},
    ],
)
def test_averaged_models_keep_the_names(averaging):
    module = encoders(*NAMES)
    averaged = AveragedModel(module, use_buffers=True, **averaging)
    for _ in range(30):
        averaged.update_parameters(module)
    encoders(*NAMES).load_state_dict(averaged.module.state_dict())
    AveragedModel(encoders(*NAMES), use_buffers=True).load_state_dict(averaged.state_dict())


def test_memory_without_values_is_filled_with_the_names_before_it_is_saved():
    with torch.device("meta"):
        module = encoders("x", "y")
    assert module.state_dict()["modality_names"].is_meta
    encoders("y", "x").load_state_dict(module.state_dict(), assign=True)  # shapes alone
    module = module.to_empty(device="cpu")
    module.modality_names.zero_()
    assert decode_text(module.state_dict()["modality_names"]) == ["x", "y"]


def test_copies_functional_calls_and_ensembles_work_with_the_names():
    models = [encoders("x", "y") for _ in range(3)]
    features = {"x": torch.ones(4, 3), "y": torch.ones(4, 3)}
    state = dict(models[0].state_dict())
    z = torch.func.functional_call(models[1], state, (features,))
    assert torch.equal(z, models[0](features))
    parameters, buffers = torch.func.stack_module_state(models)
    stacked = torch.func.vmap(
        lambda p, b: torch.func.functional_call(models[0], (p, b), (features,))
    )(parameters, buffers)
    assert torch.equal(stacked[2], models[2](features))
    assert torch.equal(copy.deepcopy(models[1])(features), models[1](features))


def test_the_names_of_modalities_are_printed():
    text = repr(ModalityEncoders.linear({"text": 3, "a.b": 2}, 2))
    assert "modalities=('text', 'a.b'), skip_missing=False" in text


@needs_torch("2.8", "sharding on a CPU")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_distributed_modules_train_and_save_the_names(tmp_path):
    """One process suffices for wrappers, broadcasts of buffers and gathered states."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(encoders("x", "y"))
        x = normal(seeded(0), 4, 3, dtype=torch.float32)
        parallel({"x": x, "y": x}).sum().backward()
        state = get_model_state_dict(parallel)
        assert decode_text(state["modality_names"]) == ["x", "y"]
        set_model_state_dict(encoders("x", "y"), state)
        with pytest.raises(RuntimeError, match="the loaded state has the modalities"):
            set_model_state_dict(encoders("y", "x"), state)
        sharded = encoders("x", "y")
        torch.distributed.fsdp.fully_shard(sharded, mesh=_mesh())
        sharded({"x": x, "y": x}).sum().backward()
        state = get_model_state_dict(sharded)
        assert decode_text(state["modality_names"]) == ["x", "y"]
        set_model_state_dict(sharded, state)
    finally:
        dist.destroy_process_group()


def _mesh():
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (1,))
