"""What is asked of every rival of Python: the question of the command line, its turns, the check of every result, the answer.

    python3 <script> <how> <warm-up in ms> hand_over <numbers> <turns>
    python3 <script> <how> <warm-up in ms> round_trip <trips> <own work in us before each>
    python3 <script> <how> <warm-up in ms> tiny_jobs <jobs> <workers> <unread jobs at most>

Who asks puts threads on cores: {"threads": {"caller": [ids], "workers": [ids]}} is printed, and a line of input ends the wait.
The last line is {"value": a figure} or {"skipped": a reason}.

Values are doubled, plus one, by numpy where it can be imported. The standard library has nothing that computes over an array, and
a loop would take a hundred times as long as the hand-over. So without numpy the new value is computed once, from the two ends of
what arrived, and written everywhere: less work than the others do, in favour of Python.
"""

import json
import os
import statistics
import sys
import threading
import time
from array import array

try:
    import numpy
except ImportError:
    numpy = None

FILL = 1 << 13


def numbers(length):
    """Zeros, as users of Python hold them."""
    return array("d", bytes(8 * length)) if numpy is None else numpy.zeros(length)


def double(values):
    """y[i] = 2 y[i] + 1, in place."""
    if numpy is not None:
        numpy.multiply(values, 2.0, out=values)
        numpy.add(values, 1.0, out=values)
        return
    check(values[0] == values[-1], "the ends of the values differ")
    fill(values, 2.0 * values[0] + 1.0)


def fill(values, value):
    """Writes one value everywhere."""
    if numpy is not None:
        values[:] = value
        return
    block = array("d", [value]) * FILL
    # A view of the same memory: a slice of an array itself would be a copy.
    with memoryview(values) as view, memoryview(block) as filled:
        for start in range(0, len(view), FILL):
            part = min(FILL, len(view) - start)
            view[start : start + part] = filled[:part]


def check(condition, what):
    """Unlike an assertion, it cannot be turned off."""
    if not condition:
        raise RuntimeError(f"wrong result: {what}")


def skip(reason):
    """Says why there is no figure."""
    print(json.dumps({"skipped": reason}), flush=True)
    sys.exit(0)


def answer(start):
    """Asks the rival that `start(how, workers, length)` gives as a context manager. A rival has

    - threads(): the ids of its workers' threads, or None if the system places them best;
    - values: what it hands over;
    - double(values): has them doubled, plus one, and gives what came back;
    - add(number): has one added;
    - submit(number): begins to, and gives a function that waits for the result.
    """
    how, warm_up, question, *rest = sys.argv[1:]
    ask = {"hand_over": hand_over, "round_trip": round_trip, "tiny_jobs": tiny_jobs}[question]
    amounts = [int(amount) for amount in rest]
    workers = amounts[1] if question == "tiny_jobs" else 1
    length = amounts[0] if question == "hand_over" else 1
    with start(how, workers, length) as rival:
        value = ask(rival, int(warm_up) / 1e3, *amounts)
    print(json.dumps({"value": value}), flush=True)


def place(rival):
    """Has the threads put on cores."""
    workers = rival.threads()
    if workers is None:
        return
    caller = [thread.native_id for thread in threading.enumerate()]
    print(json.dumps({"threads": {"caller": caller, "workers": workers}}), flush=True)
    check(sys.stdin.readline(), "nobody placed the threads")


def warmed(seconds, turn):
    """At least twice, and for so many seconds."""
    end = time.perf_counter() + seconds
    turns = 0
    while turns < 2 or time.perf_counter() < end:
        turn()
        turns += 1
        # Numbers stay below the largest.
        if turns % 1000 == 0:
            yield


def hand_over(rival, warm_up, length, turns):
    """Microseconds that each turn takes, after two that are not counted."""
    place(rival)
    values = rival.values

    def turn():
        nonlocal values
        values = rival.double(values)

    for _ in warmed(warm_up, turn):
        fill(values, 0.0)
    fill(values, 0.0)
    turn()
    turn()
    start = time.perf_counter_ns()
    for _ in range(turns):
        turn()
    nanoseconds = time.perf_counter_ns() - start
    expected = 0.0
    for _ in range(turns + 2):
        expected = 2.0 * expected + 1.0
    check(len(values) == length, f"{len(values)} values for {length}")
    if numpy is not None:
        check(bool((values == expected).all()), f"{values[0]} for {expected}")
    else:
        wanted = array("d", [expected]) * FILL
        with memoryview(values) as view, memoryview(wanted) as filled:
            for begin in range(0, length, FILL):
                part = min(FILL, length - begin)
                # Compared as bytes, which is many times faster than as numbers.
                same = view[begin : begin + part].tobytes() == filled[:part].tobytes()
                check(same, f"{values[begin]} for {expected}")
    return nanoseconds / 1e3 / turns


def round_trip(rival, warm_up, trips, work):
    """Nanoseconds from question to answer: the mean of trips that follow each other, or the median of those after own work."""
    place(rival)
    number = 0

    def turn():
        nonlocal number
        result = rival.add(number)
        number += 1
        check(result == number, f"{result} for {number}")

    for _ in warmed(warm_up, turn):
        pass
    if work == 0:
        start = time.perf_counter_ns()
        for _ in range(trips):
            turn()
        return (time.perf_counter_ns() - start) / trips
    samples = []
    for _ in range(trips):
        end = time.perf_counter_ns() + work * 1000
        while time.perf_counter_ns() < end:
            pass
        start = time.perf_counter_ns()
        turn()
        samples.append(time.perf_counter_ns() - start)
    return statistics.median(samples)


def tiny_jobs(rival, warm_up, jobs, _workers, unread):
    """Millions of jobs a second, each with a result of its own, the oldest read first."""

    def run(count):
        waiting = [None] * unread
        total = 0
        for number in range(count):
            at = number % unread
            if waiting[at] is not None:
                total += waiting[at]()
            waiting[at] = rival.submit(number)
        total += sum(wait() for wait in waiting if wait is not None)
        check(total == count * (count + 1) // 2, f"the results of {count} jobs add up to {total}")

    for _ in warmed(warm_up, lambda: run(min(jobs, 2 * unread))):
        pass
    start = time.perf_counter_ns()
    run(jobs)
    return jobs * 1e3 / (time.perf_counter_ns() - start)


def thread_id():
    """The id by which the system knows the calling thread."""
    return threading.get_native_id()


def free_shared_memory():
    """Bytes that shared memory may still take; more than that ends a process without a word."""
    try:
        state = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return state.f_bavail * state.f_frsize
