// worker_threads without a library: messages that are cloned or transferred, or shared memory with Atomics.wait and notify.

import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { answer, double, inOrder, inTurn, shared, threadId } from './asking.js';

// Words of the shared state: the number of the turn that is asked for, the number of the turn that is done, what is asked.
const ASKED = 0;
const DONE = 1;
const WHAT = 2;
// A number that is asked for, if it is not the values.
const VALUES = -1;

if (isMainThread) {
  await answer((how, workers) => (how === 'shared' ? openShared(workers) : openMessages(how, workers)));
} else if (workerData === 'messages') {
  parentPort.on('message', ({ values, number, transfer }) => {
    if (values === undefined) {
      parentPort.postMessage(number === undefined ? threadId() : number + 1);
    } else {
      double(values);
      parentPort.postMessage(values, transfer ? [values.buffer] : []);
    }
  });
} else {
  serve(workerData);
}

function openMessages(how, count) {
  if (how !== 'clone' && how !== 'transfer') {
    throw new Error(`no way to hand over: ${how}`);
  }
  const transfer = how === 'transfer';
  const workers = Array.from({ length: count }, () => new Worker(new URL(import.meta.url), { workerData: 'messages' }));
  const channels = workers.map((worker) => {
    worker.on('error', (error) => {
      throw error;
    });
    return inOrder(
      (message, transferred) => worker.postMessage(message, transferred),
      (reply) => worker.on('message', reply),
    );
  });
  const send = inTurn(channels);
  return {
    threads: () => Promise.all(channels.map((channel) => channel({}))),
    numbers: (len) => new Float64Array(len),
    double: (values) => send({ values, transfer }, transfer ? [values.buffer] : []),
    add: (number) => send({ number }),
    close: () => Promise.all(workers.map((worker) => worker.terminate())),
  };
}

// The values are shared once; a turn is two words and two wake-ups. There is one worker, and one turn at a time.
async function openShared(count) {
  if (count !== 1) {
    throw new Error('there is one turn at a time');
  }
  const words = new Int32Array(new SharedArrayBuffer(16));
  const worker = new Worker(new URL(import.meta.url), { workerData: words });
  const messages = inOrder(
    (message) => worker.postMessage(message),
    (reply) => worker.on('message', reply),
  );
  const thread = await messages(null);
  const turn = (what) => {
    const asked = words[ASKED] + 1;
    words[WHAT] = what;
    Atomics.store(words, ASKED, asked);
    Atomics.notify(words, ASKED);
    for (let done; (done = Atomics.load(words, DONE)) !== asked; ) {
      Atomics.wait(words, DONE, done);
    }
    return words[WHAT];
  };
  let isServing = false;
  // From here on the worker sleeps in Atomics.wait and reads no more messages.
  const start = (values) => {
    if (!isServing) {
      worker.postMessage(values);
      isServing = true;
    }
  };
  return {
    threads: () => [thread],
    numbers: (len) => shared(len),
    double: (values) => {
      start(values);
      turn(VALUES);
      return values;
    },
    add: (number) => {
      start(null);
      return turn(number);
    },
    close: () => worker.terminate(),
  };
}

function serve(words) {
  parentPort.once('message', () => {
    parentPort.postMessage(threadId());
    parentPort.once('message', (values) => {
      for (let asked = 1; ; asked += 1) {
        while (Atomics.load(words, ASKED) !== asked) {
          Atomics.wait(words, ASKED, asked - 1);
        }
        if (words[WHAT] === VALUES) {
          double(values);
        } else {
          words[WHAT] += 1;
        }
        Atomics.store(words, DONE, asked);
        Atomics.notify(words, DONE);
      }
    });
  });
}
