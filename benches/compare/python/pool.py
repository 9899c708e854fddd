"""multiprocessing.Pool: what is handed over is pickled, and copied through a pipe."""

import multiprocessing
from contextlib import contextmanager

import asking


def double(values):
    asking.double(values)
    return values


def add(number):
    return number + 1


class Rival:
    def __init__(self, pool, length):
        self.pool = pool
        self.values = asking.numbers(length)

    def threads(self):
        # A job goes through threads of the pool in this process, which on one core would wait for each other several times as long.
        return None

    def double(self, values):
        return self.pool.apply(double, (values,))

    def add(self, number):
        return self.pool.apply(add, (number,))

    def submit(self, number):
        return self.pool.apply_async(add, (number,)).get


@contextmanager
def start(how, workers, length):
    if how != "pickle":
        raise ValueError(f"no way to hand over: {how}")
    with multiprocessing.Pool(workers) as pool:
        yield Rival(pool, length)


if __name__ == "__main__":
    asking.answer(start)
