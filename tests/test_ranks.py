import pytest

from impasto import ranks as module

from . import ranks


@pytest.mark.parametrize(
    ("variables", "starter", "rank"),
    [
        (ranks.torchrun(2, 3), "torchrun", 2),
        (ranks.srun(5, 8), "srun", 5),
        ({**ranks.srun(5, 8), **ranks.torchrun(2, 3)}, "torchrun", 2),  # which each task of srun's may start
        (ranks.srun(0, 1), None, 0),
        ({**ranks.srun(0, 4), "SLURM_STEP_NUM_TASKS": "1"}, None, 0),  # a shell in a job
        ({}, None, 0),
    ],
)
def test_a_process_knows_who_started_it_and_which_it_is(environment, variables, starter, rank):
    environment(variables)
    assert module.started_by() == starter
    assert module.rank() == rank


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (ranks.srun(0, 4), 3),  # of 12 cores
        ({**ranks.srun(0, 4), "SLURM_CPUS_PER_TASK": "5"}, 5),
        ({**ranks.srun(0, 4), "OMP_NUM_THREADS": "7"}, None),
        (ranks.srun(0, 32), 1),
        (ranks.torchrun(0, 4), None),  # which has set OMP_NUM_THREADS
        ({}, None),
    ],
)
def test_tasks_on_a_node_share_its_cores(environment, monkeypatch, variables, expected):
    environment(variables)
    threads = []
    monkeypatch.setattr(module, "cores", lambda: 12)
    monkeypatch.setattr(module.torch, "set_num_threads", threads.append)
    module.share_cores()
    assert threads == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 8),  # of 32 cores
        ({**ranks.srun(0, 4), "SLURM_CPUS_PER_TASK": "6"}, 6),
        ({"SLURM_CPUS_PER_TASK": "32"}, 8),  # one task's, which has started the others
        ({**ranks.srun(0, 2), **ranks.torchrun(0, 4), "SLURM_CPUS_PER_TASK": "32"}, 8),
    ],
)
def test_a_rank_knows_its_own_cores(environment, monkeypatch, variables, expected):
    environment(variables)
    monkeypatch.setattr(module, "cores", lambda: 32)
    assert module.cores_of_rank(4) == expected


def test_each_rank_has_a_core(environment, monkeypatch):
    environment({})
    monkeypatch.setattr(module, "cores", lambda: 32)
    assert [module.cores_of_rank(ranks) for ranks in (0, 32, 99)] == [32, 1, 1]
    environment({module.TOGETHER: "4"})  # runs on a GPU each
    assert [module.cores_of_rank(ranks) for ranks in (0, 2, 32)] == [8, 4, 1]
