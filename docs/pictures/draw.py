#!/usr/bin/env python3
"""Draws the pictures of the documentation: `python3 docs/pictures/draw.py` writes the SVG files beside it.

Python 3.8 or later, nothing else. The files have colours for light and for dark pages and no font of their own; texts are measured with a
wide font before they are placed, and one that would not fit into its box ends the program.
"""

import html
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
# Name, fill and line on light pages, fill and line on dark ones.
COLOURS = {
    "blue": ("#ddf4ff", "#0969da", "#0c2d4f", "#58a6ff"),
    "green": ("#dafbe1", "#1a7f37", "#0f2f1a", "#3fb950"),
    "orange": ("#fff1e5", "#bc4c00", "#3d2109", "#f0883e"),
    "purple": ("#fbefff", "#8250df", "#271a45", "#a371f7"),
    "grey": ("#f6f8fa", "#8c959f", "#161b22", "#6e7681"),
}
INK, MUTED, PAGE = ("#1f2328", "#e6edf3"), ("#57606a", "#9da7b3"), ("#ffffff", "#0d1117")
SIZES = {"head": 14, "body": 12, "note": 11, "mono": 11.5}


def style(dark):
    """The rules of one of both kinds of page."""
    at = 1 if dark else 0
    rules = [f".page{{fill:{PAGE[at]}}}", f"text{{fill:{INK[at]}}}", f".note{{fill:{MUTED[at]}}}"]
    rules.append(f".line{{stroke:{MUTED[at]};fill:none}}.tip{{fill:{MUTED[at]}}}")
    for name, colours in COLOURS.items():
        rules.append(f".{name}{{fill:{colours[2 * at]};stroke:{colours[2 * at + 1]}}}")
    return "".join(rules)


def width_of(text, kind):
    """About how wide a text is in a wide font."""
    return len(text) * SIZES[kind] * (0.66 if kind == "head" else 0.605 if kind == "mono" else 0.56)


class Picture:
    def __init__(self, name, width, height, title, desc):
        self.name, self.width, self.height, self.title, self.desc = name, width, height, title, desc
        self.parts = []

    def text(self, x, y, text, kind="body", anchor="start", room=None):
        left = x - {"start": 0, "middle": 0.5, "end": 1}[anchor] * width_of(text, kind)
        right = left + width_of(text, kind)
        if left < 0 or right > self.width or (room is not None and right - left > room):
            sys.exit(f"{self.name}: no room for: {text} ({right - left:.0f} of {room})")
        anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}"{anchored}>{html.escape(text)}</text>')

    def box(self, x, y, width, height, colour, head="", lines=(), kind="body", centre=False, dashed=False):
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{colour}"{dash}/>'
        )
        anchor, at = ("middle", x + width / 2) if centre else ("start", x + 10)
        down = y + 20
        if head:
            self.text(at, down, head, "head", anchor, width - 16)
            down += 18
        for line in lines:
            line, of = line if isinstance(line, tuple) else (line, kind)
            if down > y + height - 4:
                sys.exit(f"{self.name}: no room below for: {line}")
            self.text(at, down, line, of, anchor, width - 16)
            down += 16

    def arrow(self, points, label="", at=None, anchor="middle", both=False, dashed=False):
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        start = ' marker-start="url(#tip)"' if both else ""
        self.parts.append(f'<path d="{path}" class="line" marker-end="url(#tip)"{start}{dash}/>')
        if label:
            self.text(*(at or points[0]), label, "note", anchor)

    def write(self):
        sizes = "".join(f".{kind}{{font-size:{size}px}}" for kind, size in SIZES.items())
        svg = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
            ' role="img" aria-labelledby="title desc">',
            f'<title id="title">{html.escape(self.title)}</title>',
            f'<desc id="desc">{html.escape(self.desc)}</desc>',
            "<style>text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
            f".head{{font-weight:600}}.mono{{font-family:ui-monospace,Menlo,Consolas,monospace}}{sizes}rect,path{{stroke-width:1.3}}"
            f"{style(False)}@media(prefers-color-scheme:dark){{{style(True)}}}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
            '<path d="M0 0L8 4L0 8z" class="tip" stroke="none"/></marker></defs>',
            f'<rect width="{self.width}" height="{self.height}" class="page"/>',
            *self.parts,
            "</svg>",
        ]
        (HERE / f"{self.name}.svg").write_text("\n".join(svg) + "\n", encoding="ascii")


def overview():
    p = Picture(
        "overview", 960, 380, "workring at a glance",
        "A program makes batches in a shared arena and publishes jobs of a few words in a ring of descriptors. Worker threads and worker"
        " processes claim the jobs and read and write the batches where they lie. The batches never travel.",
    )
    p.box(20, 90, 190, 190, "blue", "your program", ["makes batches", "submits a job", "goes on, waits,", "or awaits it", "", "gets the batches", "back, changed"])
    p.box(320, 30, 330, 330, "grey", "shared memory")
    p.box(340, 66, 290, 112, "orange", "ring of jobs", ["a job is a descriptor of 128 bytes:", "kernel, handles of batches, one word", "that says where it stands"])
    for at in range(7):
        colour = "orange" if at not in (2, 3, 4) else "purple"
        p.box(352 + 39 * at, 146, 32, 20, colour)
    p.box(340, 200, 290, 142, "green", "arena of batches", ["8 bytes or 8 GiB: they stay where", "they are made, or mapped from files"])
    p.box(354, 264, 150, 30, "grey", "", ["x: 1,000,000 f64"])
    p.box(354, 302, 262, 30, "grey", "", ["y: mapped from a file"])
    p.box(750, 60, 190, 120, "purple", "worker threads", ["of your program: claim,", "run, look again, sleep", "", "closures run here, too"])
    p.box(750, 216, 190, 128, "purple", "worker processes", ["on Linux: a crash ends", "one worker, and it is", "replaced; or processes", "that others started"])
    p.arrow([(210, 130), (336, 130)], "a few words", (273, 122))
    p.arrow([(210, 250), (336, 250)], "allocate, fill", (271, 242))
    p.arrow([(630, 100), (746, 100)], "claim", (695, 92))
    p.arrow([(630, 152), (690, 152), (690, 250), (746, 250)])
    p.arrow([(746, 308), (634, 308)], "read and write", (697, 326), both=True)
    p.text(697, 341, "in place", "note", "middle")
    p.arrow([(746, 134), (640, 134), (634, 134)], "done", (695, 128))
    p.write()


def job_life():
    p = Picture(
        "job_life", 1000, 576, "The life of a job and its owners",
        "Five states of a descriptor, free, reserved, queued, running, done and free again, the calls that lead from one to the next, and for"
        " each state who owns the job, who may touch its fields and where its batches are.",
    )
    names = ["Free", "Reserved", "Queued", "Running", "Done"]
    colours = ["grey", "blue", "orange", "purple", "green"]
    left = [120 + 176 * at for at in range(5)]
    for x, name, colour in zip(left, names, colours):
        p.box(x, 120, 108, 44, colour)
        p.text(x + 54, 147, name, "head", "middle")
    for at, call in enumerate(["reserve", "publish", "claim", "finish"]):
        p.arrow([(left[at] + 108, 142), (left[at + 1] - 3, 142)], call, (left[at] + 142, 134))
    p.arrow([(left[4] + 54, 120), (left[4] + 54, 28), (left[0] + 54, 28), (left[0] + 54, 117)],
            "retire: the holder has read the result; of a detached job its finisher, or the supervisor, does so", (520, 22))
    p.arrow([(left[2] + 54, 120), (left[2] + 54, 66), (left[4] + 28, 66), (left[4] + 28, 117)],
            "request_cancel, take_back: it never runs", (left[3] + 44, 60))
    p.arrow([(left[1] + 54, 120), (left[1] + 54, 66), (left[0] + 84, 66), (left[0] + 84, 117)], "abandon", (left[1] - 20, 60))
    p.arrow([(left[3] + 54, 164), (left[3] + 54, 194), (left[2] + 54, 194), (left[2] + 54, 167)],
            "requeue: its worker is dead,", (left[3] - 34, 208))
    p.text(left[3] - 34, 222, "the supervisor starts it again", "note", "middle")
    rows = [
        ("owner", [
            ["nobody; its index", "is in the free list"],
            ["the thread that", "submits"],
            ["nobody", ""],
            ["the claimer: a", "worker, or a thread", "that waits for it"],
            ["the holder of the", "handle; of a detached", "job the finisher"],
        ]),
        ("fields", [
            ["nobody touches", "them"],
            ["the owner fills", "them in"],
            ["nobody touches", "them"],
            ["the claimer reads", "each once, writes", "status and text"],
            ["the holder reads", "status and text"],
        ]),
        ("word", [
            ["reserve, by a store"],
            ["publish, abandon,", "by a store"],
            ["claim, cancel, flags", "by compare-and-", "swap"],
            ["finish, requeue,", "cancel, flags by", "compare-and-swap"],
            ["retire, by a store"],
        ]),
        ("private half", [
            ["empty, but for a", "reference to the", "engine"],
            ["the owner puts the", "closure there"],
            ["the holder may put", "a waker, or leave", "the batches"],
            ["the claimer runs the", "closure; the holder", "as while queued"],
            ["the holder takes the", "result out; the", "finisher the waker"],
        ]),
        ("batches", [
            ["none"],
            ["with the caller"],
            ["in the handle; no", "safe code can reach", "them"],
            ["the kernel reads", "and writes them in", "the arena"],
            ["in the handle, which", "hands them back"],
        ]),
    ]
    y = 240
    for name, cells in rows:
        p.text(8, y + 22, name, "head")
        for x, colour, lines in zip(left, colours, cells):
            p.box(x - 8, y, 168, 61, colour, "", [(line, "note") for line in lines if line])
        y += 66
    p.write()


def memory_map():
    p = Picture(
        "memory_map", 1000, 690, "The memory map: what is shared, what is private",
        "The control segment with its tables, the arena with its blocks, mapped files and shared segments lie in memory that several"
        " processes map; closures, wakers, the allocator and the free list lie in private memory of the process that built the engine.",
    )
    p.box(20, 20, 300, 484, "orange", "control segment", [("one memfd, sealed; private memory in an", "note"), ("engine of threads alone", "note")])
    bands = [
        ("header", "4096 B", "sizes, version, hash"),
        ("participants", "128 B each", "row 0: the host; workers"),
        ("engine line, idle line", "64 B each", "who is awake"),
        ("rings: high, normal, low", "2 D cells of 8 B", "hints: where jobs are"),
        ("descriptors", "D of 128 B", "one word decides all"),
        ("arguments", "D of 192 B", "batches 3 to 12, lengths"),
        ("job metas", "D of 64 B", "times, tag, progress"),
        ("failure texts", "D of 512 B", "message, location"),
        ("completion ports", "64 of 64 B + D bits", "what is done"),
        ("redelivery bitmap", "D bits", "whose worker died"),
        ("timings", "5248 B each", "histograms"),
    ]
    y = 80
    for name, size, what in bands:
        p.box(30, y, 280, 34, "grey")
        p.text(38, y + 15, name, "body")
        p.text(302, y + 15, size, "note", "end")
        p.text(38, y + 29, what, "note")
        y += 38
    p.box(350, 20, 300, 250, "green", "arena", [("anonymous memory with large pages, or", "note"), ("a memfd where there are processes", "note")])
    for at, (name, what) in enumerate([
        ("batches", "typed, one owner each, multiples of 64 B"),
        ("fan-out blocks", "a header, a range line for each partition"),
        ("status blocks, large parameters", "what jobs of rows keep"),
        ("tables of files and shared arrays", "generation and length, at the end"),
    ]):
        p.box(360, 80 + 45 * at, 280, 41, "grey")
        p.text(368, 80 + 45 * at + 17, name, "body")
        p.text(368, 80 + 45 * at + 33, what, "note")
    p.box(350, 284, 300, 220, "blue", "segments of their own")
    for at, (name, what) in enumerate([
        ("mapped files", "up to 1024; .npy or raw, in place"),
        ("shared arrays", "memfd: elements, sequence words"),
        ("channels between two processes", "memfd: two lanes, loans, doorbells"),
        ("tables of kernels", "memfd: what a worker process is to know"),
    ]):
        p.box(360, 318 + 45 * at, 280, 41, "grey")
        p.text(368, 318 + 45 * at + 17, name, "body")
        p.text(368, 318 + 45 * at + 33, what, "note")
    p.box(680, 20, 300, 270, "purple", "private: the host process", [
        ("what no worker can scribble on", "note"),
        "free list of descriptors",
        "private halves of descriptors: closures,",
        "results, wakers, what detached jobs hold",
        "allocator of the arena",
        "rings of closures (beside processes)",
        "announcements: who is at which job",
        "lifecycle, health, thread slots",
        "ports taken, kernels by name",
        "supervisor: worker slots, kill schedule",
        "batches lent to other processes",
    ])
    p.box(680, 304, 300, 200, "purple", "private: a worker process", [
        "its own Core: rows, incarnation",
        "table of kernels by number",
        "mappings of files met so far",
        "worker locals: scratch, state",
        "a second mapping of the arena, for inputs",
        "its end of the socket to the engine",
        "no allocator, no free list, no private",
        "halves: it submits nothing",
    ])
    p.box(20, 520, 960, 150, "grey", "who maps what")
    columns = [34, 250, 430, 610, 790]
    table = [
        ("", "control segment", "arena", "mapped files", "shared segments"),
        ("host process", "read, write", "read, write", "as each was opened", "read, write"),
        ("worker process: outputs", "read, write", "read, write", "read, write", "read, write"),
        ("worker process: inputs", "", "read only, once more", "read only", ""),
        ("process of a Worker", "not at all", "if it was lent batches", "those it was lent", "its channel"),
    ]
    for at, row in enumerate(table):
        for x, cell in zip(columns, row):
            if cell:
                p.text(x, 560 + 22 * at, cell, "note" if at == 0 else "body", room=215 if x == 34 else 178)
    p.write()


def threads_and_processes():
    p = Picture(
        "threads_and_processes", 1000, 690, "Threads and processes, and what they call each other by",
        "The host process has the user's threads, worker threads, a supervisor for worker processes and one for processes of workers with"
        " channels. Child and external worker processes are reached by sockets and process descriptors; sleepers by futexes in shared memory.",
    )
    p.box(20, 20, 960, 182, "blue", "host process: the program that built the engine")
    p.box(36, 52, 180, 134, "grey", "your threads", ["submit, wait, await;", "run what they wait for", "if nobody has begun it", ("any number", "note")])
    p.box(232, 52, 180, 134, "purple", "worker threads", ["take jobs: one each", "started when all are", "busy, end when idle", ("Builder::threads", "note")])
    p.box(428, 52, 180, 134, "orange", "supervisor", ["starts and replaces", "workers, sweeps after", "deaths, keeps deadlines", ("one for each engine", "note"), ("with processes", "note")])
    p.box(624, 52, 180, 134, "orange", "process host", ["starts and ends the", "processes of Workers,", "which run no jobs", ("one for all of them;", "note"), ("poll(2), as beside it", "note")])
    p.box(820, 52, 146, 134, "grey", "helpers", ["waker thread: for", "tasks at doorbells", "wait threads: for", "tasks at elements", "output: prefixes"])
    p.box(60, 276, 270, 146, "purple", "child worker process", ["a copy of this program, or", "another with the same kernels", "a thread for each job at a time", "a watch thread: engine gone", ("memory comes by the socket,", "note"), ("as file descriptors", "note")])
    p.box(360, 276, 270, 146, "purple", "external worker process", ["started by somebody else: attach", "jobs on the thread that serves", "a watch thread: engine gone, stop", "killed only if it allows that", ("same user, in a PID namespace", "note"), ("that the engine sees", "note")])
    p.box(680, 276, 300, 146, "green", "process of a Worker", ["runs one function with a port:", "spawn_process", "no jobs, no control segment", "messages and lent batches", ("ends when its function is over,", "note"), ("or when it is told to", "note")])
    p.arrow([(490, 186), (490, 236), (195, 236), (195, 272)], both=True)
    p.text(205, 256, "socketpair, pidfd", "note")
    p.arrow([(530, 186), (530, 272)], both=True)
    p.text(540, 256, "socket at a path, pidfd", "note")
    p.arrow([(790, 186), (790, 272)], both=True)
    p.text(800, 256, "socketpair, pidfd", "note")
    p.box(20, 480, 610, 124, "orange", "control segment and arena: no calls while somebody is awake", [
        "park word of each worker: futex; called by a submitter, or a worker that found more",
        "wait word of each descriptor: futex; the finisher calls the holder that sleeps",
        "park word of each completion port: futex; the finisher calls who collects",
        "tasks: the waker in the private half, called by the finisher or the supervisor",
        "room in the queue: a private word of the host",
    ])
    p.box(680, 480, 300, 124, "green", "segment of a channel", [
        "a doorbell for each end: futex", "a bit: sleeps for a message", "a bit: sleeps for room", "tasks: through the waker thread",
    ])
    p.arrow([(195, 422), (195, 476)], "claim, finish, sleep, wake", (205, 454), "start", both=True)
    p.arrow([(495, 422), (495, 476)], "the same", (505, 454), "start", both=True)
    p.arrow([(830, 422), (830, 476)], "post, take, call", (840, 454), "start", both=True)
    p.arrow([(40, 186), (40, 476)], both=True)
    p.text(48, 222, "the same", "note")
    p.text(20, 630, "No thread is started before it is needed: an engine of threads alone has its worker threads and nothing else.", "note")
    p.text(20, 648, "No wait relies on a timeout for its correctness; waits for other processes are bounded by a second all the same, and counted.", "note")
    p.text(20, 666, "A child ends with the thread that started it, and what it has started ends with it.", "note")
    p.write()


# The way of `engine.submit(kernel, batches, param)`: the thread, the step, and for each file what it does there.
WAY = [
    ("left", "describe: the thread that submits", [
        ("front/engine/engine.rs", "a call without options"),
        ("front/submit/job_builder.rs", "reserve, fill, hand over"),
        ("front/submit/call_options.rs", "do its options mean something"),
    ]),
    ("left", "reserve", [
        ("engine/schedule/queue.rs", "a place, or a wait for one"),
        ("engine/runtime/core.rs", "is the engine open, and ours"),
        ("engine/runtime/health.rs", "or has it broken off"),
        ("engine/job/table.rs", "a descriptor, its private half"),
        ("lockfree/free_list.rs", "pop an index"),
        ("lockfree/job.rs", "Free to Reserved"),
    ]),
    ("left", "fill", [
        ("front/submit/arguments.rs", "batches to references, once"),
        ("arena/batch.rs", "handle and length of each"),
        ("engine/kernel/info.rs", "how many the kernel takes"),
        ("engine/job/call.rs", "kernel, references, parameter"),
        ("engine/job/meta.rs", "deadline, retries, tag, times"),
    ]),
    ("left", "publish", [
        ("lockfree/job.rs", "Reserved to Queued"),
        ("engine/runtime/rings.rs", "which ring"),
        ("lockfree/ring.rs", "push the index"),
        ("engine/schedule/wakeup.rs", "is anybody awake"),
        ("lockfree/sleep.rs", "if not, choose a sleeper"),
        ("os/futex.rs", "and call it"),
    ]),
    ("left", "hold", [
        ("engine/handle/job_handle.rs", "the job, for its holder"),
        ("engine/runtime/engine_ref.rs", "keeps the engine's memory"),
        ("engine/job/local_slot.rs", "by a reference left here before"),
        ("front/job/job.rs", "the future that the user has"),
        ("front/job/held.rs", "the batches, until it is over"),
    ]),
    ("right", "take: a worker's thread, or one of its process", [
        ("engine/schedule/worker.rs", "take, run, look again, sleep"),
        ("engine/schedule/queue.rs", "first by priority and age"),
        ("lockfree/ring.rs", "the oldest entry"),
        ("engine/runtime/running.rs", "say which job, before the claim"),
        ("lockfree/announcement.rs", "in a word of this thread"),
        ("lockfree/job.rs", "Queued to Running"),
    ]),
    ("right", "run", [
        ("engine/exec/execute.rs", "what kind of job it is"),
        ("engine/job/meta.rs", "time of the start"),
        ("engine/runtime/nesting.rs", "this thread is inside of it"),
        ("engine/job/call.rs", "read each field once, check"),
        ("arena/mod.rs", "handles to addresses"),
        ("engine/exec/runner.rs", "call it, catch a panic"),
        ("engine/kernel/context.rs", "what it may ask"),
        ("engine/kernel/frame.rs", "slices; then the kernel itself"),
    ]),
    ("right", "finish", [
        ("lockfree/job.rs", "Running to Done"),
        ("engine/schedule/completion.rs", "what is owed to whom"),
        ("engine/schedule/drain.rs", "is nothing left to do"),
        ("os/futex.rs", "call the holder if it sleeps"),
    ]),
    ("right", "wait: the thread that has the handle", [
        ("front/job/job.rs", "wait, or poll"),
        ("engine/exec/help.rs", "run it here if it is queued"),
        ("engine/schedule/wait.rs", "spin a little, then sleep"),
        ("engine/schedule/health.rs", "or is the engine broken"),
    ]),
    ("right", "read", [
        ("engine/handle/job_handle.rs", "outcome, lengths"),
        ("front/job/held.rs", "give the batches back"),
        ("lockfree/job.rs", "Done to Free"),
        ("lockfree/free_list.rs", "push the index"),
    ]),
]


def way_of_a_job():
    first = {}
    for _, _, files in WAY:
        for path, _ in files:
            first.setdefault(path, len(first) + 1)
    p = Picture(
        "way_of_a_job", 1000, 700, f"The way of a job: {len(first)} files from submit to the result",
        "The files that one call of engine.submit passes, in order, from the thread that submits through the ring to a worker and back to"
        " the thread that waits, each numbered where it comes first.",
    )
    colours = {"front": "blue", "engine": "purple", "lockfree": "orange", "arena": "green", "os": "grey"}
    down, seen = {"left": 16, "right": 16}, set()
    for side, step, files in WAY:
        x, y = (16 if side == "left" else 508), down[side]
        p.text(x, y + 12, step, "head")
        y += 20
        for path, what in files:
            again = path in seen
            seen.add(path)
            p.box(x, y, 26, 17, colours[path.split("/")[0]], dashed=again)
            p.text(x + 13, y + 13, str(first[path]), "note", "middle")
            p.text(x + 34, y + 13, path, "mono", room=240)
            p.text(x + 268, y + 13, what, "note", room=210)
            y += 19
        down[side] = y + 9
    if max(down.values()) > 656:
        sys.exit(f"way_of_a_job: {down}")
    y = 672
    x = 16
    for name, colour in colours.items():
        count = sum(path.startswith(name + "/") for path in first)
        p.box(x, y, 26, 17, colour)
        p.text(x + 34, y + 13, f"{name}: {count}", "body")
        x += 130
    p.box(x, y, 26, 17, "grey", dashed=True)
    p.text(x + 34, y + 13, "passed before, under that number", "body")
    p.write()


if __name__ == "__main__":
    overview()
    job_life()
    memory_map()
    threads_and_processes()
    way_of_a_job()
