"""multiprocessing.shared_memory: the values lie in memory that both processes see, and a pipe carries the news of a turn."""

import multiprocessing
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory

import asking


def view_of(memory, length):
    """The values of a block, which may be a little longer than what was asked for."""
    part = memory.buf[: 8 * length]
    return part.cast("d") if asking.numpy is None else asking.numpy.frombuffer(part)


def serve(memory, length, pipe, other_end):
    """Answers until the other end is closed, by this process, too, which has a copy of it."""
    other_end.close()
    values = view_of(memory, length)
    pipe.send(asking.thread_id())
    while True:
        try:
            pipe.recv_bytes()
        except EOFError:
            break
        asking.double(values)
        pipe.send_bytes(b"d")
    # Memory can be closed only when nothing shows it any more.
    del values
    memory.close()


class Rival:
    def __init__(self, values, thread, pipe):
        self.values = values
        self.thread = thread
        self.pipe = pipe

    def threads(self):
        return [self.thread]

    def double(self, values):
        self.pipe.send_bytes(b"d")
        self.pipe.recv_bytes()
        return values


@contextmanager
def start(how, workers, length):
    if how != "shared" or workers != 1:
        raise ValueError(f"not {how} with {workers} workers")
    if asking.free_shared_memory() < 8 * length:
        asking.skip("not enough shared memory")
    memory = SharedMemory(create=True, size=8 * length)
    try:
        here, there = multiprocessing.Pipe()
        worker = multiprocessing.Process(target=serve, args=(memory, length, there, here), daemon=True)
        worker.start()
        there.close()
        rival = Rival(view_of(memory, length), here.recv(), here)
        yield rival
        here.close()
        worker.join()
        asking.check(worker.exitcode == 0, f"the worker ended with {worker.exitcode}")
        rival.values = None
        memory.close()
    finally:
        memory.unlink()


if __name__ == "__main__":
    asking.answer(start)
