import re

import pytest

from impasto import machine
from impasto.errors import UserError

from . import ranks

OPTIONS = {"devices": "auto", "accelerator": "cpu", "precision": "auto"}


def test_torchrun_places_the_processes(environment):
    environment(ranks.torchrun(2, 3), GROUP_WORLD_SIZE="2")
    assert machine.placement(OPTIONS) == (3, 2, None)


def test_srun_places_the_processes(environment, monkeypatch):
    environment(ranks.srun(5, 8), SLURM_NNODES="2", SLURM_NTASKS_PER_NODE="8")  # the job's, of which this is a step
    devices, nodes, plugin = machine.placement(OPTIONS)
    assert (devices, nodes) == (4, 2)
    assert not plugin.auto_requeue
    plugin.validate_settings(4, 2)


def test_tasks_that_fill_nodes_unevenly_are_refused(environment):
    environment(ranks.srun(0, 5), SLURM_NNODES="2")
    with pytest.raises(UserError, match="5 tasks on 2 nodes: --ntasks-per-node"):
        machine.placement(OPTIONS)


def test_steps_and_jobs_on_one_node_meet_at_ports_of_their_own(environment, monkeypatch):
    ports = set()
    for job, step in (("4711", "0"), ("4711", "1"), ("4712", "0"), ("14711", "0")):
        monkeypatch.delenv("MASTER_PORT", raising=False)
        environment(ranks.srun(0, 2), SLURM_JOB_ID=job, SLURM_STEP_ID=step)
        ports.add(machine.placement(OPTIONS)[2].main_port)
    assert len(ports) == 4
    assert all(1024 < port < 32768 for port in ports)
    environment(ranks.srun(0, 2), MASTER_PORT="1234")
    assert machine.placement(OPTIONS)[2].main_port == 1234  # as the user says


def test_a_batch_script_without_srun_is_told(environment, monkeypatch, caplog):
    environment(ranks.srun(0, 2))
    machine.placement(OPTIONS)
    assert not caplog.text
    monkeypatch.delenv("SLURM_STEP_ID")
    machine.placement(OPTIONS)
    assert "not one of its 2 tasks: srun python train.py starts them" in caplog.text


@pytest.mark.parametrize(("devices", "said"), [("auto", False), (2, False), ([1, 3], False), (4, True), ([0], True)])
def test_devices_that_contradict_the_launcher_get_a_word(environment, caplog, devices, said):
    environment(ranks.torchrun(0, 2))
    assert machine.placement({**OPTIONS, "devices": devices})[:2] == (2, 1)
    assert ("has no say: torchrun started 2 processes on each of 1 nodes" in caplog.text) == said


@pytest.mark.parametrize("job", [{}, ranks.srun(0, 1), {**ranks.srun(0, 4), "SLURM_STEP_NUM_TASKS": "1"}])
def test_otherwise_the_configuration_does(environment, job):
    """Also in a job of Slurm's with one task, whose requeuing Lightning would take over, and in a shell in one."""
    environment(job)
    devices, nodes, plugin = machine.placement({**OPTIONS, "devices": 2})
    assert (devices, nodes, type(plugin).__name__) == (2, 1, "LightningEnvironment")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, "cuda"), ({"devices": 2}, "cuda"), ({"devices": [3, 1]}, "cuda:3"), ({"accelerator": "cpu"}, "cpu")],
)
def test_memory_is_measured_where_the_run_will_be(monkeypatch, changes, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert machine.first_device({"devices": "auto", "accelerator": "auto", **changes}) == expected


@pytest.mark.parametrize(
    ("accelerator", "present", "expected"),
    [
        ("auto", "", "cpu"),
        ("auto", "mps", "mps"),
        ("gpu", "mps", "mps"),
        ("cpu", "mps", "cpu"),
        ("auto", "cuda", "cuda"),
    ],
)
def test_training_runs_where_lightning_takes_it(monkeypatch, accelerator, present, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: present == "cuda")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: present == "mps")
    machine.check_accelerator(accelerator)
    assert machine.device_type({"accelerator": accelerator}) == expected


@pytest.mark.parametrize(("accelerator", "present"), [("gpu", ""), ("cuda", "mps"), ("mps", "cuda")])
def test_an_absent_accelerator_is_named(monkeypatch, accelerator, present):
    monkeypatch.setattr("torch.cuda.is_available", lambda: present == "cuda")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: present == "mps")
    with pytest.raises(UserError, match=f"trainer.accelerator={accelerator} .*torch sees none"):
        machine.check_accelerator(accelerator)


@pytest.mark.parametrize(("devices", "expected"), [(2, 2), ([1, 3, 5], 3), ("auto", 1), (-1, 1)])
def test_devices_are_counted(devices, expected):
    assert machine.count_devices(devices, "cpu") == expected


@pytest.mark.parametrize("devices", [0, -2, 1.0, True, None, "two", [], ["a"], [0, 0], [-1], [True]])
def test_what_are_no_devices_is_a_mistake(devices):
    with pytest.raises(UserError, match=rf"trainer.devices={re.escape(str(devices))} should be a number from 1 on"):
        machine.check_devices({"devices": devices, "accelerator": "cpu"})


def test_all_there_are_is_one_processor(environment):
    environment({})
    assert machine.placement({**OPTIONS, "devices": -1})[:2] == (1, 1)
    assert machine.placement({**OPTIONS, "devices": 3})[:2] == (3, 1)


def test_devices_that_are_not_there_are_told(monkeypatch):
    with pytest.raises(UserError, match=r"trainer.devices=\[0\] are numbers of CUDA's GPUs, and this run is on cpu"):
        machine.check_devices({"devices": [0], "accelerator": "cpu"})
    machine.check_devices({"devices": 64, "accelerator": "cpu"})  # processes
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for devices in (1, 2, [1], [1, 0], "auto", -1):
        machine.check_devices({"devices": devices, "accelerator": "auto"})
    for devices, asked in ((3, 3), ([0, 7], 8)):
        with pytest.raises(UserError, match=f"asks for {asked} GPUs, of which torch sees 2$"):
            machine.check_devices({"devices": devices, "accelerator": "auto"})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")  # which says how many itself
    machine.check_devices({"devices": 3, "accelerator": "auto"})


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
