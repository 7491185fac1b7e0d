import pytest

from impasto import machine
from impasto.errors import UserError

OPTIONS = {"devices": "auto", "num_nodes": 1, "accelerator": "cpu", "precision": "auto"}


def test_torchrun_places_the_processes(monkeypatch):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": "3",
        "GROUP_WORLD_SIZE": "2",
        "RANK": "0",
        "GROUP_RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "6",
    }.items():
        monkeypatch.setenv(name, value)
    assert machine.placement(OPTIONS) == (3, 2, None)


def test_srun_places_the_processes(monkeypatch):
    for name, value in {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    devices, nodes, environment = machine.placement(OPTIONS)
    assert (devices, nodes) == (4, 2)
    assert not environment.auto_requeue


def test_otherwise_the_configuration_does():
    assert machine.placement({**OPTIONS, "devices": 2}) == (2, 1, None)


@pytest.mark.parametrize(("devices", "expected"), [(2, 2), ([1, 3, 5], 3), ("auto", 1), (-1, 1)])
def test_devices_are_counted(devices, expected):
    assert machine.count_devices(devices, "cpu") == expected


@pytest.mark.parametrize(("capable", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_is_what_the_processor_multiplies(monkeypatch, caplog, capable, expected):
    monkeypatch.setattr(machine.torch.cpu, "_is_avx512_bf16_supported", lambda: capable)
    monkeypatch.setattr(machine.torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert machine.choose_precision(OPTIONS) == expected
    assert ("twice as long" in caplog.text) != capable
    assert machine.choose_precision({**OPTIONS, "precision": "16-mixed"}) == "16-mixed"


def test_compilation_is_for_long_runs_on_gpus(monkeypatch, caplog):
    def worth(choice, images):
        return machine.worth_compiling({"accelerator": "auto", "compile": choice}, images)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "somewhere")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/g++")
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    assert worth("auto", 160_000)
    assert not worth("auto", 3_000)
    assert not machine.worth_compiling({"accelerator": "cpu", "compile": "auto"}, 160_000)
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    assert not worth("auto", 160_000)
    assert worth(True, 1)
    assert not worth(False, 160_000)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert not worth(True, 160_000)
    assert "no C++ compiler" in caplog.text
    with pytest.raises(UserError, match="auto, true or false"):
        worth("maybe", 1)
