import time

import pytest

from impasto.data.threads import in_order
from impasto.limits import cores


def test_results_come_in_order_whichever_is_ready_first():
    def slow_at_first(number):
        time.sleep(0.02 / (1 + number))
        return number

    assert list(in_order(slow_at_first, range(40), "Counting")) == list(range(40))


def test_no_more_is_worked_ahead_than_a_few_for_each_thread():
    started = []
    results = in_order(lambda number: started.append(number), range(10_000), "Counting")
    next(results)
    time.sleep(0.05)
    assert len(started) <= 4 * cores() + 1


def test_an_error_ends_it_and_what_waits_is_not_begun():
    started = []

    def fail(number):
        started.append(number)
        time.sleep(0.005)
        raise ValueError(number)

    with pytest.raises(ValueError, match="^0$"):
        list(in_order(fail, range(10_000), "Counting"))
    assert len(started) <= 4 * cores() + 1
