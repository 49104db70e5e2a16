"""Jobs are held by events, so that the order of what happens is that of the test and not of the clock."""

import asyncio
import threading

import pytest

from bioshare.explorer.worker import Worker

WAIT = 20.0


async def until(condition):
    for _ in range(int(WAIT / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen")


class Held:
    """A job that starts, waits to be released, tells its progress, and gives its name."""

    def __init__(self, name):
        self.name, self.started, self.released = name, threading.Event(), threading.Event()

    def __call__(self, progress):
        self.started.set()
        assert self.released.wait(WAIT)
        progress(1)
        return self.name


@pytest.fixture
def shown():
    return []


def make(shown, **options):
    return Worker(shown.append, lambda error: shown.append(repr(error)), **options)


def test_without_a_loop_a_job_is_done_at_once(shown):
    reported = []
    worker = make(shown, show_progress=reported.append)
    worker.submit(lambda progress: progress(3) or "done")
    assert (shown, reported, worker.busy) == (["done"], [3], False)


def test_without_a_loop_an_error_comes_out_in_fail(shown):
    make(shown).submit(lambda progress: 1 / 0)
    assert shown == ["ZeroDivisionError('division by zero')"]


def test_a_newer_job_cancels_the_one_that_runs_and_takes_the_place_of_one_that_waits(shown):
    async def moves():
        worker, first, second, third = make(shown), Held("first"), Held("second"), Held("third")
        worker.submit(first)
        await asyncio.to_thread(first.started.wait, WAIT)
        worker.submit(second)
        worker.submit(third)
        third.released.set()
        first.released.set()
        await until(lambda: not worker.busy)
        await asyncio.sleep(0)
        assert not second.started.is_set()

    asyncio.run(moves())
    assert shown == ["third"]


def test_what_is_done_within_its_patience_is_shown_although_a_newer_job_waits(shown):
    async def moves():
        worker, first, second = make(shown, patience=1000.0), Held("first"), Held("second")
        worker.submit(first)
        await asyncio.to_thread(first.started.wait, WAIT)
        worker.submit(second)
        second.released.set()
        first.released.set()
        await until(lambda: len(shown) == 2)

    asyncio.run(moves())
    assert shown == ["first", "second"]


def test_nothing_is_shown_of_a_cancelled_job_even_if_it_is_done(shown):
    async def moves():
        worker, done = make(shown, patience=1000.0), threading.Event()
        worker.submit(lambda progress: done.set() or "done")
        done.wait(WAIT)  # the loop has had no turn: the result, if there is one, waits for it
        worker.cancel()
        await until(lambda: not worker.busy)
        worker.submit(lambda progress: "next")
        await until(lambda: shown)

    asyncio.run(moves())
    assert shown == ["next"]


def test_results_and_progress_come_in_the_thread_of_the_loop():
    threads = set()

    async def moves():
        here = lambda value: threads.add(threading.current_thread())
        worker = Worker(here, here, here)
        worker.submit(lambda progress: progress(1))
        await until(lambda: not worker.busy)
        worker.submit(lambda progress: 1 / 0)
        await until(lambda: not worker.busy)
        await asyncio.sleep(0.01)
        assert threads == {threading.current_thread()}

    asyncio.run(moves())


def test_an_error_in_the_background_is_shown_and_the_next_job_runs(shown):
    async def moves():
        worker = make(shown)
        worker.submit(lambda progress: 1 / 0)
        await until(lambda: shown)
        worker.submit(lambda progress: "next")
        await until(lambda: len(shown) == 2)

    asyncio.run(moves())
    assert shown == ["ZeroDivisionError('division by zero')", "next"]


def test_the_error_of_an_outdated_job_is_not_shown(shown):
    async def moves():
        worker, release = make(shown), threading.Event()
        worker.submit(lambda progress: release.wait(WAIT) and 1 / 0)
        worker.submit(lambda progress: "next")
        release.set()
        await until(lambda: shown)
        await until(lambda: not worker.busy)

    asyncio.run(moves())
    assert shown == ["next"]


def test_a_job_is_held_up_while_another_worker_is_busy(shown):
    async def moves():
        answers, maps, held, order = make(shown), make(shown), Held("answer"), []
        answers.submit(held)
        await asyncio.to_thread(held.started.wait, WAIT)
        reported = threading.Event()

        def job(progress):
            answers.before(lambda done: reported.set())(1)
            order.append("map goes on")
            return "map"

        maps.submit(job)
        await asyncio.to_thread(reported.wait, WAIT)
        assert order == []
        held.released.set()
        await until(lambda: len(shown) == 2)

    asyncio.run(moves())
    assert shown == ["answer", "map"]


def test_a_job_that_is_held_up_can_be_cancelled(shown):
    async def moves():
        answers, maps, held, reported = make(shown), make(shown), Held("answer"), threading.Event()
        answers.submit(held)
        await asyncio.to_thread(held.started.wait, WAIT)
        maps.submit(lambda progress: answers.before(lambda done: reported.set() or progress(done))(1) or "map")
        await asyncio.to_thread(reported.wait, WAIT)
        maps.cancel()
        await until(lambda: not maps.busy)
        held.released.set()
        await until(lambda: shown)

    asyncio.run(moves())
    assert shown == ["answer"]


def test_wait_shows_the_last_result_while_the_caller_blocks_the_loop(shown):
    """A cell of a notebook blocks the loop until the end of the cell."""

    async def cell():
        worker, first = make(shown), Held("first")
        worker.submit(first)
        worker.submit(lambda progress: "second")
        first.released.set()
        worker.wait()
        assert shown == ["second"]
        worker.submit(lambda progress: 1 / 0)
        worker.wait()
        assert shown == ["second", "ZeroDivisionError('division by zero')"]
        await asyncio.sleep(0.05)  # the loop's turn: nothing is shown twice
        assert len(shown) == 2

    asyncio.run(cell())


def test_wait_without_jobs_returns(shown):
    make(shown).wait()
    assert shown == []
