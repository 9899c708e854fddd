// workerpool: threads, to which values are transferred, and processes, to which they are serialised.

import { fileURLToPath } from 'node:url';
import { answer, pinned } from './asking.js';

await answer(async (how, workers) => {
  if (how !== 'thread' && how !== 'process') {
    throw new Error(`no kind of worker: ${how}`);
  }
  const { default: workerpool } = await pinned('workerpool');
  const pool = workerpool.pool(fileURLToPath(new URL('workerpool_worker.js', import.meta.url)), {
    workerType: how,
    minWorkers: workers,
    maxWorkers: workers,
    // Without it values would go as JSON, which is several times slower and knows no Float64Array.
    forkOpts: { serialization: 'advanced' },
  });
  return {
    // Asked for once: all that is placed are pools of one.
    threads: async () => [await pool.exec('threadId')],
    numbers: (len) => new Float64Array(len),
    double:
      how === 'thread'
        ? (values) => pool.exec('doubleMoved', [values], { transfer: [values.buffer] })
        : (values) => pool.exec('doubleCopied', [values]),
    add: (number) => pool.exec('add', [number]),
    close: () => pool.terminate(),
  };
});
