// What is asked of every rival of Node.js: the question of the command line, its turns, the check of every result, the answer.
//
//     node <script> <how> <warm-up in ms> hand_over <numbers> <turns>
//     node <script> <how> <warm-up in ms> round_trip <trips> <own work in us before each>
//     node <script> <how> <warm-up in ms> tiny_jobs <jobs> <workers> <unread jobs at most>
//
// Who asks puts threads on cores: {"threads": {"caller": [ids], "workers": [ids]}} is printed, and a line of input ends the wait.
// The last line is {"value": a figure} or {"skipped": a reason}.

import { readFileSync, readSync, readlinkSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';

// The id by which the system knows the calling thread.
export function threadId() {
  return Number(readlinkSync('/proc/thread-self').split('/').at(-1));
}

// y[i] = 2 y[i] + 1, in place.
export function double(values) {
  for (let at = 0; at < values.length; at += 1) {
    values[at] = 2 * values[at] + 1;
  }
}

// Numbers that several threads see.
export function shared(len) {
  return new Float64Array(new SharedArrayBuffer(len * Float64Array.BYTES_PER_ELEMENT));
}

// A package in the version of package.json.
export async function pinned(name) {
  const local = createRequire(import.meta.url);
  const wanted = local('./package.json').dependencies[name];
  let found;
  try {
    found = JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
  } catch {
    skip('npm packages are missing: run npm ci in benches/compare/node');
  }
  if (found !== wanted) {
    skip(`${name} is ${found}, not ${wanted}: run npm ci in benches/compare/node`);
  }
  return import(name);
}

function print(line) {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

export function skip(reason) {
  print({ skipped: reason });
  process.exit(0);
}

function check(condition, what) {
  if (!condition) {
    throw new Error(`wrong result: ${what}`);
  }
}

// Asks the rival that `open(how, workers)` sets up. A rival has
// - threads(): the ids of its workers' threads;
// - numbers(len): numbers of the kind that it hands over;
// - double(values): has them doubled, plus one, and gives what came back;
// - add(number): has one added;
// - close().
// Each may give a promise.
export async function answer(open) {
  const [how, warmUp, question, ...rest] = process.argv.slice(2);
  const ask = { hand_over: handOver, round_trip: roundTrip, tiny_jobs: tinyJobs }[question];
  const numbers = [warmUp, ...rest].map(Number);
  if (!ask || numbers.some((number) => !Number.isSafeInteger(number) || number < 0)) {
    throw new Error(`no question: ${process.argv.slice(2).join(' ')}`);
  }
  const rival = await open(how, question === 'tiny_jobs' ? numbers[2] : 1);
  const value = await ask(rival, ...numbers);
  await rival.close();
  print({ value });
  process.exit(0);
}

async function place(rival) {
  print({ threads: { caller: [threadId()], workers: await rival.threads() } });
  check(readSync(0, Buffer.alloc(64)) > 0, 'nobody placed the threads');
}

// Until the compiler has seen the code often enough: at least twice, and for so many milliseconds.
async function warmed(milliseconds, turn) {
  const end = performance.now() + milliseconds;
  for (let turns = 0; turns < 2 || performance.now() < end; turns += 1) {
    await turn();
  }
}

// Microseconds that each turn takes, after two that are not counted.
async function handOver(rival, warmUp, len, turns) {
  await place(rival);
  let values = await rival.numbers(len);
  const turn = async () => {
    values = await rival.double(values);
  };
  await warmed(warmUp, turn);
  values.fill(0);
  await turn();
  await turn();
  const start = process.hrtime.bigint();
  for (let at = 0; at < turns; at += 1) {
    values = await rival.double(values);
  }
  const nanoseconds = Number(process.hrtime.bigint() - start);
  let expected = 0;
  for (let at = 0; at < turns + 2; at += 1) {
    expected = 2 * expected + 1;
  }
  check(values.length === len && values.every((value) => value === expected), `${values[0]} for ${expected}`);
  return nanoseconds / 1e3 / turns;
}

// Nanoseconds from question to answer: the mean of trips that follow each other, or the median of those after work of one's own.
async function roundTrip(rival, warmUp, trips, work) {
  await place(rival);
  let number = 0;
  const turn = async () => {
    const result = await rival.add(number);
    number += 1;
    check(result === number, `${result} for ${number}`);
  };
  await warmed(warmUp, turn);
  if (work === 0) {
    const start = process.hrtime.bigint();
    for (let at = 0; at < trips; at += 1) {
      await turn();
    }
    return Number(process.hrtime.bigint() - start) / trips;
  }
  const samples = [];
  for (let at = 0; at < trips; at += 1) {
    const end = process.hrtime.bigint() + BigInt(work * 1000);
    while (process.hrtime.bigint() < end);
    const start = process.hrtime.bigint();
    await turn();
    samples.push(Number(process.hrtime.bigint() - start));
  }
  samples.sort((one, other) => one - other);
  return (samples[Math.floor((trips - 1) / 2)] + samples[Math.floor(trips / 2)]) / 2;
}

// Millions of jobs a second, each with a promise of its own, the oldest read first.
async function tinyJobs(rival, warmUp, jobs, workers, unread) {
  const run = async (count) => {
    const open = new Array(unread).fill(null);
    let sum = 0;
    for (let number = 0; number < count; number += 1) {
      const at = number % unread;
      if (open[at] !== null) {
        sum += await open[at];
      }
      open[at] = rival.add(number);
    }
    for (const result of open) {
      sum += (await result) ?? 0;
    }
    check(sum === (count * (count + 1)) / 2, `the results of ${count} jobs add up to ${sum}`);
  };
  await warmed(warmUp, () => run(Math.min(jobs, 2 * unread)));
  const start = process.hrtime.bigint();
  await run(jobs);
  return (jobs * 1e3) / Number(process.hrtime.bigint() - start);
}

// A promise for each message of a channel that keeps them in order.
export function inOrder(send, onReply) {
  const waiting = [];
  let first = 0;
  onReply((reply) => {
    waiting[first](reply);
    waiting[first] = undefined;
    first += 1;
    if (first === waiting.length) {
      waiting.length = 0;
      first = 0;
    }
  });
  return (message, transferred) =>
    new Promise((resolve) => {
      waiting.push(resolve);
      send(message, transferred);
    });
}

// The channels in turn.
export function inTurn(channels) {
  let next = 0;
  return (message, transferred) => {
    const channel = channels[next];
    next = (next + 1) % channels.length;
    return channel(message, transferred);
  };
}
